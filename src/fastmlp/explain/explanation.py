"""Explanation: one turn of training, to read, to look at, and to check."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import atomic
from fastmlp.explain import chain as chains
from fastmlp.explain.check import Check, check, strongest
from fastmlp.explain.record import Recorder, rehearse
from fastmlp.explain.surface import Surface, pair, surface
from fastmlp.explain.trace import Layer, Turn, take_rows, turn
from fastmlp.model import MLP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Explanation", "Neuron", "explain"]

Array = NDArray[Any]

# Derivatives compared with differences, the largest first: so many, as long as parameters times
# rows times their number stay below WORK.
CHECKED, LEAST, WORK = 200, 12, 2e8
STEPS = 40  # of descent where no training was recorded

Place = tuple[int, int, int]  # of a weight: layer, from, to


@dataclass(frozen=True)
class Neuron:
    """One neuron on one row.

    Attributes
    ----------
    name : str
    inputs, weights, terms : ndarray (n_in,)
        What comes in, by which weight, and their products.
    bias, z, a : float
        ``z = sum(terms) + bias``, and its activation a.
    activation : str
    fired : bool
        Whether z is above 0, the threshold of relu.
    slope, dz : float
        Derivative of a by z, and of the total loss by z.
    """

    name: str
    inputs: Array
    weights: Array
    terms: Array
    bias: float
    z: float
    activation: str
    a: float
    fired: bool
    slope: float
    dz: float


class Explanation:
    """One turn of the five steps of training, with every number; what `explain` returns.

    Attributes
    ----------
    model : MLP
        A copy, as it was.
    X, y : ndarray
    learning_rate : float
    layers : tuple of Layer
        Inputs, weighted sums, activations, slopes, dZ, dW, db and the updated parameters.
    row_losses : ndarray of float64 (n,)
    loss, loss_after : float
        Means over the rows, before and after the update.
    dX : ndarray (n, n_in)
        Derivatives of the total loss by the inputs.
    turn : Turn
        All of this as it was computed.
    labels : list of str or None
        Names of the classes.
    """

    def __init__(
        self,
        model: MLP,
        turn: Turn,
        *,
        learning_rate: float,
        recorder: Recorder | None,
        labels: Sequence[str] | None,
    ) -> None:
        self.model = model
        self.turn = turn
        self.X, self.y, self.dX = turn.X, turn.y, turn.dX
        self.layers, self.row_losses = turn.layers, turn.row_losses
        self.loss, self.loss_after = turn.loss, turn.loss_after
        self.learning_rate = learning_rate
        self.labels = None if labels is None else [str(label) for label in labels]
        self._recorder = recorder

    def __repr__(self) -> str:
        return (
            f"Explanation of {self.model} on {_count(len(self.X), 'row')}: "
            f"loss {self.loss:.6g}, after one step {self.loss_after:.6g}"
        )

    @property
    def dparams(self) -> Array:
        """Derivatives of the loss by `MLP.params`."""
        pairs = [(layer.dW.ravel(), layer.db) for layer in self.turn.layers]
        return np.concatenate([array for both in pairs for array in both])

    @cached_property
    def check(self) -> Check:
        """The largest derivatives beside differences: 200, or fewer of a large model."""
        n = int(min(CHECKED, max(LEAST, WORK / (self.model.n_parameters * len(self.X)))))
        return check(self.model, self.X, self.y, strongest(self.dparams, n))

    @property
    def agrees(self) -> bool:
        """Whether all derivatives are the engine's to rounding, and those checked to one in 10⁶."""
        return self.turn.difference <= self.turn.tolerance and self.check.agrees

    @cached_property
    def recorder(self) -> Recorder:
        """The training given, or else what descent on these rows would make of the model."""
        if self._recorder is not None:
            return self._recorder
        return rehearse(self.model, self.X, self.y, self.learning_rate, STEPS)

    @property
    def rehearsed(self) -> bool:
        """Whether `recorder` is such a descent, and no training that took place."""
        return self._recorder is None

    @cached_property
    def surface(self) -> Surface:
        """The loss over the two weights whose derivatives are the largest."""
        indices = pair(self.model, self.dparams)
        return surface(self.model, self.X, self.y, indices, self.learning_rate)

    def loss_over(self, first: tuple[int, int, int], second: tuple[int, int, int]) -> Surface:
        """Return the loss over two weights, each given as (layer, i, j)."""
        indices = (self.index(*first), self.index(*second))
        if indices[0] == indices[1]:
            raise ValueError(f"both weights are {first}, expected two different ones")
        return surface(self.model, self.X, self.y, indices, self.learning_rate)

    def neuron(self, layer: int, j: int, row: int = 0) -> Neuron:
        """Return the weighted sum of neuron j of a layer, counted like `MLP.weights`, on a row."""
        part = self._layer(layer)
        self._place(row, len(self.X), "row", "the explanation")
        self._place(j, part.W.shape[1], "neuron", f"layer {layer}")
        inputs, weights = part.inputs[row], part.W[:, j]
        return Neuron(
            chains.neuron_name(self.turn, layer + 1, j),
            inputs,
            weights,
            inputs * weights,
            float(part.b[j]),
            float(part.Z[row, j]),
            part.activation,
            float(part.A[row, j]),
            bool(part.Z[row, j] > 0),
            float(part.slope[row, j]),
            float(part.dZ[row, j]),
        )

    def weight(
        self, layer: int, i: int | None, j: int, *, limit: int = chains.PATHS
    ) -> chains.Chain:
        """Return the chain rule for weight (i, j) of a layer, or with i None for bias j.

        Parameters
        ----------
        layer : int
            As in ``model.weights[layer]``.
        i, j : int
            From input i of the layer to its neuron j.
        limit : int
            List so many paths, the strongest; the others are added up.

        Examples
        --------
        >>> import fastmlp
        >>> model = fastmlp.MLP([1, 1, 1], activation="identity", loss="squared_error")
        >>> model.params[:] = [3, 0, 1, 0]            # W1, b1, W2, b2
        >>> print(fastmlp.explain(model, [[2.0]], [4.0]).weight(0, 0, 0))
        dL/dW1: 1 path
          row 0:  dL/dy · dy/dh · dh/dW1 = 2 · 1 · 2 = 4
          sum over paths 4, engine 4
          by differences 4, relative error 0.0e+00
        """
        index = self.index(layer, i, j)
        paths, n_paths, rest = chains.chain(self.turn, layer, i, j, limit=limit)
        found = self.check.of(index)
        if found is None:
            found = check(self.model, self.X, self.y, np.array([index])).of(index)
            assert found is not None
        name = chains.weight_name(self.turn, layer, i, j)
        return chains.Chain(name, float(self.dparams[index]), paths, n_paths, rest, *found)

    def index(self, layer: int, i: int | None, j: int) -> int:
        """Return the place of a weight, or with i None of a bias, in `MLP.params`."""
        self._layer(layer)
        n_in, n_out = self.model.sizes[layer : layer + 2]
        self._place(j, n_out, "neuron", f"layer {layer}")
        start: int = sum((a + 1) * b for a, b in pairwise(self.model.sizes[: layer + 1]))
        if i is None:
            return start + n_in * n_out + j
        self._place(i, n_in, "input", f"layer {layer}")
        return start + i * n_out + j

    def place(self, index: int) -> tuple[int, int | None, int]:
        """Return (layer, i, j) of a place in `MLP.params`; i is None for a bias."""
        for number, part in enumerate(self.turn.layers):
            n_out = part.b.size
            if index < part.W.size:
                return number, index // n_out, index % n_out
            index -= part.W.size
            if index < n_out:
                return number, None, index
            index -= n_out
        raise IndexError(f"the model has {self.model.n_parameters} parameters")

    def name_of(self, index: int) -> str:
        """Return the name of a place in `MLP.params`, such as W2[0,1]."""
        return chains.weight_name(self.turn, *self.place(index))

    def text(self) -> str:
        """Return the turn as text for a terminal, step by step."""
        from fastmlp.explain.text import text

        return text(self)

    def __str__(self) -> str:
        return self.text()

    def html(self, *, weights: tuple[Place, Place] | None = None) -> str:
        """Return the report as one HTML page that needs nothing else.

        Parameters
        ----------
        weights : pair of (layer, i, j), or None
            Those over which the loss is drawn; None takes the two with the largest derivatives.
        """
        from fastmlp.explain.report import page

        return page(self, weights)

    def to_html(
        self, path: str | os.PathLike[str], *, weights: tuple[Place, Place] | None = None
    ) -> None:
        """Write the report, see `html`, to a file, whole or not at all."""
        page = self.html(weights=weights).encode()
        with atomic.writing(path) as file:
            file.write(page)

    def _repr_html_(self) -> str:
        from html import escape

        return (
            f'<iframe title="fastmlp.explain" srcdoc="{escape(self.html())}" '
            'style="width:100%;height:820px;border:0"></iframe>'
        )

    def plot(self) -> "Figure":
        """Draw network, derivatives beside their checks, loss surface and training (matplotlib)."""
        from fastmlp.explain.plot import overview

        return overview(self)

    def _layer(self, layer: int) -> Layer:
        self._place(layer, len(self.turn.layers), "layer", "the model")
        return self.turn.layers[layer]

    @staticmethod
    def _place(value: int, n: int, what: str, where: str) -> None:
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value < n:
            raise ValueError(
                f"{what} {value!r} does not exist: {where} has {_count(n, what)}, "
                f"expected 0{f'..{n - 1}' * (n > 1)}"
            )


