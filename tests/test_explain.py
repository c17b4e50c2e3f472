"""explain: hand-written numbers, derivatives against differences, paths against the engine."""

import doctest
import importlib
import itertools
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from tolerances import roundoff

import fastmlp
from fastmlp.explain import Recorder, collapse, compare, examples
from fastmlp.explain import check as checks

ACTIVATIONS = ("relu", "identity", "tanh", "logistic", "leaky_relu", "gelu", "silu")
LOSSES = (
    "softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "absolute_error",
    "huber", "quantile",
)  # fmt: skip


def random_case(seed, dtype="float64"):
    """Return a random network of up to 4 layers, with any activations and loss, and some rows."""
    rng = np.random.default_rng(seed)
    loss = LOSSES[seed % len(LOSSES)]
    sizes = [int(n) for n in rng.integers(1, 6, rng.integers(2, 6))]
    sizes[-1] += loss == "softmax_cross_entropy"
    names = [str(name) for name in rng.choice(ACTIVATIONS, len(sizes) - 2)]
    model = fastmlp.MLP(sizes, activation=names, loss=loss, dtype=dtype, seed=seed)
    model.params[:] += rng.normal(0, 0.3, model.n_parameters)
    n = int(rng.integers(1, 6))
    X = rng.normal(size=(n, sizes[0]))
    if model.classifies:
        return model, X, rng.integers(0, sizes[-1], n)
    if loss == "binary_cross_entropy":
        return model, X, rng.integers(0, 2, (n, sizes[-1])).astype(float)
    return model, X, np.abs(rng.normal(1, 1, (n, sizes[-1])))


@pytest.fixture(scope="module")
def chain():
    model, X, y, rate = examples.chain()
    return fastmlp.explain(model, X, y, learning_rate=rate)


@pytest.fixture(scope="module")
def two_layer():
    model, X, y, rate = examples.two_layer()
    return fastmlp.explain(model, X, y, learning_rate=rate)


def test_chain_by_hand(chain):
    assert chain.loss == 3.0
    np.testing.assert_array_equal(chain.row_losses, [0, 0.5, 2, 4.5, 8])
    hidden, out = chain.layers
    np.testing.assert_array_equal(hidden.Z[:, 0], [0, 3, 6, 9, 12])
    np.testing.assert_array_equal(out.A[:, 0], [0, 3, 6, 9, 12])
    np.testing.assert_allclose(out.dZ[:, 0], np.array([0, 1, 2, 3, 4]) / 5, rtol=1e-15)
    assert hidden.dW.item() == 6 and out.dW.item() == 18
    assert hidden.W_after.item() == 3 - 0.01 * 6 and out.W_after.item() == 1 - 0.01 * 18
    path = chain.weight(0, 0, 0).paths[0]
    assert (path.row, path.product) == (4, 3.2)
    assert path.factors == (("dL/dy", 0.8), ("dy/dh", 1.0), ("dh/dW1", 4.0))
    assert chain.weight(1, 0, 0).paths[0].factors == (("dL/dy", 0.8), ("dy/dW2", 12.0))
    for weight, expected in ((chain.weight(0, 0, 0), 6), (chain.weight(1, 0, 0), 18)):
        assert weight.derivative == expected == pytest.approx(weight.total, rel=1e-15)
        assert weight.numerical == pytest.approx(expected, rel=1e-12)
    # W1 = 2.94, b1 = -0.02, W2 = 0.82, b2 = -0.02: y - 2x = 0.4108 x - 0.0364
    x = np.arange(5)
    assert chain.loss_after == pytest.approx(np.mean((0.4108 * x - 0.0364) ** 2) / 2, rel=1e-12)


