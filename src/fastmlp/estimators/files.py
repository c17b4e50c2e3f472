"""Estimators in safetensors files: tensors for the numbers, JSON for the rest, no pickle."""

import math
import os
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import persist
from fastmlp.errors import cut
from fastmlp.estimators.labels import Labels
from fastmlp.estimators.network import Network
from fastmlp.estimators.training import Run, adopt, build
from fastmlp.estimators.training import session as session_of
from fastmlp.inputs import as_int

__all__ = ["check", "load", "save"]

Array = NDArray[Any]
Path_ = str | os.PathLike[str]

# Fitted attributes, as far as they are there.
ATTRIBUTES = (
    *("n_features_in_", "feature_names_in_", "classes_", "n_iter_", "t_", "loss_", "best_loss_"),
    *("loss_curve_", "validation_loss_curve_", "validation_scores_", "best_validation_score_"),
    *(
        "_no_improvement_count",
        "_rate",
        "_rate_began",
        "_schedule",
        "_weights",
        "_split",
        "_judged_by",
    ),
)
COUNTS = ("n_iter_", "t_", "_no_improvement_count")
NUMBERS = ("loss_", "best_loss_", "best_validation_score_", "_rate")
CURVES = ("loss_curve_", "validation_loss_curve_", "validation_scores_")
# Arrays of other kinds than these are lists in the JSON.
TENSORS = "biuf"
MOST_TEXT = 2**22  # bytes of an array of text, which may be wider than its texts


def check(estimator: Any, path: Path_) -> None:
    """Raise what writing checkpoints would raise, as far as that can be known before training."""
    persist.check_writable(path)
    if estimator.solver == "lbfgs":
        raise ValueError("checkpoints are of solver='sgd' or 'adam': lbfgs has no state to keep")
    _parameters(estimator, _Writer({}))


def save(estimator: Any, path: Path_, run: Run | None = None) -> None:
    """Write a fitted estimator, or, with `run`, one whose fit is going on."""
    network = estimator._network
    network.settle()
    model, session = network.model, network.session
    tensors: dict[str, Array] = {"params": model.read()}
    description: dict[str, Any] = {
        "estimator": type(estimator).__name__,
        "sizes": list(model.sizes),
        "dtype": model.dtype,
    }
    if session is not None:
        session.store()
        description["session"] = {
            "optimizer": session.optimizer,
            "step": session.step,
            "seed": network.seed,
        }
        tensors |= {f"moments.{i}": moment for i, moment in enumerate(session.moments)}
    labels = vars(estimator).get("_labels")
    writer = _Writer(tensors)
    if labels is not None:
        description["labels"] = writer.write(
            {"kind": labels.kind, "classes": labels.classes, "is_sparse": labels.is_sparse},
            "labels",
        )
    held = {name: vars(estimator)[name] for name in ATTRIBUTES if name in vars(estimator)}
    description["attributes"] = writer.write(held, "attributes")
    stream = _own_stream(estimator, of_numpy=run is not None)
    description["random_state"] = writer.write(stream, "random_state")
    description["parameters"] = _parameters(estimator, writer)
    if run is not None:
        description["run"] = writer.write(vars(run), "run")
    persist.save(path, tensors, description)


def _parameters(estimator: Any, writer: "_Writer") -> dict[str, Any]:
    parameters = estimator.get_params(deep=False)
    return {name: writer.write(value, name) for name, value in parameters.items()}


def load(cls: Any, path: Path_, *, resume: bool = False) -> Any:
    """Return the estimator of class `cls` that a file holds, perhaps to go on with its fit."""
    tensors, description = persist.load(path)
    kind = description.get("estimator")
    if kind is None and "sizes" in description:
        raise persist.not_a_model(
            path, f"it holds a fastmlp.MLP: read it with MLP.load, then {cls.__name__}.from_mlp"
        )
    if kind != cls.__name__:
        raise persist.not_a_model(path, f"it holds {kind!r}, not {cls.__name__}")
    if resume and "run" not in description:
        raise persist.not_a_model(path, "it holds a fitted estimator but no run to go on with")
    try:
        estimator = _restored(cls, tensors, description)
        if resume:
            estimator._run = _run(_Reader(tensors).read(description["run"]), estimator)
        return estimator
    except persist.DAMAGE as error:
        raise persist.not_a_model(
            path, f"its description is not valid ({cut(str(error), 200)})"
        ) from None


