"""MLP: a multilayer perceptron as its parameters, with inference and gradients."""

import contextlib
import copy
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import engines, memory, modelfile
from fastmlp._core import (
    CLASSES,
    DTYPES,
    LOSSES,
    OUTPUTS,
    PROBABILITIES,
    Core,
    Inference,
    SparseRows,
    Writes,
)
from fastmlp.activations import activate, slope
from fastmlp.definition import abridged, activations_of, choice, count, parameter_of, widths
from fastmlp.inputs import (
    Inputs,
    as_features,
    as_generator,
    as_int,
    as_labels,
    as_rows,
    as_values,
    as_weights,
)
from fastmlp.losses import row_losses
from fastmlp.turn import new_turn

__all__ = ["MLP"]

Array = NDArray[Any]

CACHE_LINE = 64  # bytes
# Activations that let about half of their inputs through: they start from larger weights.
RECTIFIERS = ("relu", "leaky_relu", "gelu", "silu")


class MLP:
    """A multilayer perceptron.

    Layer l computes ``Z = A W + b`` from the output A of the layer before it (A is X at first),
    and every layer but the last puts Z through the activation. What the last layer gives,
    logits or values, goes to the loss.

    Parameters
    ----------
    sizes : sequence of int
        Width of every layer, from inputs to outputs; ``[784, 128, 10]`` has one hidden layer.
    activation : str or sequence of str
        Of the hidden layers, or of each of them: "relu", "identity", "tanh", "logistic",
        "leaky_relu" (0.01 z below zero), "gelu" (z times the share of the normal distribution below
        z, Hendrycks and Gimpel 2016) or "silu" (z times its logistic).
    loss : str
        ``softmax_cross_entropy`` classifies, with class numbers as targets. The others fit values
        (n, n_out) and add up over outputs: ``binary_cross_entropy`` probabilities, by the logistic
        of every output; ``poisson`` rates, whose logarithm the output is, by half the deviance;
        ``squared_error`` half the squared distance; ``absolute_error``, ``huber``, ``quantile``.
        All are means over rows.
    loss_parameter : float or None
        Of ``huber``, the error from which on it is linear (1); of ``quantile``, which one (0.5).
    dtype : {"float32", "float64"}
    seed : int, numpy.random.Generator or None
        Of the initial weights; None draws different ones every time. A layer that feeds a ReLU
        or one of its kind starts normal with variance 2 / n_in (He et al. 2015), any other uniform
        with variance 2 / (n_in + n_out) (Glorot and Bengio 2010). Biases start at zero.

    Attributes
    ----------
    params : ndarray (n_parameters,)
        All parameters in one flat array ``[W0 | b0 | W1 | b1 | ...]``. Writable.
    weights : tuple of ndarray (n_in, n_out)
    biases : tuple of ndarray (n_out,)
        Views into `params`, layer by layer. Writable.
    n_parameters : int
    activations : tuple of str
        One for every hidden layer.
    probability_clip : float
        Where above 0, probabilities enter the logarithm of a loss as at least so much and at most
        as much less than 1, as scikit-learn has it. Gradients do not change.
    metadata : dict
        Whatever belongs to the model and can be written as JSON; travels in its file.

    Notes
    -----
    A model may be used in many threads at once, also while one of them trains it: whatever reads
    the parameters sees them as a trainer has written them at one time, after the fit or before a
    callback or validation. Only two fits at once are refused, with RuntimeError, and who writes to
    `params`, `weights` or `biases` while others read has to see to the order.

    Examples
    --------
    >>> import numpy as np, fastmlp
    >>> model = fastmlp.MLP([2, 3, 2], seed=0)
    >>> model.n_parameters
    17
    >>> model.weights[0].shape, model.biases[0].shape
    ((2, 3), (3,))
    >>> model.forward(np.zeros((1, 2)))
    array([[0., 0.]], dtype=float32)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str | Sequence[str] = "relu",
        loss: str = "softmax_cross_entropy",
        loss_parameter: float | None = None,
        dtype: str = "float32",
        seed: "int | np.random.Generator | None" = 0,
    ) -> None:
        rng = as_generator(seed)
        self._define(sizes, activation, loss, loss_parameter, dtype)
        self._initialise(rng)

    def _define(
        self,
        sizes: Sequence[int],
        activation: str | Sequence[str],
        loss: str,
        loss_parameter: float | None,
        dtype: str,
    ) -> None:
        """Check what the model is to be, and make it with parameters of 0."""
        self.sizes = widths(sizes)
        self.activations = activations_of(activation, len(self.sizes) - 2)
        self.activation = activation if isinstance(activation, str) else list(self.activations)
        self.loss_name = choice(loss, "loss", LOSSES)
        self.loss_parameter = parameter_of(loss, loss_parameter)
        self.probability_clip = 0.0
        # what is no dtype is named by the next line; NumPy reads some texts as programs
        with contextlib.suppress(TypeError, ValueError, SyntaxError):
            dtype = np.dtype(dtype).name
        self.dtype = choice(dtype, "dtype", DTYPES)
        self.metadata: dict[str, Any] = {}

        # the weights of a layer are drawn in float64
        drawn = 8 * max(n_in * n_out for n_in, n_out in pairwise(self.sizes))
        n_bytes = self.n_parameters * np.dtype(self.dtype).itemsize
        memory.check(n_bytes + drawn, f"a network of sizes {abridged(self.sizes)}")
        self.params = _aligned_zeros(self.n_parameters, self.dtype)
        self.weights, self.biases = self.split(self.params)
        self._share()

    def _share(self) -> None:
        """Make what threads share that use this model."""
        self._inference: Inference | None = None
        self._writes = Writes()
        self._turn = new_turn()  # of the thread that trains it

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return count(self.sizes)

    @property
    def classifies(self) -> bool:
        """Whether the targets are class numbers."""
        return self.loss_name == "softmax_cross_entropy"

    def __repr__(self) -> str:
        return (
            f"MLP({list(self.sizes)}, activation={self.activation!r}, "
            f"loss={self.loss_name!r}, dtype={self.dtype!r})"
        )

    def split(self, flat: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Return the weights and the biases as views into a flat array like `params`.

        Examples
        --------
        >>> import numpy as np, fastmlp
        >>> weights, biases = fastmlp.MLP([2, 1]).split(np.arange(3.0))
        >>> weights, biases
        ((array([[0.],
               [1.]]),), (array([2.]),))
        """
        weights, biases, start = [], [], 0
        for n_in, n_out in pairwise(self.sizes):
            middle, end = start + n_in * n_out, start + (n_in + 1) * n_out
            weights.append(flat[start:middle].reshape(n_in, n_out))
            biases.append(flat[middle:end])
            start = end
        return tuple(weights), tuple(biases)

    def forward(self, X: Inputs, *, n_threads: int | None = None) -> Array:
        """Return the outputs of the last layer: logits when classifying, else values.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_in), finite
        n_threads : int or None
            How many threads may share the work, where there is enough to gain by it: rows, or where
            they are few the outputs of wide layers. None takes one for every core. The results are
            the same bits for any number. Where there is only the BLAS engine, it is left to BLAS.

        Returns
        -------
        ndarray (n_samples, n_out) of `dtype`
        """
        return self._infer(X, OUTPUTS, n_threads)

    def predict(self, X: Inputs, *, n_threads: int | None = None) -> Array:
        """Return the most probable class of every row, or its values; rates under poisson.

        Parameters
        ----------
        X, n_threads
            As for `forward`.

        Returns
        -------
        ndarray of int64 (n_samples,) when classifying; else of `dtype`, (n_samples, n_out), or
        (n_samples,) where the network has one output.
        """
        if self.classifies:
            return self._infer(X, CLASSES, n_threads)
        Z = self._infer(X, OUTPUTS, n_threads)
        if self.loss_name == "poisson":
            with np.errstate(over="ignore"):  # infinity is what it is
                Z = np.exp(Z)
        return Z[:, 0] if Z.shape[1] == 1 else Z

    def predict_proba(self, X: Inputs, *, n_threads: int | None = None) -> Array:
        """Return the probability of every class, the softmax of the logits.

        Under binary_cross_entropy that of every output, its logistic.

        Parameters
        ----------
        X, n_threads
            As for `forward`.

        Returns
        -------
        ndarray (n_samples, n_out) of `dtype`; of classes, rows adding up to 1
        """
        if self.loss_name == "binary_cross_entropy":
            with np.errstate(all="ignore"):
                return activate(self.forward(X, n_threads=n_threads), "logistic")
        if not self.classifies:
            raise TypeError(
                f"predict_proba needs a classifier; this model's loss is {self.loss_name}"
            )
        return self._infer(X, PROBABILITIES, n_threads)

    def input_gradients(self, X: ArrayLike) -> Array:
        """Return the derivatives of every output of `forward` by every input.

        Parameters
        ----------
        X : array-like (n_samples, n_in), finite

        Returns
        -------
        ndarray (n_samples, n_out, n_in) of `dtype`

        Examples
        --------
        >>> import fastmlp
        >>> model = fastmlp.MLP([2, 1, 1], activation="identity", loss="squared_error")
        >>> model.params[:] = [2, -1, 0, 3, 0]            # W1, b1, W2, b2
        >>> model.input_gradients([[0.5, 0.5]])
        array([[[ 6., -3.]]], dtype=float32)
        """
        A = as_features(X, self.dtype, self.sizes[0])
        slopes, (weights, biases) = [], self.split(self.read())
        with np.errstate(all="ignore"):  # what overflows is infinite, or NaN
            for W, b, activation in zip(weights, biases, self.activations, strict=False):
                Z = A @ W + b
                A = activate(Z, activation)
                slopes.append(slope(Z, activation))
            J = np.broadcast_to(weights[-1].T, (len(A), *weights[-1].T.shape))
            for W, dA in zip(weights[-2::-1], slopes[::-1], strict=True):
                J = (J * dA[:, np.newaxis, :]) @ W.T
        return np.array(J)

    def loss(
        self,
        X: Inputs,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        n_threads: int | None = None,
    ) -> float:
        """Return the mean loss over the rows of X, weighted by `sample_weight`.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_in)
        y : array-like of int (n_samples,) when classifying; else (n_samples, n_out), or
            (n_samples,) where the network has one output
        sample_weight : array-like (n_samples,) or None
        n_threads : int or None
            As for `forward`.
        """
        return self.evaluate(X, y, sample_weight, n_threads=n_threads)[0]

    def evaluate(
        self,
        X: Inputs,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        n_threads: int | None = None,
    ) -> tuple[float, float | None]:
        """Return the mean loss and, when classifying, the share of rows classified right.

        Parameters
        ----------
        X, y, sample_weight, n_threads
            As for `loss`.
        """
        features, targets = self.as_data(X, y)
        weights = None
        if sample_weight is not None:
            weights = as_weights(sample_weight, len(features), "float64")
        Z = self.forward(features, n_threads=n_threads)
        with np.errstate(all="ignore"):  # of what has overflowed it is infinite, or NaN
            losses = row_losses(
                Z, targets, self.loss_name, self.loss_parameter, self.probability_clip
            )
            loss = float(np.average(losses, weights=weights))
        if not self.classifies:
            return loss, None
        return loss, float(np.average(Z.argmax(axis=1) == targets, weights=weights))

    def gradients(
        self, X: Inputs, y: ArrayLike
    ) -> tuple[float, tuple[Array, ...], tuple[Array, ...]]:
        """Return the mean loss over the rows of X and its derivatives, by backpropagation.

        Returns
        -------
        loss : float
        dweights, dbiases : tuples of ndarray, shaped like `weights` and `biases`

        Examples
        --------
        >>> import fastmlp
        >>> model = fastmlp.MLP([1, 1, 1], activation="identity", loss="squared_error")
        >>> model.params[:] = [3, 0, 1, 0]                # W1, b1, W2, b2
        >>> loss, dweights, dbiases = model.gradients([[0], [1], [2], [3], [4]], [0, 2, 4, 6, 8])
        >>> loss, dweights[0].item(), dweights[1].item()
        (3.0, 6.0, 18.0)
        """
        features, targets = self.as_data(X, y)
        flat = np.empty_like(self.params)
        is_sparse = isinstance(features, SparseRows)
        core = self.core(max_rows=len(features), optimizer="sgd", is_sparse=is_sparse)
        loss = core.gradients(flat, features, targets, self.read())
        if not np.isfinite(loss):
            flat.fill(np.nan)
        return (loss, *self.split(flat))

    def as_data(
        self, X: Inputs, y: ArrayLike, suffix: str = ""
    ) -> tuple[Array | SparseRows, Array]:
        """Return X and y as what this model trains on, or raise what is wrong with them.

        `suffix` is added to the names X and y in messages.
        """
        features = as_rows(X, self.dtype, self.sizes[0], f"X{suffix}")
        n = len(features)
        if n == 0:
            raise ValueError(f"X{suffix} has no rows (shape {features.shape})")
        if self.classifies:
            return features, as_labels(y, n, self.sizes[-1], f"y{suffix}")
        return features, as_values(y, n, self.sizes[-1], self.dtype, f"y{suffix}")

    def _infer(self, X: Inputs, what: int, n_threads: int | None) -> Array:
        inference = self._inference
        if inference is None:
            inference = self._inference = self.inference()
        threads: Callable[[bool], int] | None = engines.threads_to_infer
        if n_threads is not None:
            most = as_int(n_threads, "n_threads", 1)
            threads = partial(engines.threads_to_infer, n_threads=most) if most > 1 else None
        result = inference.infer(X, self.params, what, threads)
        if result is not None:
            return result
        # It was not an array to use as it stands: find out why.
        features = as_rows(X, self.dtype, self.sizes[0])
        if len(features):
            result = inference.infer(features, self.params, what, threads)
            assert result is not None
            return result
        return (
            np.empty(0, np.int64) if what == CLASSES else np.empty((0, self.sizes[-1]), self.dtype)
        )

    def copy(self, *, dtype: str | None = None) -> "MLP":
        """Return a model of its own with the same parameters, in another dtype if one is given.

        Examples
        --------
        >>> import fastmlp
        >>> model = fastmlp.MLP([2, 3, 2])
        >>> twin = model.copy(dtype="float64")
        >>> twin.dtype, bool((twin.params == model.params).all())
        ('float64', True)
        """
        state = copy.deepcopy(self.__getstate__())
        if dtype is not None:
            state["dtype"] = choice(dtype, "dtype", DTYPES)
            state["params"] = state["params"].astype(dtype)
        twin = object.__new__(MLP)
        twin.__setstate__(state)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        own = ("weights", "biases", "_inference", "_writes", "_turn")
        state = {name: value for name, value in vars(self).items() if name not in own}
        return {**state, "params": self.read()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.params.ctypes.data % CACHE_LINE:  # read from a file or another process
            self.params = _aligned_zeros(self.n_parameters, self.dtype)
            self.params[:] = state["params"]
        self.weights, self.biases = self.split(self.params)
        self._share()

    def read(self) -> Array:
        """Return a copy of `params`, whole also where another thread trains the model."""
        return self._writes.copy(self.params)

    def write(self, params: Array) -> None:
        """Change all of `params` at once: threads that predict see them before or after."""
        self._writes.write(self.params, np.ascontiguousarray(params, self.dtype))

    def inference(self, *, engine: str = "auto") -> Inference:
        """Return a new `Inference` for this network: what computes its outputs."""
        return Inference(
            engines.load(engines.resolve(engine), max(self.sizes)),
            self.sizes,
            self.activations,
            self.loss_name,
            self.dtype,
            writes=self._writes,
            any_size=engines.oversubscribed(),
        )

    def core(
        self,
        *,
        max_rows: int,
        optimizer: str,
        engine: str = "auto",
        dropout: float = 0.0,
        is_sparse: bool = False,
        n_threads: int = 1,
    ) -> Core:
        """Return a new `Core` for this network, to train on batches of up to `max_rows` rows.

        Inputs are arrays or, with `is_sparse`, `SparseRows`. With `n_threads` its memory is laid
        out for so many, to be shared out among them.
        """
        return Core(
            engines.load(engines.resolve(engine), max(max_rows, *self.sizes)),
            self.sizes,
            self.activations,
            self.loss_name,
            self.dtype,
            max_rows,
            optimizer,
            loss_parameter=self.loss_parameter,
            loss_clip=self.probability_clip,
            dropout=dropout,
            is_sparse=is_sparse,
            writes=self._writes,
            n_threads=n_threads,
            any_size=engines.oversubscribed(),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file, whole or not at all.

        Examples
        --------
        >>> import fastmlp, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "m.safetensors")
        >>> fastmlp.MLP([2, 3, 2]).save(path)
        >>> fastmlp.MLP.load(path)
        MLP([2, 3, 2], activation='relu', loss='softmax_cross_entropy', dtype='float32')
        """
        modelfile.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "MLP":
        """Read a model that `save` has written.

        Raises
        ------
        FileNotFoundError, FileFormatError
        """
        return modelfile.load(cls, path)

    def _initialise(self, rng: "np.random.Generator") -> None:
        for i, W in enumerate(self.weights):
            n_in, n_out = W.shape
            if i < len(self.weights) - 1 and self.activations[i] in RECTIFIERS:
                W[...] = rng.normal(0, np.sqrt(2 / n_in), W.shape)
            else:
                bound = np.sqrt(6 / (n_in + n_out))
                W[...] = rng.uniform(-bound, bound, W.shape)


def _aligned_zeros(n: int, dtype: str) -> Array:
    """Zeros that begin on a cache line: a single row is then read a tenth sooner."""
    room = np.zeros(n + CACHE_LINE // np.dtype(dtype).itemsize, dtype)
    start = -room.ctypes.data % CACHE_LINE // room.itemsize
    return room[start : start + n]
