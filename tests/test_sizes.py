"""2³¹ elements and more: refused before any memory is touched, or indexed right."""

import mmap
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastmlp
from fastmlp import MLP, SGD, MLPClassifier, kernels, memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory that is not there, on Linux")

# Rows without memory of their own: 2³¹ and a few, and more than any machine has room for.
ONE_ROW = np.ones((1, 3), np.float32)
TOO_MANY = np.broadcast_to(ONE_ROW, (2**45, 3))

SIZES = {
    "one huge": [2**31, 2],
    "two large": [70_000_000, 70_000_000],
    "their product overflows 64 bits": [2**33, 2**33],
    "one overflows 64 bits": [2**64, 3],
    "hidden": [3, 2**40, 2],
    "many": [10**7] * 20,
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_networks_too_large(sizes, monkeypatch):
    monkeypatch.setattr(memory, "installed", lambda: 16 << 30)
    with pytest.raises(MemoryError, match=r"^a network of sizes \[.* takes \d+ GiB .* 16 GiB"):
        MLP(sizes)
    if sizes[0] == 3:
        hidden = MLPClassifier(hidden_layer_sizes=sizes[1:-1])
        with pytest.raises(MemoryError, match="a network of sizes"):
            hidden.fit(np.ones((4, 3)), [0, 1, 0, 1])
        assert not hasattr(hidden, "coefs_")


@pytest.mark.parametrize("sizes", [[-1, 2], [3, 0], [3, -(2**31), 2], [3, -(2**64)]])
def test_sizes_below_one(sizes):
    with pytest.raises(ValueError, match=r"sizes\[\d\] is -?\d+, expected at least 1"):
        MLP(sizes)


def test_more_rows_than_memory():
    """Rows that share their memory would have to be copied into a place of their own."""
    model = MLP([3, 4, 2], dtype="float64")
    before = model.params.copy()
    for call in model.forward, model.predict, model.input_gradients, lambda X: model.loss(X, [0]):
        with pytest.raises(MemoryError, match=r"X of shape \(35184372088832, 3\) as float64 takes"):
            call(TOO_MANY)
    with pytest.raises(MemoryError, match=r"^X of shape"):
        SGD(model).fit(TOO_MANY, [0])
    X, y = np.ones((4, 3)), np.zeros(4, int)
    with pytest.raises(MemoryError, match=r"^X of validation_data of shape"):
        SGD(model).fit(X, y, validation_data=(TOO_MANY, [0]))
    np.testing.assert_array_equal(model.params, before)
    objects = np.broadcast_to(np.array([[1, 2, 3]], object), (2**45, 3))
    with pytest.raises(MemoryError, match=r"^X of shape"):
        model.forward(objects)
    with pytest.raises(MemoryError, match=r"^Z of shape"):
        kernels.relu_forward(TOO_MANY)
    with pytest.raises(ValueError, match=r"dW has shape \(35184372088832, 3\), expected \(3,\)"):
        kernels.sgd_update(np.ones(3), np.ones(3), TOO_MANY, learning_rate=1)


def test_targets_and_weights_of_other_lengths():
    """Looked at for their length only, however long they are."""
    model = MLP([3, 4, 2])
    X, y = np.ones((4, 3)), np.zeros(4, int)
    labels = np.broadcast_to(np.zeros(1, np.int8), (2**31 + 5,))
    with pytest.raises(ValueError, match="y has 2147483653 rows, X has 4"):
        model.loss(X, labels)
    with pytest.raises(ValueError, match="sample_weight has 2147483653 rows, X has 4"):
        SGD(model).fit(X, y, sample_weight=labels)
    values = np.broadcast_to(np.zeros(1), (2**50, 2))
    with pytest.raises(ValueError, match=f"y has {2**50} rows, X has 4"):
        MLP([3, 2], loss="squared_error").gradients(X, values)


def test_labels_beyond_their_range():
    model, X = MLP([3, 4, 2]), np.ones((2, 3))
    for wrong in 2**31, 2**32, 2**32 + 1, 2**63 - 1, -(2**31), -(2**63):
        with pytest.raises(
            ValueError, match=rf"y\[1\] is {wrong}, expected a class number in 0..1"
        ):
            model.gradients(X, np.array([0, wrong]))
        with pytest.raises(ValueError, match=rf"y\[1\] is {wrong}, "):
            kernels.softmax_cross_entropy_forward(np.ones((2, 2)), np.array([0, wrong]))


def test_batches_beyond_all_rows():
    model, twin = MLP([3, 4, 2]), MLP([3, 4, 2])
    X, y = np.random.default_rng(0).normal(size=(7, 3)), np.arange(7) % 2
    for each, size in (model, 2**70), (twin, 7):
        SGD(each, batch_size=size).fit(X, y, epochs=2)
    np.testing.assert_array_equal(model.params, twin.params)


REFUSED = """
    import resource
    import numpy as np
    import fastmlp

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    fastmlp.memory.installed = lambda: 1 << 60  # what a machine may say that has promised too much
    model = fastmlp.MLP([3, 4, 2])
    before = model.params.copy()
    X = np.broadcast_to(np.ones((1, 3), np.float32), (2**31 + 5, 3))
    try:
        model.forward(X)
    except MemoryError as error:
        print(error)
    assert (model.params == before).all()
"""


@linux
def test_memory_that_the_system_refuses():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(REFUSED)], capture_output=True, text=True, check=True
    )
    assert "no memory for X as float32" in done.stdout and "(2147483653, 3)" in done.stdout