def _restored(cls: Any, tensors: dict[str, Array], description: dict[str, Any]) -> Any:
    reader = _Reader(tensors)
    parameters = {name: reader.read(value) for name, value in description["parameters"].items()}
    estimator = cls(**parameters)
    estimator._validate_params()
    if "labels" in description:
        estimator._labels = Labels(**reader.read(description["labels"]))
    params = tensors["params"]
    sizes = tuple(as_int(size, "sizes", 1) for size in description["sizes"])
    if params.size != sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes)):
        raise ValueError(f"sizes {sizes} do not go with {params.size} parameters")
    model = build(estimator, sizes, description["dtype"])
    if params.shape != model.params.shape or params.dtype != model.params.dtype:
        raise ValueError(f"params is {params.dtype} of shape {params.shape}")
    if not np.isfinite(params).all():
        raise ValueError("it holds parameters that are not finite")
    model.params[:] = params
    adopt(estimator, Network(model))
    attributes = reader.read(description["attributes"])
    _check(attributes, vars(estimator).get("_labels"), sizes)
    vars(estimator).update((name, attributes[name]) for name in ATTRIBUTES if name in attributes)
    stream = reader.read(description["random_state"])
    if stream is None:
        stream = parameters["random_state"]
    if isinstance(stream, np.random.RandomState):
        estimator._random_state = stream
    else:
        estimator._random_state = np.random.RandomState()
    if "session" in description:
        held = description["session"]
        network = estimator._network
        network.seed, step = as_int(held["seed"], "seed", 0), as_int(held["step"], "step", 0)
        if max(network.seed, step) >= 2**62:
            raise ValueError(f"seed and step are {network.seed} and {step}, expected below 2**62")
        if held["optimizer"] == estimator.solver:
            session = session_of(estimator)
            moments = [tensors[f"moments.{i}"] for i in range(len(session.moments))]
            network.set_moments(moments, step)
    return estimator


def _check(attributes: dict[str, Any], labels: Labels | None, sizes: tuple[int, ...]) -> None:
    """Raise ValueError or TypeError where attributes do not go with the network, or each other."""
    if as_int(attributes["n_features_in_"], "n_features_in_", 1) != sizes[0]:
        raise ValueError(f"n_features_in_ is {attributes['n_features_in_']}, not {sizes[0]}")
    names = attributes.get("feature_names_in_")
    if names is not None:
        _expect(isinstance(names, np.ndarray) and names.shape == sizes[:1], "feature_names_in_")
        _expect(all(isinstance(name, str) for name in names), "feature_names_in_")
    for name in COUNTS:
        as_int(attributes[name], name, 0)
    for name in NUMBERS:
        _expect(_is_number(attributes.get(name)), name)
    for name in CURVES:
        curve = attributes.get(name)
        _expect(curve is None or (isinstance(curve, list) and all(map(_is_number, curve))), name)
    _expect(("_rate" in attributes) == ("_rate_began" in attributes), "_rate")
    for name in ("_rate_began", "_judged_by"):
        pair = attributes.get(name, ())
        _expect(isinstance(pair, tuple) and not any(np.ndim(part) for part in pair), name)
    split = attributes.get("_split")
    if split is not None:  # the core goes to these rows without looking
        order, held = split
        rows = np.sort(np.concatenate([order, held]))
        _expect(order.dtype == held.dtype == np.intp, "_split")
        _expect(bool((rows == np.arange(len(rows))).all()), "_split")
    if labels is not None:
        classes, weights = labels.classes, attributes.get("_weights")
        _expect(labels.kind in ("binary", "multiclass", "multilabel"), "labels")
        _expect(isinstance(classes, np.ndarray) and classes.ndim == 1, "labels")
        _expect(len(classes) > 0 and bool((classes[1:] > classes[:-1]).all()), "labels")
        _expect(labels.kind != "binary" or len(classes) <= 2, "labels")
        _expect(labels.n_outputs == sizes[-1] and isinstance(labels.is_sparse, bool), "labels")
        _expect(np.array_equal(attributes["classes_"], classes), "classes_")
        _expect(weights is None or np.shape(weights) == classes.shape, "_weights")


