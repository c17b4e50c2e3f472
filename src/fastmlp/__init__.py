"""Multilayer perceptrons on the CPU at the speed of the silicon."""

from typing import TYPE_CHECKING, Any

from fastmlp import data, kernels, schedules
from fastmlp.engines import show_config
from fastmlp.errors import DivergedError, FileFormatError
from fastmlp.history import History
from fastmlp.model import MLP
from fastmlp.trainer import SGD, Adam

if TYPE_CHECKING:
    from fastmlp.explain import this as explain

__version__ = "0.1.0"
__all__ = [
    "MLP",
    "SGD",
    "Adam",
    "DivergedError",
    "FileFormatError",
    "History",
    "data",
    "explain",
    "kernels",
    "schedules",
    "show_config",
]


def __getattr__(name: str) -> Any:
    """Import `explain`, which few programs need, when it is first asked for."""
    if name != "explain":
        raise AttributeError(f"module 'fastmlp' has no attribute {name!r}")
    import importlib

    return importlib.import_module("fastmlp.explain")