def test_two_layer_by_hand(two_layer):
    first, second, last = two_layer.layers
    np.testing.assert_array_equal(first.Z, [[2, -1]])
    np.testing.assert_array_equal(first.fired, [[True, False]])
    np.testing.assert_array_equal(first.A, [[2, 0]])
    np.testing.assert_array_equal(second.A, [[2, 2]])
    np.testing.assert_array_equal(last.Z, [[2, 2]])
    np.testing.assert_array_equal(last.A, [[0.5, 0.5]])
    assert two_layer.loss == pytest.approx(np.log(2), rel=1e-15)
    np.testing.assert_array_equal(last.dZ, [[-0.5, 0.5]])
    np.testing.assert_array_equal(last.dW, [[-1, 1], [-1, 1]])
    np.testing.assert_array_equal(second.dZ, [[-0.5, 0.5]])
    np.testing.assert_array_equal(second.dW, [[-1, 1], [0, 0]])  # h1[1] is off: it sends nothing
    np.testing.assert_array_equal(first.dZ, [[-0.25, 0]])  # and nothing comes back through it
    np.testing.assert_array_equal(first.dW, [[-0.25, 0], [-0.5, 0]])
    off = two_layer.weight(0, 1, 1)
    assert off.derivative == off.total == off.numerical == 0 and off.n_paths == 4
    assert all(dict(path.factors)["dh1[1]/dz(h1[1])"] == 0 for path in off.paths)
    products = sorted(path.product for path in two_layer.weight(0, 0, 0).paths)
    assert products == [-0.5, 0, 0, 0.25]
    neuron = two_layer.neuron(0, 1)
    np.testing.assert_array_equal(neuron.terms, [1, -2])
    assert (neuron.z, neuron.a, neuron.fired, neuron.slope) == (-1, 0, False, 0)


@pytest.mark.parametrize("seed", range(100))
def test_every_derivative_of_random_networks(seed):
    model, X, y = random_case(seed)
    e = fastmlp.explain(model, X, y)
    found = e.check
    assert len(found.indices) == model.n_parameters or model.n_parameters > 200
    assert not found.kinks.any() and np.abs(found.derivatives).max() > 0
    assert found.largest <= 1e-6
    # Where differences can tell, the error is relative to the derivative itself.
    plain = np.abs(found.derivatives) > 1e-4 * np.abs(found.derivatives).max()
    error = np.abs(found.numerical - found.derivatives)[plain] / np.abs(found.derivatives[plain])
    assert error.max() <= 1e-6
    np.testing.assert_array_equal(found.derivatives, e.dparams[found.indices])
    assert e.turn.difference <= e.turn.tolerance < 1e-11


@pytest.mark.parametrize("seed", range(40))
def test_sum_over_all_paths(seed):
    """The sum over paths, listed or not, is dW of the engine to rounding."""
    model, X, y = random_case(seed)
    e = fastmlp.explain(model, X, y)
    for layer, part in enumerate(e.layers):
        for i, j in itertools.product(range(part.W.shape[0]), range(part.W.shape[1])):
            for limit in (10**9, 3):
                paths, n_paths, rest = fastmlp.explain.chain.chain(e.turn, layer, i, j, limit=limit)
                assert n_paths == len(X) * np.prod(model.sizes[layer + 2 :], dtype=int)
                assert len(paths) == min(n_paths, limit)
                total = sum(path.product for path in paths) + rest
                assert abs(total - part.dW[i, j]) <= e.turn.tolerance * np.abs(e.dparams).max()
        everything = sorted(abs(p.product) for p in e.weight(layer, 0, 0, limit=10**9).paths)
        few = sorted(abs(p.product) for p in e.weight(layer, 0, 0, limit=3).paths)
        np.testing.assert_allclose(few, everything[-len(few) :], rtol=1e-12)
        for path in e.weight(layer, 0, 0).paths:
            assert path.product == pytest.approx(np.prod([v for _, v in path.factors]), rel=1e-13)
        bias = e.weight(layer, None, 0)
        assert bias.total == pytest.approx(part.db[0], abs=1e-12 * np.abs(e.dparams).max())


