"""The networks as scikit-learn estimators: `MLPClassifier` and `MLPRegressor`.

The floor of meaning. parameters: what they may be. labels: what classes are to a network.
network: parameters in training and on view. base: what both estimators share, the order of a fit.
solvers: epochs and L-BFGS, and when they stop. steps: partial_fit. training: the run of a fit.
validation: the rows held out, and the scores on them. watch: who is told of every epoch.
files: safetensors. values: what of Python such a file holds. conversion: from and to other models.
display: the loss curve.
"""

_NEEDED = (1, 6)
_ADVICE = "install it with: pip install 'scikit-learn>=1.6'"

try:
    import sklearn
except ImportError as error:
    raise ImportError(
        f"MLPClassifier, MLPRegressor and LossCurveDisplay need scikit-learn; {_ADVICE}"
    ) from error

if tuple(int(part) for part in sklearn.__version__.split(".")[:2]) < _NEEDED:
    raise ImportError(
        "MLPClassifier, MLPRegressor and LossCurveDisplay need scikit-learn 1.6 or later, "
        f"here is {sklearn.__version__}; {_ADVICE}"
    )

from fastmlp.estimators.classifier import MLPClassifier  # noqa: E402
from fastmlp.estimators.display import LossCurveDisplay  # noqa: E402
from fastmlp.estimators.regressor import MLPRegressor  # noqa: E402

__all__ = ["LossCurveDisplay", "MLPClassifier", "MLPRegressor"]
