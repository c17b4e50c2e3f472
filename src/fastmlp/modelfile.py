"""Models in files: the tensors and the description that `persist` writes and reads."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import persist
from fastmlp._core import first_nonfinite
from fastmlp.atomic import Path_
from fastmlp.definition import count
from fastmlp.errors import cut
from fastmlp.inputs import as_int, as_real

if TYPE_CHECKING:
    from fastmlp.model import MLP

__all__ = ["check_finite", "described", "load", "parts", "save", "tensors"]

Array = NDArray[Any]
Model = TypeVar("Model", bound="MLP")


def save(model: "MLP", path: Path_) -> None:
    """Write a model, as it stands."""
    persist.save(path, *parts(model))


def load(kind: type[Model], path: Path_) -> Model:
    """Return the model of class `kind` that a file holds."""
    with persist.reading(path) as stored:
        if "estimator" in stored.description:
            name = cut(str(stored.description["estimator"]))
            stored.refuse(f"it holds an estimator: read it with {name}.load")
        model = described(kind, stored.description, stored.shapes)
        stored.read(tensors(model, model.params))
        check_finite(model)
    return model


def parts(model: "MLP", params: Array | None = None) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return what the file of a model holds: its tensors, and its description for JSON.

    `params` are other parameters than it has now.
    """
    if params is None:
        params = model.read()
    if first_nonfinite(params) >= 0:
        raise ValueError("the model has parameters that are not finite; it was not saved")
    if not isinstance(model.metadata, dict):
        raise TypeError(f"metadata is {type(model.metadata).__name__}, expected a dict")
    clip = as_real(model.probability_clip, "probability_clip", 0, below=0.5)
    description = {
        "sizes": list(model.sizes),
        "activation": model.activation,
        "loss": model.loss_name,
        "dtype": model.dtype,
        **({"loss_parameter": model.loss_parameter} if model.loss_parameter else {}),
        **({"probability_clip": clip} if clip else {}),
        "metadata": model.metadata,
    }
    return tensors(model, params), description


def tensors(model: "MLP", params: Array) -> dict[str, Array]:
    """Return the weights and biases in an array like `params` under their names in a file."""
    weights, biases = model.split(params)
    named = {f"weights.{i}": W for i, W in enumerate(weights)}
    return named | {f"biases.{i}": b for i, b in enumerate(biases)}


def described(
    kind: type[Model],
    description: dict[str, Any],
    shapes: Mapping[str, tuple[Any, tuple[int, ...]]],
) -> Model:
    """Return the model of `parts` with parameters of 0, or raise ValueError.

    `shapes` are dtype and shape of its tensors, by name; they have to be those the description
    asks for, which is found before any memory is taken.
    """
    try:
        description = dict(description)
        metadata = description.pop("metadata")
        clip = description.pop("probability_clip", 0.0)
        clip = as_real(clip, "probability_clip", 0, below=0.5)
        if not isinstance(metadata, dict):
            raise TypeError("its metadata is not a dict")
        # A text among them, multiplied, would be as long as the numbers say.
        sizes = [as_int(n, f"sizes[{i}]", 1) for i, n in enumerate(description["sizes"])]
        held = sum(math.prod(shape) for _, shape in shapes.values())
        if held != count(sizes):
            raise ValueError(f"sizes {sizes} do not go with {held} parameters")
        model = object.__new__(kind)
        model._define(**{"loss_parameter": None, **description})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its description is not valid ({error})") from None
    dtype = np.dtype(model.dtype)
    views = tensors(model, model.params)
    for name, view in views.items():
        if shapes.get(name) != (dtype, view.shape):
            raise ValueError(f"{name} is not {model.dtype} of shape {view.shape}")
    if len(shapes) > len(views):
        raise ValueError(f"it holds more than its sizes say: {sorted(set(shapes) - set(views))}")
    model.metadata, model.probability_clip = metadata, clip
    return model


def check_finite(model: "MLP") -> None:
    """Raise ValueError where a parameter read from a file is not finite."""
    if first_nonfinite(model.params) >= 0:
        raise ValueError("it holds parameters that are not finite")