@pytest.mark.parametrize("seed", range(20))
def test_sum_over_paths_is_exact_where_arithmetic_is(seed):
    """With numbers of few bits nothing is rounded, and the sum is dW to the last bit."""
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.integers(1, 5, 4)]
    model = fastmlp.MLP(sizes, activation="relu", loss="squared_error", dtype="float64")
    model.params[:] = rng.integers(-4, 5, model.n_parameters) / 4
    X = rng.integers(-4, 5, (4, sizes[0])) / 2
    e = fastmlp.explain(model, X, rng.integers(-4, 5, (4, sizes[-1])) / 2)
    assert e.turn.difference == 0
    for layer, part in enumerate(e.layers):
        for i, j in itertools.product(range(part.W.shape[0]), range(part.W.shape[1])):
            assert e.weight(layer, i, j).total == part.dW[i, j]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_trace_against_the_reference(loss, dtype):
    """dZ of every loss, and one turn as SGD takes it, to the bit."""
    model, X, y = random_case(LOSSES.index(loss) + 7, dtype)
    e = fastmlp.explain(model, X, y, learning_rate=0.05)
    assert e.X.dtype == dtype and e.turn.difference <= e.turn.tolerance
    before = model.params.copy()
    trainer = fastmlp.SGD(
        model, learning_rate=0.05, momentum=0, batch_size=len(X), shuffle=False, engine="blas"
    )
    history = trainer.fit(X, y, epochs=1)
    assert history.loss[0] == pytest.approx(e.loss, rel=16 * roundoff(dtype) * len(X))
    after = np.concatenate([a.ravel() for part in e.layers for a in (part.W_after, part.b_after)])
    assert not np.array_equal(after, before)
    bound = e.turn.tolerance * np.abs(e.dparams).max() * 0.05 + 2 * roundoff(dtype)
    np.testing.assert_allclose(after, model.params, atol=bound, rtol=2 * roundoff(dtype))
    assert e.loss_after == model.loss(X, y) or e.loss_after == pytest.approx(
        model.loss(X, y), rel=1e-5 if dtype == "float32" else 1e-12
    )


def test_trace_of_a_classifier_is_the_references():
    model, X, y = random_case(0)
    assert model.classifies
    e = fastmlp.explain(model, X, y)
    loss, P = reference.softmax_cross_entropy_forward(e.layers[-1].Z, y)
    assert e.loss == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(e.layers[-1].A, P, rtol=1e-13)
    expected = reference.softmax_cross_entropy_backward(P, y)
    np.testing.assert_allclose(e.layers[-1].dZ, expected, atol=1e-15)


@pytest.mark.parametrize("seed", range(7))
def test_input_derivatives(seed):
    model, X, y = random_case(seed)
    e = fastmlp.explain(model, X, y)
    expected = np.einsum("no,noi->ni", e.layers[-1].dZ, model.input_gradients(X))
    np.testing.assert_allclose(e.dX, expected, rtol=1e-10, atol=1e-14)


def test_many_rows_through_the_loss():
    """More rows than go through the loss at once."""
    rng = np.random.default_rng(0)
    model = fastmlp.MLP([2, 3, 1], loss="huber", dtype="float64", seed=0)
    X, y = rng.normal(size=(2500, 2)), rng.normal(size=(2500, 1))
    e = fastmlp.explain(model, X, y)
    assert e.turn.difference <= e.turn.tolerance and e.check.agrees


def test_kinks_are_seen():
    """A relu at exactly 0 has no derivative; just beside it, a small step finds it."""
    model = fastmlp.MLP([1, 1, 1], loss="squared_error", dtype="float64")
    model.params[:] = [1, 0, 1, 0]
    e = fastmlp.explain(model, [[0.0]], [1.0])
    assert e.check.kinks.tolist() == [False, True, False, False]
    assert "a kink" in e.text()
    model.params[1] = 1e-6
    assert not fastmlp.explain(model, [[0.0]], [1.0]).check.kinks.any()
    assert fastmlp.explain(model, [[0.0]], [1.0]).check.agrees


def test_a_wrong_derivative_is_noticed(monkeypatch):
    model, X, y = random_case(1)
    gradients = fastmlp.MLP.gradients

    def wrong(self, X, y):
        loss, dweights, dbiases = gradients(self, X, y)
        dweights[0][0, 0] += 1e-3 * np.abs(dweights[0]).max()
        return loss, dweights, dbiases

    monkeypatch.setattr(fastmlp.MLP, "gradients", wrong)
    e = fastmlp.explain(model, X, y)
    assert not e.check.agrees and not e.agrees
    assert e.turn.difference > e.turn.tolerance
    assert "THEY DISAGREE" in e.text()