def _expect(holds: bool, name: str) -> None:
    if not holds:
        raise ValueError(f"{name} does not go with the rest")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _run(held: dict[str, Any], estimator: Any) -> Run:
    """Return what a file says of a run, checked."""
    run = Run(**held)
    params = estimator._network.model.params
    if not isinstance(run.over, bool) or type(run.n_samples) is not int:
        raise TypeError(f"its run is over={run.over!r}, n_samples={run.n_samples!r}")
    rows = [run.order] if run.held is None else [run.order, run.held]
    if any(part.dtype != np.intp or part.ndim != 1 for part in rows):
        raise ValueError("its rows are not valid")
    together = np.concatenate(rows)
    if len(together) != run.n_samples or not np.array_equal(
        np.sort(together), np.arange(run.n_samples)
    ):
        raise ValueError(f"its rows are not those of {run.n_samples}")
    if run.best is not None and (
        (run.best.shape, run.best.dtype) != (params.shape, params.dtype)
        or not np.isfinite(run.best).all()
    ):
        raise ValueError("its best parameters are not those of its network")
    if (run.best is not None) != bool(estimator.early_stopping):
        raise ValueError("it holds best parameters if and only if early_stopping is not set")
    return run


def _own_stream(estimator: Any, of_numpy: bool = False) -> Any:
    """Return the random stream, or None where it is the parameter.

    NumPy's global stream is None as well, unless it is asked for.
    """
    if estimator._random_state is estimator.random_state:
        return None
    if estimator.random_state is None and not of_numpy:
        return None
    return estimator._random_state


class _Writer:
    """Turns values into what JSON can hold, and numeric arrays into tensors.

    What JSON has no word for becomes a dict with a single key that says what it is.
    """

    def __init__(self, tensors: dict[str, Array]) -> None:
        self.tensors = tensors

    def write(self, value: Any, name: str) -> Any:
        """Return `value` for JSON; `name` says in messages what it is."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, list):
            if value and all(type(item) is float for item in value):
                return {"floats": self._array(np.array(value), name)}
            return [self.write(item, f"{name}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": self.write(list(value), name)}
        if isinstance(value, dict):
            pairs = [[key, item] for key, item in value.items()]
            return {"dict": self.write(pairs, name)}
        if isinstance(value, np.ndarray):
            return self._array(value, name)
        if isinstance(value, np.random.RandomState):
            state = value.get_state(legacy=False)
            if state["bit_generator"] == "MT19937":
                return {"RandomState": self.write(state, name)}
        if value in (np.float32, np.float64):
            return {"dtype": np.dtype(value).name}
        raise TypeError(
            f"{name} is {value!r}, which a safetensors file cannot hold; set it to None, or pickle "
            "the estimator"
        )

    def _array(self, array: Array, name: str) -> Any:
        if array.dtype.kind in TENSORS:
            key = f"array.{len(self.tensors)}"
            # safetensors knows the order of bytes of this machine only.
            self.tensors[key] = array.astype(array.dtype.newbyteorder("="))
            return {"tensor": key}
        dtype = "object" if array.dtype.kind == "O" else str(array.dtype)
        return {"array": [dtype, self.write(array.tolist(), name)]}


class _Reader:
    """Undoes what `_Writer` has done."""

    def __init__(self, tensors: dict[str, Array]) -> None:
        self.tensors = tensors

    def read(self, value: Any) -> Any:
        """Return the value that was written."""
        if isinstance(value, list):
            return [self.read(item) for item in value]
        if not isinstance(value, dict):
            return value
        ((what, held),) = value.items()
        if what == "float":
            return float(held)
        if what == "floats":
            return self.read(held).tolist()
        if what == "tuple":
            return tuple(self.read(held))
        if what == "dict":
            return dict(self.read(held))
        if what == "tensor":
            return self.tensors[held]
        if what == "array":
            return self._array(*held)
        if what == "dtype":
            return {"float32": np.float32, "float64": np.float64}[held]
        if what == "RandomState":
            stream = np.random.RandomState()
            stream.set_state(self.read(held))
            return stream
        raise ValueError(f"{what!r} is no kind of value")

    def _array(self, kind: str, values: Any) -> Array:
        dtype = np.dtype(kind) if isinstance(kind, str) else np.dtype(None)
        values = self.read(values)
        if dtype.itemsize * len(values) > MOST_TEXT and dtype.kind != "O":
            raise ValueError(f"an array of {len(values)} {kind} is too large")
        return np.array(values, dtype)
