"""The documentation tells the truth: its examples run, its types check, its names exist."""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastmlp

ROOT = Path(__file__).parents[1]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(fastmlp.__path__, "fastmlp.")
    if not module.name.rpartition(".")[2].startswith("_")
]


@pytest.mark.parametrize("name", ["fastmlp", *MODULES])
def test_examples_in_docstrings(name):
    with np.printoptions(legacy=False):
        result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_examples_in_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


def test_the_session_in_the_page_for_scikit_learn(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "scikit-learn.md").read_text()
    # What is not a session becomes empty lines, so that failures name the line of the page.
    kept, inside = [], False
    for line in page.splitlines():
        inside = line == "```pycon" or (inside and line != "```")
        kept.append(line if inside and line != "```pycon" else "")
    session = doctest.DocTestParser().get_doctest("\n".join(kept), {}, "scikit-learn.md", None, 0)
    assert len(session.examples) == page.count("\n>>> ") > 30
    with np.printoptions(legacy=False), warnings.catch_warnings():
        result = doctest.DocTestRunner().run(session)
    assert result.failed == 0


def public_objects():
    for name in MODULES:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []):
            thing = getattr(module, public)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                yield f"{name}.{public}", thing
                if inspect.isclass(thing):
                    for method, member in vars(thing).items():
                        if not method.startswith("_") and callable(member):
                            yield f"{name}.{public}.{method}", member


@pytest.mark.parametrize("name, thing", list(public_objects()))
def test_every_public_name_is_documented(name, thing):
    assert inspect.getdoc(thing), f"{name} has no docstring"


def test_a_users_program_type_checks(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import numpy as np
            import fastmlp

            X, y = fastmlp.data.load_digits()
            model = fastmlp.MLP([64, 100, 10], activation="relu", seed=0)
            trainer = fastmlp.SGD(model, learning_rate=fastmlp.schedules.step(0.1, every=10))

            def stop(history: fastmlp.History) -> bool:
                return history.loss[-1] < 0.1

            history = trainer.fit(X / 16, y, epochs=20, validation_data=(X, y), callback=stop)
            last: float = history.validation_accuracy[-1]
            labels: np.ndarray = model.predict(X)
            loss, dweights, dbiases = model.gradients(X, y)
            first: np.ndarray = dweights[0]
            model.save("m.safetensors")
            model = fastmlp.MLP.load("m.safetensors")
            classifier = fastmlp.MLPClassifier((100,), max_iter=3, dropout=0.1).fit(X, y)
            score: float = classifier.score(X, y)
            Y = fastmlp.kernels.linear_forward(X, model.weights[0], model.biases[0])
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", program.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    program.write_text("import fastmlp\nfastmlp.MLP([2, 2]).predict(X=1, y=2)\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", program.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Unexpected keyword argument" in done.stdout


def test_tools_are_satisfied():
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