def test_one_row_in_many_shapes():
    model = fastmlp.MLP([3, 2], dtype="float64", seed=1)
    loss = fastmlp.explain(model, [[1, 2, 3]], [1]).loss
    assert fastmlp.explain(model, [1, 2, 3], 1).loss == loss
    assert fastmlp.explain(model, np.array([1, 2, 3]), [1]).loss == loss
    model = fastmlp.MLP([3, 2], loss="squared_error", dtype="float64")
    loss = fastmlp.explain(model, [[1, 2, 3]], [[1, 0]]).loss
    assert fastmlp.explain(model, [1, 2, 3], [1, 0]).loss == loss
    model = fastmlp.MLP([1, 1], loss="squared_error", dtype="float64")
    assert len(fastmlp.explain(model, [1, 2, 3], [1, 0, 1]).X) == 3


def test_the_model_stays_and_the_explanation_too():
    model, X, y = random_case(3)
    before = model.params.copy()
    e = fastmlp.explain(model, X, y)
    text, page = e.text(), e.html()
    np.testing.assert_array_equal(model.params, before)
    model.params[:] = 7
    assert (e.text(), e.html()) == (text, page)


def test_largest_entries_of_a_large_network():
    X, y = fastmlp.data.load_digits()
    model = fastmlp.MLP([64, 100, 10], seed=0)
    e = fastmlp.explain(model, X[7] / 16, y[7])
    assert len(e.check.indices) == 200 and e.agrees
    smallest = np.abs(e.dparams[e.check.indices]).min()
    assert (np.abs(np.delete(e.dparams, e.check.indices)) <= smallest).all()
    text = e.text()
    assert "7,494 smaller derivatives left out; 200 were checked" in text
    assert "92 weaker neurons left out" in text and len(text.splitlines()) < 150
    assert e.weight(0, 30, 5).n_paths == 10


def test_bad_input():
    model = fastmlp.MLP([2, 2])
    for given, error, message in [
        (([[1, 2, 3]], [0]), ValueError, "X has 3 features, the model expects 2"),
        (([1, 2, 3], [0]), ValueError, r"X has shape \(3,\), expected"),
        (([[1, np.nan]], [0]), ValueError, r"X\[0, 1\] is nan"),
        (([[1, 2]], [2]), ValueError, r"y\[0\] is 2, expected a class number in 0..1"),
        (([[1, 2]], [0, 1]), ValueError, "y has 2 rows, X has 1"),
        ((np.empty((0, 2)), []), ValueError, "X has no rows"),
    ]:
        with pytest.raises(error, match=message):
            fastmlp.explain(model, *given)
    with pytest.raises(TypeError, match=r"model is str, expected fastmlp\.MLP"):
        fastmlp.explain("model", [[1, 2]], [0])
    with pytest.raises(ValueError, match="learning_rate is -1"):
        fastmlp.explain(model, [[1, 2]], [0], learning_rate=-1)
    with pytest.raises(ValueError, match="labels has 3 names, the model 2 outputs"):
        fastmlp.explain(model, [[1, 2]], [0], labels="abc")
    with pytest.raises(TypeError, match="recorder is list"):
        fastmlp.explain(model, [[1, 2]], [0], recorder=[])
    with pytest.raises(ValueError, match=r"recorder has a model of sizes \[3, 2\]"):
        fastmlp.explain(model, [[1, 2]], [0], recorder=Recorder(fastmlp.MLP([3, 2])))
    for given, ours, message in [
        ({"activation": "tanh"}, {}, r"activations \['tanh'\], this one has \['relu'\]"),
        ({"dtype": "float64"}, {}, "dtype float64, this one has float32"),
        ({"loss": "huber"}, {"loss": "poisson"}, "loss huber, this one has poisson"),
        ({"loss": "huber", "loss_parameter": 2}, {"loss": "huber"}, r"loss_parameter 2\.0, this"),
    ]:
        with pytest.raises(ValueError, match=f"recorder has a model of {message}"):
            recorder = Recorder(fastmlp.MLP([2, 3, 2], **given))
            target = [[1, 1]] if ours else [0]
            fastmlp.explain(fastmlp.MLP([2, 3, 2], **ours), [[1, 2]], target, recorder=recorder)
    with pytest.raises(TypeError, match="labels is 5, expected a name for every output"):
        fastmlp.explain(model, [[1, 2]], [0], labels=5)
    broken = fastmlp.MLP([2, 2])
    broken.params[3] = np.nan
    with pytest.raises(
        ValueError, match=r"the model's params\[3\] is nan, expected finite numbers"
    ):
        fastmlp.explain(broken, [[1, 2]], [0])
    e = fastmlp.explain(model, [[1, 2]], [0])
    with pytest.raises(ValueError, match=r"row 1 does not exist: the explanation has 1 row"):
        e.neuron(0, 0, row=1)
    with pytest.raises(ValueError, match=r"neuron 2 does not exist: layer 0 has 2 neurons, .*0..1"):
        e.weight(0, 0, 2)
    with pytest.raises(ValueError, match="layer 1 does not exist"):
        e.weight(1, 0, 0)
    with pytest.raises(ValueError, match="input -1 does not exist"):
        e.weight(0, -1, 0)
    with pytest.raises(ValueError, match="both weights are"):
        e.loss_over((0, 0, 0), (0, 0, 0))
    huge = fastmlp.MLP([1, 1], loss="squared_error")
    huge.params[:] = [3e30, 0]
    with pytest.raises(ValueError, match="the loss is inf"):
        fastmlp.explain(huge, [[1.0]], [0.0])


