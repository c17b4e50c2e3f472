"""The turn as text for a terminal."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.explain.chain import neuron_name, weight_name
from fastmlp.explain.check import strongest
from fastmlp.explain.explanation import Explanation

__all__ = ["number", "text"]

Array = NDArray[Any]

MOST = 8  # rows, neurons, terms of a sum, and rows of a matrix that are printed
CHAINS = 3  # weights of every layer whose paths are printed
FIRE = ("relu", "leaky_relu")  # activations with a threshold at 0
FEW = 24  # weights up to which all are printed


def text(e: Explanation) -> str:
    """Return the five steps, one after the other."""
    parts = [_head(e), _forward(e), _loss(e), _backward(e), _update(e), _repeat(e)]
    return "\n\n".join("\n".join(part) for part in parts)


def number(value: float) -> str:
    """Return a number with six digits at most."""
    return f"{value + 0.0:.6g}"


def _head(e: Explanation) -> Iterator[str]:
    model = e.model
    hidden = ", ".join(dict.fromkeys(model.activations)) or "none"
    yield f"A network of {'-'.join(map(str, model.sizes))} neurons, {model.n_parameters:,} numbers"
    yield f"activation {hidden}; loss {model.loss_name}; {model.dtype}; {_rows(len(e.X))}"
    if len(e.X) > MOST or max(model.sizes) > MOST:
        yield (
            f"(of rows the first {MOST} are shown, of neurons and terms the {MOST} strongest, "
            "and what is left out)"
        )


def _forward(e: Explanation) -> Iterator[str]:
    fires = any(name in FIRE for name in e.model.activations)
    end = "fires or not" if fires else "answers with its activation"
    yield f"1. FORWARD: every neuron adds up its inputs times their weights, and {end}"
    rows = range(min(len(e.X), MOST))
    for row in rows:
        inputs = _vector(e.X[row])
        yield f"  row {row}: x = {inputs}"
        for layer, part in enumerate(e.layers):
            for j in strongest(part.A[row], MOST):
                yield f"    {_sum(e, layer, int(j), row)}"
            left = part.A.shape[1] - MOST
            if left > 0:
                fired = f"; {int(part.fired[row].sum())} of {MOST + left} fire"
                fired = fired if part.activation in FIRE else ""
                yield f"    ({left} weaker neuron{'s' * (left > 1)} left out{fired})"
    if len(e.X) > MOST:
        yield f"  ({len(e.X) - MOST:,} more rows)"
    if max(e.model.sizes) <= MOST and len(e.X) <= MOST:
        yield "  The same in matrices, all rows at once:"
        value = "X"
        for layer, part in enumerate(e.layers, 1):
            named = [(value, part.inputs), (f"W{layer}", part.W), (f"b{layer}", part.b)]
            last = layer == len(e.layers)
            out = "Y" if last else "H" if len(e.layers) == 2 else f"H{layer}"
            straight = part.activation == "identity"
            yield from _equation(out if straight else f"Z{layer}", part.Z, named)
            if not straight:
                yield from _beside([f"{out} = {part.activation}(Z{layer}) ="], _matrix(part.A))
            value = out


def _sum(e: Explanation, layer: int, j: int, row: int) -> str:
    """Return the weighted sum of one neuron, with names and numbers."""
    neuron = e.neuron(layer, j, row)
    shown = strongest(neuron.terms, MOST)
    terms = [
        f"{number(neuron.weights[i])}·{_signed(number(neuron.inputs[i]))}" for i in shown.tolist()
    ]
    left = len(neuron.terms) - len(shown)
    if left:
        rest = float(neuron.terms.sum(dtype=np.float64) - neuron.terms[shown].sum(dtype=np.float64))
        terms.append(f"{number(rest)} from {left} more")
    if neuron.bias or not terms:
        terms.append(number(neuron.bias))
    total = " + ".join(terms).replace("+ -", "- ")
    if neuron.activation == "identity":
        return f"{neuron.name} = {total} = {number(neuron.z)}"
    state = ""
    if neuron.activation in FIRE:
        state = "fires" if neuron.fired else "is off" if neuron.slope == 0 else "does not fire"
    if layer == len(e.layers) - 1:
        state = f"class {e.labels[j]}" if e.labels else ""
    shown_a = f"{neuron.activation}(z) = {number(neuron.a)}"
    return f"{neuron.name}: z = {total} = {number(neuron.z)}, {shown_a}  {state}".rstrip()


def _loss(e: Explanation) -> Iterator[str]:
    yield "2. LOSS: how far the outputs are from what is wanted"
    last = e.layers[-1]
    for row in range(min(len(e.X), MOST)):
        y = e.y[row]
        if e.model.classifies:
            name = e.labels[int(y)] if e.labels else int(y)
            how = f"-log(p of class {name}) = -log({number(last.A[row, int(y)])})"
        else:
            how = f"output {_vector(last.A[row])}, wanted {_vector(y)}"
            if e.model.loss_name == "squared_error" and len(y) == 1:
                error = number(float(last.A[row, 0] - y[0]))
                how += f", ½·{_signed(error)}²"
        yield f"  row {row}: {how} = {number(e.row_losses[row])}"
    if len(e.X) > MOST:
        yield f"  ({len(e.X) - MOST:,} more rows)"
    yield f"  total loss, the mean over {_rows(len(e.X))}: {number(e.loss)}"


def _backward(e: Explanation) -> Iterator[str]:
    yield "3. BACKPROPAGATION: the chain rule takes the error from the loss back to every weight"
    for layer in reversed(range(len(e.layers))):
        part = e.layers[layer]
        for row in range(min(len(e.X), MOST)):
            names = ", ".join(
                f"{neuron_name(e.turn, layer + 1, int(j))} {number(part.dZ[row, j])}"
                for j in strongest(part.dZ[row], MOST)
            )
            yield f"  row {row}: dL/dz of {names}"
        dead = [
            neuron_name(e.turn, layer + 1, int(j))
            for j in np.flatnonzero((part.slope == 0).all(axis=0))
        ]
        if dead:
            shown = ", ".join(dead[:MOST]) + ("" if len(dead) <= MOST else ", ...")
            why = "off" if part.activation == "relu" else "so far out that their slope is 0"
            yield f"  {why} on every row, so that no error passes and their weights stay: {shown}"
    yield ""
    indices = e.check.indices
    weights = [int(index) for index in indices if e.place(int(index))[1] is not None]
    few = e.model.n_parameters <= FEW
    flat = e.dparams
    if not few:
        weights.sort(key=lambda index: -abs(float(flat[index])))
        of_layer = [[w for w in weights if e.place(w)[0] == k] for k in range(len(e.layers))]
        weights = [index for listed in of_layer for index in listed[:CHAINS]]
    yield "  The chain rule, factor by factor:"
    for index in weights:
        lines = e.weight(*e.place(index), limit=MOST).text().splitlines()
        yield from (f"    {line}" for line in lines)
    yield ""
    yield "  Every derivative beside the same by differences of the loss (float64):"
    yield from (f"    {line}" for line in _gradients(e, few))


def _gradients(e: Explanation, few: bool) -> Iterator[str]:
    check = e.check
    flat = e.dparams
    order = np.arange(len(check.indices))
    if not few:
        order = np.argsort(-np.abs(flat[check.indices]), kind="stable")[: 2 * MOST]
    single = e.model.dtype == "float32"
    heads = ("engine", "in float64") if single else ("derivative",)
    yield _columns("", *heads, "by differences", "relative error")
    for k in order.tolist():
        index = int(check.indices[k])
        error = "a kink" if check.kinks[k] else f"{check.relative_error[k]:.1e}"
        values = [flat[index], check.derivatives[k], check.numerical[k]]
        shown = [number(value) for value in (values if single else values[1:])]
        yield _columns(weight_name(e.turn, *e.place(index)), *shown, error)
    left = e.model.n_parameters - len(order)
    if left:
        yield f"({left:,} smaller derivatives left out; {len(check.indices)} were checked)"
    if single:
        yield "(the relative error is between the two in float64; the engine trains in float32)"
    verdict = "all agree" if check.agrees else "THEY DISAGREE"
    yield f"{verdict}: largest relative error {check.largest:.1e}, where 1e-06 is allowed"
    yield (
        f"this page's dW against that of the engine that trains: {e.turn.difference:.1e} apart, "
        f"rounding explains {e.turn.tolerance:.1e}"
    )


def _columns(name: str, *cells: str) -> str:
    return " ".join((f"{name:<10}", *(f"{cell:>14}" for cell in cells)))


def _update(e: Explanation) -> Iterator[str]:
    rate = number(e.learning_rate)
    yield f"4. UPDATE: every weight takes a small step down: w - {rate} · dL/dw"
    before = e.model.params
    after = np.concatenate(
        [array.ravel() for part in e.layers for array in (part.W_after, part.b_after)]
    )
    flat = e.dparams
    indices = strongest(flat, before.size if e.model.n_parameters <= FEW else MOST)
    for index in indices.tolist():
        yield (
            f"  {e.name_of(index)}: {number(before[index])} - {rate}·{_signed(number(flat[index]))}"
            f" = {number(after[index])}"
        )
    if len(indices) < before.size:
        yield f"  ({before.size - len(indices):,} smaller steps left out)"


def _repeat(e: Explanation) -> Iterator[str]:
    yield "5. REPEAT: the next turn starts from a smaller loss, until it no longer gets smaller"
    if e.loss_after >= e.loss:
        yield "  (not this time: the step was too large, or there was nothing left to gain)"
    yield f"  loss {number(e.loss)} -> {number(e.loss_after)}"


def _equation(name: str, Z: Array, named: Sequence[tuple[str, Array]]) -> Iterator[str]:
    (x, X), (w, W), (b, bias) = named
    yield from _beside(
        [f"{name} = {x} {w} + {b} ="], _matrix(X), _matrix(W), ["+"], _matrix(bias[None]), ["="],
        _matrix(Z),
    )  # fmt: skip


def _beside(*blocks: list[str]) -> Iterator[str]:
    """Set blocks of lines beside each other."""
    height = max(map(len, blocks))
    for line in range(height):
        cells = [
            (block[line] if line < len(block) else "").ljust(max(map(len, block)))
            for block in blocks
        ]
        yield "    " + " ".join(cells).rstrip()


def _matrix(M: Array) -> list[str]:
    cells = [[number(value) for value in row] for row in M]
    wide = [max(len(row[j]) for row in cells) for j in range(len(cells[0]))]
    return [
        "[" + " ".join(cell.rjust(n) for cell, n in zip(row, wide, strict=True)) + "]"
        for row in cells
    ]


def _vector(values: Iterable[float]) -> str:
    values = list(values)
    shown = ", ".join(number(value) for value in values[:MOST])
    more = f", ... ({len(values)} in all)" if len(values) > MOST else ""
    return f"[{shown}{more}]"


def _signed(text: str) -> str:
    return f"({text})" if text.startswith("-") else text


def _rows(n: int) -> str:
    return f"{n:,} row{'s' * (n != 1)}"
