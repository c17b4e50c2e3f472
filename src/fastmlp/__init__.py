"""Multilayer perceptrons on the CPU at the speed of the silicon."""

from typing import TYPE_CHECKING, Any

from fastmlp import data, kernels, schedules
from fastmlp.engines import show_config
from fastmlp.errors import DivergedError, FileFormatError
from fastmlp.history import History
from fastmlp.model import MLP
from fastmlp.optimizers import SGD, Adam

if TYPE_CHECKING:
    from fastmlp.estimators import LossCurveDisplay, MLPClassifier, MLPRegressor
    from fastmlp.explain import this as explain

__version__ = "0.1.0"
__all__ = [
    "MLP",
    "SGD",
    "Adam",
    "DivergedError",
    "FileFormatError",
    "History",
    "LossCurveDisplay",
    "MLPClassifier",
    "MLPRegressor",
    "data",
    "explain",
    "kernels",
    "schedules",
    "show_config",
]

# Imported when first asked for: these need scikit-learn, and few programs need `explain`.
_ESTIMATORS = ("LossCurveDisplay", "MLPClassifier", "MLPRegressor")


def __getattr__(name: str) -> Any:
    if name == "explain":
        import fastmlp.explain

        return fastmlp.explain
    if name not in _ESTIMATORS:
        raise AttributeError(f"module 'fastmlp' has no attribute {name!r}")
    from fastmlp import estimators

    return getattr(estimators, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ESTIMATORS, "explain"})