NORESERVE = 0x4000  # Linux: what is not touched need not be there


def rows_apart(n, width, rows):
    """An array (n, width) of zeros but for a few rows, whose pages alone take memory."""
    try:
        room = mmap.mmap(-1, 4 * n * width, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
    except OSError:
        pytest.skip("this process may not have so many addresses")
    X = np.frombuffer(room, np.float32).reshape(n, width)
    X[rows] = np.random.default_rng(0).normal(size=(len(rows), width))
    return X


@linux
@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_rows_beyond_2_to_31_elements(engine):
    """An epoch over rows at both ends of 2³² numbers is that over the same rows side by side."""
    n, width = 2**22 + 3, 1024
    rows = np.r_[0:20, n // 2 - 10 : n // 2 + 10, n - 20 : n]
    X, y = rows_apart(n, width, rows), np.zeros(n, int)
    assert X.size > 2**32
    y[rows] = np.arange(60) % 3
    model, params = MLP([width, 8, 3]), []
    for features, labels, order in (X, y, rows), (X[rows], y[rows], np.arange(60)):
        core = model.core(max_rows=8, engine=engine, optimizer="sgd")
        core.load(model.params, np.zeros_like(model.params))
        core.epoch(features, labels, order.astype(np.intp), 8, learning_rate=0.1)
        params.append(np.empty_like(model.params))
        core.store(params[-1])
    np.testing.assert_array_equal(*params)
    assert not np.array_equal(params[0], model.params)


@linux
def test_prediction_beyond_2_to_31_elements(long):
    """The whole way, which reads 8 GiB of zeros: some of its rows are not."""
    if not long:
        pytest.skip("with --long")
    n, width = 2**21 + 1, 1024
    rows = np.r_[0:3, n - 3 : n]
    X = rows_apart(n, width, rows)
    model = MLP([width, 2, 3])
    Z = model.forward(X)
    np.testing.assert_array_equal(Z[rows], model.forward(X[rows]))
    assert (Z[3:-3] == model.forward(np.zeros((1, width)))).all()
    X[-1, -1] = np.nan
    with pytest.raises(ValueError, match=rf"X\[{n - 1}, 1023\] is nan"):
        model.forward(X)


def test_a_working_space_too_large(monkeypatch):
    model = MLP([100, 100, 2])
    monkeypatch.setattr(memory, "installed", lambda: 1 << 16)
    with pytest.raises(MemoryError, match="the working space of the network takes"):
        fastmlp.Adam(model).fit(np.ones((4, 100), np.float32), [0, 1, 0, 1])
