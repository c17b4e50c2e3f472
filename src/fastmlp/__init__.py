"""Multilayer perceptrons on the CPU at the speed of the silicon."""

from fastmlp import data, kernels, schedules
from fastmlp.engines import show_config
from fastmlp.errors import DivergedError, FileFormatError
from fastmlp.history import History
from fastmlp.model import MLP
from fastmlp.trainer import SGD, Adam

__version__ = "0.1.0"
__all__ = [
    "MLP",
    "SGD",
    "Adam",
    "DivergedError",
    "FileFormatError",
    "History",
    "data",
    "kernels",
    "schedules",
    "show_config",
]
