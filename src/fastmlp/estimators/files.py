"""Estimators in safetensors files: tensors for the numbers, JSON for the rest, no pickle."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import atomic, persist
from fastmlp._core import first_nonfinite
from fastmlp.definition import count
from fastmlp.errors import FileFormatError, cut
from fastmlp.estimators.labels import Labels
from fastmlp.estimators.network import Network
from fastmlp.estimators.parameters import hidden_sizes
from fastmlp.estimators.training import Run, adopt, build
from fastmlp.estimators.training import session as session_of
from fastmlp.estimators.values import Reader, Writer
from fastmlp.inputs import as_int
from fastmlp.modelfile import check_finite
from fastmlp.session import MOMENTS

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
MOST = 2**62  # of counts, so that there is room to count on
COUNTS = ("n_iter_", "t_", "_no_improvement_count")
NUMBERS = ("loss_", "best_loss_", "best_validation_score_")
CURVES = ("loss_curve_", "validation_loss_curve_", "validation_scores_")


def check(estimator: Any, path: Path_) -> None:
    """Raise what writing checkpoints would raise, as far as that can be known before training."""
    atomic.check_writable(path)
    if estimator.solver == "lbfgs":
        raise ValueError("checkpoints are of solver='sgd' or 'adam': lbfgs has no state to keep")
    _parameters(estimator, Writer({}))


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
    writer = Writer(tensors)
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


def _parameters(estimator: Any, writer: Writer) -> dict[str, Any]:
    parameters = estimator.get_params(deep=False)
    return {name: writer.write(value, name) for name, value in parameters.items()}


def load(cls: Any, path: Path_, *, resume: bool = False) -> Any:
    """Return the estimator of class `cls` that a file holds, perhaps to go on with its fit."""
    with persist.reading(path) as stored:
        description = stored.description
        kind = description.get("estimator")
        if kind is None and "sizes" in description:
            stored.refuse(
                f"it holds a fastmlp.MLP: read it with MLP.load, then {cls.__name__}.from_mlp"
            )
        if kind != cls.__name__:
            stored.refuse(f"it holds {cut(repr(kind))}, not {cls.__name__}")
        if resume and "run" not in description:
            stored.refuse("it holds a fitted estimator but no run to go on with")
        stored.verify()  # first, so that each tensor can be read to where it belongs
        try:
            reader = Reader(stored.take)
            estimator = _restored(cls, stored, reader)
            if resume:
                estimator._run = _run(reader.read(description["run"]), estimator)
        except FileFormatError:
            raise
        except persist.DAMAGE as error:
            stored.refuse(f"its description is not valid ({cut(str(error), 200)})")
    return estimator


def _restored(cls: Any, stored: persist.Stored, reader: Reader) -> Any:
    description = stored.description
    parameters = {name: reader.read(value) for name, value in description["parameters"].items()}
    estimator = cls(**parameters)
    estimator._validate_params()
    for size in hidden_sizes(estimator):
        as_int(size, "hidden_layer_sizes", 1)
    if "labels" in description:
        estimator._labels = Labels(**reader.read(description["labels"]))
    sizes = tuple(as_int(size, "sizes", 1) for size in description["sizes"])
    dtype, (n,) = params = stored.shapes["params"]
    if n != count(sizes) or dtype != description["dtype"]:
        raise ValueError(f"sizes {sizes} of {description['dtype']} do not go with {n} of {dtype}")
    model = build(estimator, sizes, description["dtype"])
    stored.take("params", model.params)
    check_finite(model)
    adopt(estimator, Network(model))
    attributes = reader.read(description["attributes"])
    _check(attributes, vars(estimator).get("_labels"), sizes)
    vars(estimator).update((name, attributes[name]) for name in ATTRIBUTES if name in attributes)
    stream = reader.read(description["random_state"])
    if stream is None and isinstance(parameters["random_state"], np.random.RandomState):
        stream = parameters["random_state"]
    _expect(stream is None or isinstance(stream, np.random.RandomState), "random_state")
    estimator._random_state = np.random.RandomState() if stream is None else stream
    if "session" in description:
        held = description["session"]
        network = estimator._network
        network.seed, step = _count(held, "seed"), _count(held, "step")
        if held["optimizer"] == estimator.solver:
            n_moments = MOMENTS[held["optimizer"]]
            if any(stored.shapes[f"moments.{i}"] != params for i in range(n_moments)):
                raise ValueError("its moments are not those of its network")
            session = session_of(estimator)
            for i, moment in enumerate(session.moments):
                stored.take(f"moments.{i}", moment)
                if first_nonfinite(moment) >= 0:
                    raise ValueError("it holds moments that are not finite")
            session.step = step
            session.load()
    return estimator


def _count(held: dict[str, Any], name: str) -> int:
    number = as_int(held[name], name, 0)
    if number >= MOST:
        raise ValueError(f"{name} is {cut(str(number))}, expected below 2**62")
    return number


def _check(attributes: dict[str, Any], labels: Labels | None, sizes: tuple[int, ...]) -> None:
    """Raise ValueError or TypeError where attributes do not go with the network, or each other."""
    if as_int(attributes["n_features_in_"], "n_features_in_", 1) != sizes[0]:
        raise ValueError(f"n_features_in_ is {attributes['n_features_in_']}, not {sizes[0]}")
    names = attributes.get("feature_names_in_")
    if names is not None:
        _expect(isinstance(names, np.ndarray) and names.shape == sizes[:1], "feature_names_in_")
        _expect(all(isinstance(name, str) for name in names), "feature_names_in_")
    for name in COUNTS:
        _count(attributes, name)
    for name in NUMBERS:
        number = attributes.get(name)
        _expect(number is None or _is_number(number), name)
    for name in CURVES:
        curve = attributes.get(name, [])
        none = curve is None and name != "loss_curve_"
        _expect(none or (isinstance(curve, list) and all(map(_is_number, curve))), name)
    _expect(("_rate" in attributes) == ("_rate_began" in attributes), "_rate")
    _expect(isinstance(attributes.get("_schedule", ""), str), "_schedule")
    rate = attributes.get("_rate", 0.0)
    _expect(_is_number(rate) and 0 <= rate < np.inf, "_rate")
    for name in ("_rate_began", "_judged_by"):
        pair = attributes.get(name, ())
        _expect(isinstance(pair, tuple) and not any(np.ndim(part) for part in pair), name)
    split = attributes.get("_split")
    if split is not None:  # the core goes to these rows without looking
        order, held = split
        _expect(order.dtype == held.dtype == np.intp, "_split")
        _expect(order.ndim == held.ndim == 1, "_split")
        rows = np.sort(np.concatenate([order, held]))
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
    # NumPy cannot calculate with larger integers.
    return type(value) is float or (type(value) is int and abs(value) < MOST)


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
        or first_nonfinite(run.best) >= 0
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