def test_collapse():
    model = fastmlp.MLP([3, 4, 5, 2], activation="identity", dtype="float64", seed=0)
    model.biases[0][:] = 1
    W, b = collapse(model)
    X = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(X @ W + b, model.forward(X), rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match="has relu in it"):
        collapse(fastmlp.MLP([3, 4, 2]))


def test_identity_cannot_draw_a_ring():
    found = compare()
    assert found.accuracy[0] < 0.75 and found.accuracy[1] > 0.95
    assert found.difference < 1e-13
    np.testing.assert_allclose(found.W, np.linalg.multi_dot(found.identity.weights), rtol=1e-12)


def test_surface(chain):
    s = chain.surface
    assert s.indices == (0, 2)
    u, v = np.meshgrid(s.u, s.v)
    np.testing.assert_allclose(s.loss, 3 * (u * v - 2) ** 2, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(s.path[0], [3, 1, 3])
    np.testing.assert_allclose(s.path[1, :2], [2.94, 0.82])
    a = s.arrows
    np.testing.assert_allclose(a[:, 2], 6 * (a[:, 0] * a[:, 1] - 2) * a[:, 1], atol=1e-11)
    assert s.path[-1, 0] * s.path[-1, 1] == pytest.approx(2, abs=1e-6)
    other = chain.loss_over((1, 0, 0), (1, None, 0))
    np.testing.assert_allclose(other.loss[0, 0], np.mean(
        (3 * other.u[0] * np.arange(5) + other.v[0] - 2 * np.arange(5)) ** 2) / 2)  # fmt: skip


def test_recorder():
    X, y = fastmlp.data.load_digits()
    model = fastmlp.MLP([64, 10], seed=0)
    recorder = Recorder(model, limit=8)
    trainer = fastmlp.SGD(model, seed=0)
    trainer.fit(X / 16, y, epochs=30, callback=recorder)
    assert recorder.epochs[0] == 0 and recorder.epochs[-1] == 30 and len(recorder.epochs) <= 8
    assert all(epoch % 4 == 0 for epoch in recorder.epochs[:-1])
    np.testing.assert_array_equal(recorder.states[-1], model.params)
    assert recorder.loss[-1] == trainer.history.loss[-1]
    assert recorder.n_bytes == len(recorder.states) * 650 * 4 and recorder.seconds > 0
    assert "states of 650 parameters" in repr(recorder)
    plain = fastmlp.MLP([64, 10], seed=0)
    fastmlp.SGD(plain, seed=0).fit(X / 16, y, epochs=30)
    np.testing.assert_array_equal(plain.params, model.params)  # recording changes nothing
    assert recorder.frames(3) == [
        0,
        round((len(recorder.epochs) - 1) / 2),
        len(recorder.epochs) - 1,
    ]


def test_rehearsal_that_diverges():
    model, X, y, _ = examples.chain()
    e = fastmlp.explain(model, X, y, learning_rate=1e6)
    assert len(e.recorder.epochs) < 41 and e.rehearsed
    assert "not this time" in e.text()
    assert e.html()


def test_forms_of_import_in_new_processes():
    for line in (
        "import fastmlp; e = fastmlp.explain; d = fastmlp.explain.descend",
        "import fastmlp.explain; e = fastmlp.explain; d = fastmlp.explain.descend",
        "from fastmlp import explain as e; d = e.descend",
        "from fastmlp.explain import descend as d, explain as e",
        "import importlib; e = importlib.import_module('fastmlp.explain'); d = e.descend",
        "from fastmlp import *; e = explain; d = explain.descend",
    ):
        program = (
            f"{line}\nimport fastmlp\n"
            "model = fastmlp.MLP([1, 1], loss='squared_error')\n"
            "model.params[:] = [1, 0]\n"
            "assert e(model, [[1.0]], [3.0]).loss == 2\n"
            "assert d(lambda p: p[0] ** 2, [1], 0.25, 1).path[1, 0] - 0.5 < 1e-9\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_import_is_lazy():
    program = (
        "import sys, fastmlp; assert not any('explain' in m for m in sys.modules); "
        "assert 'explain' in dir(fastmlp)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    program = "import sys, fastmlp.explain; assert 'matplotlib' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_types(tmp_path):
    environment = {**os.environ, "MYPYPATH": str(Path(__file__).parents[1] / "src")}
    program = tmp_path / "program.py"
    lines = (
        "model = fastmlp.MLP([1, 1])",
        "text: str = fastmlp.explain(model, [[1.0]], [0], learning_rate=0.1).text()",
        "way = fastmlp.explain.descend(lambda p: float(p[0]), [1.0], 0.1, 3)",
        "recorder = fastmlp.explain.Recorder(model)",
    )
    for first in ("import fastmlp", "import fastmlp\nimport fastmlp.explain"):
        program.write_text("\n".join((first, *lines, "")))
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", program.name],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
    program.write_text("import fastmlp\nfastmlp.explain(model=1)\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", program.name],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1


@pytest.mark.parametrize(
    "name", [m.name for m in pkgutil.iter_modules(fastmlp.explain.__path__, "fastmlp.explain.")]
)
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
    for public in module.__all__:
        thing = getattr(module, public)
        assert not callable(thing) or thing.__doc__, f"{name}.{public} has no docstring"


def test_files_are_short():
    folder = Path(fastmlp.explain.__file__).parent
    for path in folder.iterdir():
        if path.suffix in (".py", ".js", ".css", ".html"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path.name


def test_step_of_the_differences():
    """The differences alone, on a loss whose derivative is known: L = ½ (w - 3)²."""
    model = fastmlp.MLP([1, 1], loss="squared_error", dtype="float64")
    for w in (0.0, 1.0, -7.5, 1e3, 1e6):
        model.params[:] = [w, 0]
        found = checks.check(model, np.array([[1.0]]), np.array([[3.0]]), np.array([0]))
        assert found.numerical[0] == pytest.approx(w - 3, rel=1e-9)


def test_the_error_shown_is_of_the_numbers_shown():
    """Of a float32 model the two that are compared in float64 stand beside the engine's."""
    X, y = fastmlp.data.load_digits()
    model = fastmlp.MLP([64, 20, 10], seed=0)
    e = fastmlp.explain(model, X[7] / 16, y[7])
    table = e.text().partition("Every derivative beside the same")[2].splitlines()
    assert " ".join(table[1].split()) == "engine in float64 by differences relative error"
    engine, twin, differences = map(float, table[2].split()[1:4])
    assert engine == pytest.approx(twin, rel=1e-4) and twin == pytest.approx(differences, rel=1e-5)
    weights = [e.weight(1, i, j) for i in range(20) for j in range(10)]
    largest = max(abs(weight.derivative) for weight in weights)
    for weight in weights:
        if abs(weight.derivative) > 1e-2 * largest:
            apart = abs(weight.in_float64 - weight.numerical)
            size = max(abs(weight.in_float64), abs(weight.numerical))
            assert weight.relative_error == pytest.approx(apart / size, rel=1e-9, abs=1e-15)
    weight = max(weights, key=lambda w: abs(w.in_float64 - w.derivative))
    assert weight.in_float64 != weight.derivative
    last = weight.text().splitlines()[-1]
    assert last.startswith(f"  in float64 {weight.in_float64:.6g}, by differences ")
    assert weight.text().splitlines()[-2].endswith(", both of numbers rounded to float32")
    double = fastmlp.MLP([64, 20, 10], dtype="float64", seed=0)
    e = fastmlp.explain(double, X[7] / 16, y[7])
    assert "in float64" not in e.weight(1, 3, 7).text() and "  engine  " not in e.text()


@pytest.mark.parametrize("activation", ["logistic", "tanh", "gelu", "silu", "relu"])
def test_no_false_alarm_on_large_inputs(activation):
    X, y = fastmlp.data.load_digits()
    for dtype in ("float64", "float32"):
        model = fastmlp.MLP([64, 20, 10], activation=activation, dtype=dtype, seed=0)
        for row in range(0, 10, 2):
            e = fastmlp.explain(model, X[row] * 16, y[row])
            assert e.agrees, (row, e.check.largest)
            size = np.abs(e.check.derivatives)
            strong = size > max(1e-2 * size.max(), 1e-3)  # which differences can tell
            apart = np.abs(e.check.derivatives - e.check.numerical)[strong]
            assert (apart <= 1e-6 * size[strong]).all()


def test_one_weight_says_that_there_is_a_kink():
    model = fastmlp.MLP([2, 3, 2], dtype="float64", seed=3)
    e = fastmlp.explain(model, [[0, 0], [1, 2]], [0, 1])
    bias = e.weight(0, None, 0)  # on row 0 its neuron is at exactly 0
    assert bias.kink and not e.weight(1, None, 0).kink
    assert bias.text().endswith("nothing to compare with: the loss has a kink here")
    assert "relative error" not in bias.text()


def test_off_is_said_of_a_relu_alone():
    def lines(activation, x):
        model = fastmlp.MLP([1, 2, 2], activation=activation, dtype="float64", seed=2)
        model.weights[0][...] = [[1, -1]]
        return fastmlp.explain(model, [[x]], [1]).text()

    assert "  fires" in lines("relu", 1.0) and "  is off" in lines("relu", 1.0)
    assert "off on every row, so that no error passes" in lines("relu", 1.0)
    assert "  does not fire" in lines("leaky_relu", 1.0)
    for activation in ("tanh", "logistic", "gelu", "silu", "identity"):
        text = lines(activation, 1.0)
        assert "fires" not in text and "is off" not in text and "on every row" not in text
    saturated = lines("tanh", 500.0)
    assert "  so far out that their slope is 0 on every row, so that no error passes" in saturated
    assert "fires" not in saturated and "off" not in saturated


def test_what_is_shown_of_many_rows():
    rng = np.random.default_rng(0)
    model = fastmlp.MLP([3, 9, 2], activation="tanh", dtype="float64", seed=0)
    text = fastmlp.explain(model, rng.normal(size=(9, 3)), rng.integers(0, 2, 9)).text()
    assert "(of rows the first 8 are shown, of neurons and terms the 8 strongest, " in text
    assert "(1 weaker neuron left out)" in text
