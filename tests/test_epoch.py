"""What an epoch promises beside its result: no allocation in a step, rows gathered ahead."""

import textwrap

import numpy as np
import preload
import pytest
from signals import until_stopped

from fastmlp import MLP

COUNT_EPOCHS = """
    import ctypes
    import numpy as np
    import fastmlp
    counter = ctypes.CDLL(None)
    counter.allocations.restype = ctypes.c_long
    BLAS, KINDS = 1, range(6)  # as in faults.c
    sizes, n = {sizes}, 6400
    model = fastmlp.MLP(sizes)
    X, y = np.ones((n, sizes[0]), "f"), np.zeros(n, int)
    core = model.core(max_rows=32, engine={engine!r}, optimizer="sgd")
    core.load(model.params, np.zeros_like(model.params))
    order = np.arange(n)
    def epoch(n_rows):
        core.epoch(X, y, order[:n_rows], 32, learning_rate=0.01, momentum=0.9)
    def allocated(function, *arguments):
        counter.start_counting()
        function(*arguments)
        counter.stop_counting()
        counts = [counter.allocations(kind) for kind in KINDS]
        blas = counts.pop(BLAS)
        return sum(counts), blas
    with fastmlp.engines.blas_threads(1):
        epoch(n)  # the first epoch may still set things up
        print(*allocated(epoch, 32), *allocated(epoch, n), *allocated(np.ones, 100_000))
"""


@pytest.mark.parametrize("engine", ["fused", "blas"])
@pytest.mark.parametrize("sizes", [[64, 100, 10], [300, 200, 100, 10]], ids=str)
def test_no_step_allocates(tmp_path, sizes, engine):
    script = textwrap.dedent(COUNT_EPOCHS.format(sizes=sizes, engine=engine))
    output = preload.run(preload.build("faults.c", tmp_path), "-c", script)
    one_step, _, many_steps, blas, array, _ = map(int, output.split())
    assert array > 0, "the counter counts nothing"
    assert many_steps == one_step == 0
    # OpenBLAS takes a buffer in at most every product of a step: 3 a layer, less one
    assert blas <= (200 * (3 * (len(sizes) - 1) - 1) if engine == "blas" else 0)


def test_an_epoch_after_an_interrupted_one_begins_with_its_own_rows():
    """A step of wide rows has gathered those of the next batch, which then is another one."""
    X = np.random.default_rng(0).normal(size=(2000, 300)).astype("f")
    y = (X[:, 0] > 0).astype(int)
    model = MLP([300, 30, 2])
    cores = [model.core(max_rows=50, engine="fused", optimizer="sgd") for _ in range(2)]
    zeros, params = np.zeros_like(model.params), [np.empty_like(model.params) for _ in range(2)]
    cores[0].load(model.params, zeros)
    long = np.tile(np.arange(2000), 2000)
    until_stopped(cores[0].epoch, X, y, long, 50, learning_rate=0.01)
    cores[0].store(params[0])
    cores[1].load(params[0], zeros)
    for core, result in zip(cores, params, strict=True):
        core.epoch(X, y, np.arange(7, 2000), 50, learning_rate=0.01)
        core.store(result)
    np.testing.assert_array_equal(*params)
