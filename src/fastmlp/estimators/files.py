"""Estimators in safetensors files: tensors for the numbers, JSON for the rest, no pickle."""

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import persist
from fastmlp.estimators.labels import Labels
from fastmlp.estimators.network import Network
from fastmlp.estimators.training import adopt, build
from fastmlp.estimators.training import session as session_of

__all__ = ["load", "save"]

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
# Arrays of other kinds than these are lists in the JSON.
TENSORS = "biuf"


def save(estimator: Any, path: Path_) -> None:
    """Write a fitted estimator."""
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
    description["random_state"] = writer.write(_own_stream(estimator), "random_state")
    parameters = estimator.get_params(deep=False)
    description["parameters"] = {
        name: writer.write(value, name) for name, value in parameters.items()
    }
    persist.save(path, tensors, description)


def load(cls: Any, path: Path_) -> Any:
    """Return the estimator of class `cls` that a file holds."""
    tensors, description = persist.load(path)
    kind = description.get("estimator")
    if kind is None and "sizes" in description:
        raise persist.not_a_model(
            path, f"it holds a fastmlp.MLP: read it with MLP.load, then {cls.__name__}.from_mlp"
        )
    if kind != cls.__name__:
        raise persist.not_a_model(path, f"it holds {kind!r}, not {cls.__name__}")
    try:
        return _restored(cls, tensors, description)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise persist.not_a_model(path, f"its description is not valid ({error})") from None


def _restored(cls: Any, tensors: dict[str, Array], description: dict[str, Any]) -> Any:
    reader = _Reader(tensors)
    parameters = {name: reader.read(value) for name, value in description["parameters"].items()}
    estimator = cls(**parameters)
    estimator._validate_params()
    if "labels" in description:
        estimator._labels = Labels(**reader.read(description["labels"]))
    params = tensors["params"]
    model = build(estimator, tuple(description["sizes"]), description["dtype"])
    if params.shape != model.params.shape or params.dtype != model.params.dtype:
        raise ValueError(f"params is {params.dtype} of shape {params.shape}")
    if not np.isfinite(params).all():
        raise ValueError("it holds parameters that are not finite")
    model.params[:] = params
    adopt(estimator, Network(model))
    attributes = reader.read(description["attributes"])
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
        network.seed = held["seed"]
        if held["optimizer"] == estimator.solver:
            session = session_of(estimator)
            moments = [tensors[f"moments.{i}"] for i in range(len(session.moments))]
            network.set_moments(moments, held["step"])
    return estimator


def _own_stream(estimator: Any) -> Any:
    """Return the random stream, or None where it is the parameter or NumPy's global one."""
    if estimator.random_state is None or estimator._random_state is estimator.random_state:
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
        if what == "tuple":
            return tuple(self.read(held))
        if what == "dict":
            return dict(self.read(held))
        if what == "tensor":
            return self.tensors[held]
        if what == "array":
            return np.array(self.read(held[1]), dtype=held[0])
        if what == "dtype":
            return {"float32": np.float32, "float64": np.float64}[held]
        if what == "RandomState":
            stream = np.random.RandomState()
            stream.set_state(self.read(held))
            return stream
        raise ValueError(f"{what!r} is no kind of value")
