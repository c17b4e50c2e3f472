"""What a network may be: widths, activations, losses and their parameters."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fastmlp._core import ACTIVATIONS
from fastmlp.inputs import as_int, as_real
from fastmlp.losses import DEFAULT_PARAMETER

__all__ = ["abridged", "activations_of", "choice", "count", "parameter_of", "widths"]


def widths(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the width of every layer, or raise TypeError or ValueError."""
    is_scalar = isinstance(sizes, np.ndarray) and sizes.ndim == 0  # which has a __len__
    if isinstance(sizes, str | bytes) or not hasattr(sizes, "__len__") or is_scalar:
        raise TypeError(f"sizes is {sizes!r}, expected a sequence of layer widths")
    if len(sizes) < 2:
        raise ValueError(f"sizes is {sizes!r}, expected at least inputs and outputs")
    return tuple(as_int(n, f"sizes[{i}]", 1) for i, n in enumerate(sizes))


def abridged(sizes: tuple[int, ...]) -> str:
    """Return the sizes as a list, without those in the middle of a long one."""
    if len(sizes) <= 10:
        return str(list(sizes))
    ends = [", ".join(map(str, part)) for part in (sizes[:5], sizes[-2:])]
    return f"[{ends[0]}, ..., {ends[1]}]"


def count(sizes: Sequence[int]) -> int:
    """Return the number of weights and biases of a network."""
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))


def choice(value: Any, name: str, choices: dict[str, int]) -> str:
    """Return a name that is one of `choices`, or raise ValueError."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")
    return value


def activations_of(activation: str | Sequence[str], n_hidden: int) -> tuple[str, ...]:
    """Return the activation of every hidden layer."""
    if isinstance(activation, str):
        return (choice(activation, "activation", ACTIVATIONS),) * n_hidden
    if not isinstance(activation, Sequence):
        raise TypeError(f"activation is {activation!r}, expected a name or a list of names")
    if len(activation) != n_hidden:
        raise ValueError(
            f"activation has {len(activation)} entries, expected {n_hidden}: one for every hidden "
            f"layer"
        )
    return tuple(choice(name, f"activation[{i}]", ACTIVATIONS) for i, name in enumerate(activation))


def parameter_of(loss: str, parameter: float | None) -> float:
    """Return the parameter of a loss, 0 where it has none."""
    if loss not in DEFAULT_PARAMETER:
        if parameter is not None:
            raise ValueError(f"loss_parameter is {parameter!r}, but {loss} has no parameter")
        return 0.0
    if parameter is None:
        return DEFAULT_PARAMETER[loss]
    value = as_real(parameter, "loss_parameter", 0, below=1 if loss == "quantile" else np.inf)
    if value == 0:
        raise ValueError(f"loss_parameter is 0, expected above 0 for {loss}")
    return value
