"""scikit-learn's own tests of its networks, as they are installed, run on ours.

Their module is loaded under another name while ``sklearn.neural_network`` shows our classes, and
every test function in it becomes one of this module, with its parameters.
"""

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
import sklearn.neural_network

import fastmlp

pytestmark = pytest.mark.filterwarnings("ignore")

SOURCE = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
if SOURCE is None or SOURCE.origin is None:
    pytest.skip("scikit-learn was installed without its tests", allow_module_level=True)

# What these tests ask of scikit-learn's class is not part of what it promises to anybody.
PRIVATE = {
    "test_fit": "fills in the attributes of a fit by hand, with _coef_grads and _coef_velocity",
    "test_gradient": "calls _loss_grad_lbfgs with buffers of scikit-learn's backpropagation",
    "test_learning_rate_warmstart": "reads the rate from _optimizer",
    "test_adaptive_learning_rate": "reads the rate from _optimizer",
}


def their_tests():
    """The module of scikit-learn's tests, with our classes where it imports its own."""
    module = importlib.util.module_from_spec(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLPClassifier", "MLPRegressor"):
            patch.setattr(sklearn.neural_network, name, getattr(fastmlp, name))
        SOURCE.loader.exec_module(module)
    return module


THEIRS = their_tests()
TESTS = {name: test for name, test in vars(THEIRS).items() if name.startswith("test_")}
for name, reason in PRIVATE.items():
    if name in TESTS:
        TESTS[name] = pytest.mark.xfail(reason=reason, strict=True)(TESTS[name])
globals().update(TESTS)


@pytest.fixture(params=[42])
def global_random_seed(request):
    """The one fixture of scikit-learn's that they need, with its default."""
    return request.param


def private_names(test):
    """Attributes beginning with an underscore that a test reads, sets or calls."""
    tree = ast.parse(inspect.getsource(test))
    attributes = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {attribute for attribute in attributes if attribute.startswith("_")}


def test_ours_are_tested():
    assert THEIRS.MLPClassifier is fastmlp.MLPClassifier
    assert THEIRS.MLPRegressor is fastmlp.MLPRegressor
    assert sklearn.neural_network.MLPClassifier is not fastmlp.MLPClassifier


def test_only_what_reaches_for_private_names_is_expected_to_fail():
    for name in set(PRIVATE) & set(TESTS):
        assert any(private in PRIVATE[name] for private in private_names(TESTS[name])), name


def test_none_is_lost(request):
    """As many tests, with the same parameters, as pytest finds in scikit-learn's own file."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    command += ["-c", os.devnull, SOURCE.origin]
    found = subprocess.run(command, capture_output=True, text=True)
    expected = set(re.findall(r"test_mlp\.py::(.+)", found.stdout))
    assert len(expected) > 40, found.stdout + found.stderr
    names = {item.name for item in request.node.parent.collect()}
    assert {name for name in names if name.partition("[")[0] in TESTS} == expected
