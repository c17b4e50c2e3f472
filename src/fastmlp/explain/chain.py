"""The chain rule for one weight: the paths from the loss to it, and the factors along each."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.explain.trace import Turn

__all__ = ["Chain", "Path", "chain", "neuron_name", "weight_name"]

Array = NDArray[Any]

PATHS = 12  # listed by default
SHORT = 40  # letters of a product that has its numbers on the same line


@dataclass(frozen=True)
class Path:
    """One path from the loss back to a weight, on one row.

    Attributes
    ----------
    row : int
    neurons : tuple of int
        Of the weight's own layer first, of the last layer last.
    factors : tuple of (str, float)
        The local derivatives, from the loss to the weight.
    product : float
    """

    row: int
    neurons: tuple[int, ...]
    factors: tuple[tuple[str, float], ...]
    product: float

    @property
    def names(self) -> str:
        """The factors as derivatives."""
        return " · ".join(name for name, _ in self.factors)

    @property
    def numbers(self) -> str:
        """The factors as numbers, and their product."""
        values = " · ".join(_factor(value) for _, value in self.factors)
        return f"{values} = {_number(self.product)}"


@dataclass(frozen=True)
class Chain:
    """The derivative of the total loss by one weight or bias, path by path.

    Attributes
    ----------
    name : str
    derivative : float
        From the engine that trains, in the model's dtype.
    paths : tuple of Path
        The strongest, strongest first.
    n_paths : int
        How many there are, over all rows.
    rest : float
        What the paths not listed add up to.
    in_float64, numerical, relative_error : float
        The same derivative in float64, by differences of the loss in float64, and how far these
        two are apart.
    kink : bool
        Whether the loss has a kink here, so that there is no derivative to compare with.
    """

    name: str
    derivative: float
    paths: tuple[Path, ...]
    n_paths: int
    rest: float
    in_float64: float
    numerical: float
    relative_error: float
    kink: bool

    @property
    def total(self) -> float:
        """The sum over all paths."""
        return sum(path.product for path in self.paths) + self.rest

    def text(self) -> str:
        """Return the chain as lines for a terminal."""
        lines = [f"dL/d{self.name}: {self.n_paths:,} path{'s' * (self.n_paths > 1)}"]
        for path in self.paths:
            lines.append(f"  row {path.row}:  {path.names}")
            if len(path.names) > SHORT:
                lines.append(f"  {'':>{len(str(path.row)) + 4}}   = {path.numbers}")
            else:
                lines[-1] += f" = {path.numbers}"
        left = self.n_paths - len(self.paths)
        if left:
            lines.append(f"  the other {left:,} together: {_number(self.rest)}")
        # What is compared is in float64; where the model is, the engine's number is that one.
        single = self.in_float64 != self.derivative
        rounded = ", both of numbers rounded to float32" if single else ""
        twin = f"in float64 {_number(self.in_float64)}, " if single else ""
        lines.append(
            f"  sum over paths {_number(self.total)}, engine {_number(self.derivative)}{rounded}"
        )
        if self.kink:
            lines.append("  by differences nothing to compare with: the loss has a kink here")
        else:
            lines.append(
                f"  {twin}by differences {_number(self.numerical)}, "
                f"relative error {self.relative_error:.1e}"
            )
        return "\n".join(lines)

    __str__ = text


def chain(
    turn: Turn, layer: int, i: int | None, j: int, *, limit: int = PATHS
) -> tuple[tuple[Path, ...], int, float]:
    """Return the strongest paths to weight (i, j) of a layer, how many there are, and the rest.

    `i` is None for the bias.
    """
    sizes = [part.W.shape[1] for part in turn.layers[layer + 1 :]]
    n_paths = len(turn.X) * int(np.prod(sizes, dtype=np.int64))
    found: list[tuple[float, int, tuple[int, ...]]] = []
    rest = 0.0
    for row in range(len(turn.X)):
        products, routes, left = _row_paths(turn, layer, j, row, limit)
        source = 1.0 if i is None else float(turn.layers[layer].inputs[row, i])
        rest += left * source
        found += [
            (float(product) * source, row, tuple(map(int, route)))
            for product, route in zip(products, routes, strict=True)
        ]
    found.sort(key=lambda path: (-abs(path[0]), path[1:]))
    rest += sum(product for product, _, _ in found[limit:])
    paths = tuple(
        Path(row, neurons, _factors(turn, layer, i, row, neurons), product)
        for product, row, neurons in found[:limit]
    )
    return paths, n_paths, rest


def neuron_name(turn: Turn, layer: int, j: int) -> str:
    """Return the name of neuron j after `layer` matrices: x, h1, h2, ..., y; [j] where several."""
    last = len(turn.layers)
    name = "x" if layer == 0 else "y" if layer == last else "h" if last == 2 else f"h{layer}"
    width = turn.X.shape[1] if layer == 0 else turn.layers[layer - 1].W.shape[1]
    return name if width == 1 else f"{name}[{j}]"


def weight_name(turn: Turn, layer: int, i: int | None, j: int) -> str:
    """Return the name of a weight: W1 where it is the only one, W1[i,j], or b1[j]."""
    n_in, n_out = turn.layers[layer].W.shape
    if i is None:
        return f"b{layer + 1}" + (f"[{j}]" if n_out > 1 else "")
    return f"W{layer + 1}" + (f"[{i},{j}]" if n_in * n_out > 1 else "")


def _row_paths(
    turn: Turn, layer: int, j: int, row: int, limit: int
) -> tuple[Array, NDArray[np.intp], float]:
    """Return the products of the strongest paths from the loss to the sum of neuron j.

    Of the paths that go on from one neuron, only the `limit` strongest can be among the `limit`
    strongest of a longer path through it, so no more are kept; what the others add up to is.
    """
    last = len(turn.layers) - 1
    products = turn.layers[last].dZ[row].astype(np.float64)[:, np.newaxis]
    routes = np.arange(len(products))[:, np.newaxis, np.newaxis]  # (neuron, path, place)
    rests = np.zeros(len(products))
    for number in range(last, layer, -1):
        W = turn.layers[number].W.astype(np.float64)
        slopes = turn.layers[number - 1].slope[row].astype(np.float64)
        heads = np.arange(len(W))
        if number - 1 == layer:
            W, slopes, heads = W[j : j + 1], slopes[j : j + 1], heads[j : j + 1]
        local = slopes[:, np.newaxis] * W
        rests = local @ rests
        longer = (local[:, :, np.newaxis] * products).reshape(len(W), -1)
        flat = routes.reshape(-1, routes.shape[-1])
        kept = np.argsort(-np.abs(longer), axis=1, kind="stable")[:, :limit]
        dropped = np.ones(longer.shape, bool)
        np.put_along_axis(dropped, kept, False, axis=1)
        rests = rests + np.where(dropped, longer, 0).sum(axis=1)
        products = np.take_along_axis(longer, kept, axis=1)
        head = np.broadcast_to(heads[:, np.newaxis, np.newaxis], (*kept.shape, 1))
        routes = np.concatenate([head, flat[kept]], axis=2)
    if layer == last:
        return products[j], routes[j], 0.0
    return products[0], routes[0], float(rests[0])


def _factors(
    turn: Turn, layer: int, i: int | None, row: int, neurons: tuple[int, ...]
) -> tuple[tuple[str, float], ...]:
    """Return the local derivatives along a path, from the loss to the weight."""
    last = len(turn.layers) - 1
    k = neurons[-1]
    names = {
        (number, place): neuron_name(turn, number + 1, place)
        for number, place in zip(range(layer, last + 1), neurons, strict=True)
    }
    straight = turn.layers[last].activation == "identity"
    top = names[last, k] if straight else f"z({names[last, k]})"
    factors = [(f"dL/d{top}", float(turn.layers[last].dZ[row, k]))]
    upper, place = top, k
    for number in range(last, layer, -1):
        below = neurons[number - 1 - layer]
        name = names[number - 1, below]
        factors.append((f"d{upper}/d{name}", float(turn.layers[number].W[below, place])))
        upper, place = name, below
        if turn.layers[number - 1].activation != "identity":
            upper = f"z({name})"
            factors.append((f"d{name}/d{upper}", float(turn.layers[number - 1].slope[row, below])))
    source = 1.0 if i is None else float(turn.layers[layer].inputs[row, i])
    factors.append((f"d{upper}/d{weight_name(turn, layer, i, neurons[0])}", source))
    return tuple(factors)


def _number(value: float) -> str:
    return f"{value + 0.0:.6g}"


def _factor(value: float) -> str:
    return f"({_number(value)})" if value < 0 else _number(value)