def explain(
    model: MLP,
    x: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: float = 0.1,
    recorder: Recorder | None = None,
    labels: Sequence[str] | None = None,
) -> Explanation:
    """Show one step of training with its real numbers; the model stays as it is.

    Forward pass, total loss, backpropagation, update, and the loss after it: every number is one
    of the engine's, and every derivative is compared with differences of the loss.

    Parameters
    ----------
    model : MLP
    x : array-like (n_samples, n_in), or (n_in,) for one row
    y : array-like
        Class numbers (n_samples,) or values (n_samples, n_out); of one row, its own.
    learning_rate : float
        Of the update.
    recorder : Recorder or None
        A recorded training of this model, to move through in the report. None moves through what
        plain gradient descent on these rows would do.
    labels : sequence of str or None
        Names of the classes.

    Returns
    -------
    Explanation

    Examples
    --------
    >>> import fastmlp
    >>> model = fastmlp.MLP([1, 1, 1], activation="identity", loss="squared_error")
    >>> model.params[:] = [3, 0, 1, 0]                # W1, b1, W2, b2
    >>> e = fastmlp.explain(model, [[0], [1], [2], [3], [4]], [0, 2, 4, 6, 8], learning_rate=0.01)
    >>> e.loss, e.layers[0].dW.item(), e.layers[1].dW.item()
    (3.0, 6.0, 18.0)
    """
    X, targets = take_rows(model, x, y)
    if recorder is not None:
        if not isinstance(recorder, Recorder):
            raise TypeError(f"recorder is {type(recorder).__name__}, expected explain.Recorder")
        _check_same(recorder.model, model)
    if labels is not None:
        try:
            labels = list(labels)
        except TypeError:
            raise TypeError(f"labels is {labels!r}, expected a name for every output") from None
        if len(labels) != model.sizes[-1]:
            raise ValueError(f"labels has {len(labels)} names, the model {model.sizes[-1]} outputs")
    model = model.copy()
    done = turn(model, X, targets, learning_rate)
    return Explanation(
        model, done, learning_rate=float(learning_rate), recorder=recorder, labels=labels
    )


def _check_same(recorded: MLP, model: MLP) -> None:
    """Raise unless the recorder's model computes as this one does."""
    for what, theirs, ours in (
        ("sizes", list(recorded.sizes), list(model.sizes)),
        ("activations", list(recorded.activations), list(model.activations)),
        ("loss", recorded.loss_name, model.loss_name),
        ("loss_parameter", recorded.loss_parameter, model.loss_parameter),
        ("dtype", recorded.dtype, model.dtype),
    ):
        if theirs != ours:
            raise ValueError(f"recorder has a model of {what} {theirs}, this one has {ours}")


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"
