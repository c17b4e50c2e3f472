"""The NEON level: its bits are those of this machine's, found by emulation."""

import itertools
import shutil
import subprocess

import numpy as np
import pytest
from levels import DTYPES, LEVELS, core_of, same_bits
from programs import build
from test_vector_math import arguments, computed

from fastmlp import MLP
from fastmlp import _core as core

SIZES = [(30, 37, 5), (13, 70, 33, 17), (3, 1, 2), (100, 20), (65, 8, 130, 3), (7, 300)]
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """A function that runs jobs at a level of 64-bit ARM: bytes in, bytes out."""
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = build([COMPILER, "-O0", "-static"], ["neon_main"], tmp_path_factory.mktemp("neon"))

    def run(level, jobs):
        done = subprocess.run(
            [EMULATOR, folder / "neon_main", level], input=jobs, capture_output=True, check=False,
            timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run


arm_levels = pytest.mark.parametrize("level", ["neon", "portable"])


@arm_levels
@pytest.mark.parametrize("dtype", DTYPES)
def test_vector_math(level, dtype, emulated):
    x, jobs = arguments(dtype)[::40].copy(), b""
    codes = {"exp": 0, "log": 1, "tanh": 2, "logistic": 3, "normal_cdf": 4}
    for function in codes:
        head = np.array([core.DTYPES[dtype], codes[function], len(x)])
        jobs += b"m" + head.tobytes() + x.tobytes()
    found = np.frombuffer(emulated(level, jobs), dtype).reshape(len(codes), len(x))
    for function, actual in zip(codes, found, strict=True):
        assert same_bits(actual, computed(LEVELS[0], function, x)), function


class Fit:
    """One training job: what the emulated program reads, and what it should write.

    With `is_sparse` it takes the inputs as a sparse matrix, which makes no difference to the bits.
    """

    def __init__(
        self, seed, activation, loss, dtype, optimizer, n_rows=90, batch_size=None, *, sizes=None,
        zeros=0.0, is_sparse=False,
    ):  # fmt: skip
        sizes = sizes or SIZES[seed % len(SIZES)]
        self.model = MLP(sizes, activation=activation, loss=loss, dtype=dtype, seed=seed)
        sizes, rng = self.model.sizes, np.random.default_rng(seed)
        y = rng.integers(0, sizes[-1], n_rows)
        if not self.model.classifies:
            y = rng.uniform(size=(n_rows, sizes[-1]))
        X = rng.normal(size=(n_rows, sizes[0]))
        if zeros:
            X[rng.random(X.shape) < zeros] = 0
        self.X, self.y = self.model.as_data(X, y)
        self.kind = b"s" if is_sparse else b"t"
        weights = rng.uniform(0.5, 2, n_rows) if seed % 2 else np.ones(n_rows)
        self.sample_weight = weights.astype(dtype)
        self.dropout = [0.0, 0.25][seed % 7 == 0]
        self.order = rng.permutation(n_rows)[: n_rows - 10 - seed % 20].astype(np.intp)
        self.batch_size = batch_size or [32, 1, 13, 33][seed % 4]
        self.optimizer, self.nesterov = optimizer, seed % 3 == 0
        # powers of the betas are exact: no mathematical library has a say in them
        self.rule = {
            "learning_rate": 0.01, "l2": 0.5, "weight_decay": [0, 0.1][seed % 2],
            "decoupled_decay": [0, 0.1][seed % 5 < 2], "max_norm": [np.inf, 0.1][seed % 3 == 1],
            "momentum": 0.9, "beta1": 0.5, "beta2": 0.75, "epsilon": 1e-8,
        }  # fmt: skip

    def job(self):
        model = self.model
        head = [
            len(model.sizes) - 1, core.LOSSES[model.loss_name], core.DTYPES[model.dtype],
            core.OPTIMIZERS[self.optimizer], self.nesterov, len(self.X), self.batch_size,
            len(self.order),
        ]  # fmt: skip
        rule = [*self.rule.values(), model.loss_parameter, model.probability_clip, self.dropout]
        activations = [core.ACTIVATIONS[name] for name in (*model.activations, "identity")]
        parts = [
            np.array([*head, *model.sizes], np.int64), np.array(rule, float),
            np.array(activations, np.intc), model.params, self.X, self.y, self.sample_weight,
            self.order,
        ]  # fmt: skip
        return self.kind + b"".join(part.tobytes() for part in parts)

    def result(self):
        model, n = self.model, self.batch_size
        first = self.order[:n]
        network = core_of(LEVELS[0], model, n, self.optimizer, self.dropout)
        outputs = network.infer(self.X[:n], model.params, core.OUTPUTS)
        gradients, params = np.empty_like(model.params), model.params.copy()
        weights = self.sample_weight
        network.gradients(gradients, self.X[first], self.y[first], params, weights[first])
        moments, losses = [np.zeros_like(params), np.zeros_like(params)], []
        network.load(params, *moments)
        for t in range(-(-len(self.order) // n)):
            batch = self.order[t * n : (t + 1) * n]
            loss, penalty, *_ = network.epoch(
                self.X, self.y, batch, n, t=t, sample_weight=weights, nesterov=self.nesterov,
                **self.rule,
            )  # fmt: skip
            losses += [loss, penalty]
        adam = self.optimizer == "adam"
        network.store(params, *moments[: 1 + adam])
        parts = [outputs, gradients, np.array(losses), params, *moments[: 1 + adam]]
        return [part.tobytes() for part in parts]


def check_steps(run, every=1):
    """Have a program, given as a function of its input, do the steps of all fits, or of some."""
    options = itertools.product(core.ACTIVATIONS, core.LOSSES, DTYPES, core.OPTIMIZERS)
    check(run, [Fit(seed, *chosen) for seed, chosen in enumerate(options) if seed % every == 0])


def check(run, fits):
    """Have it do the steps of these fits: the same bytes as here."""
    found = run(b"".join(fit.job() for fit in fits))
    names = ["outputs", "gradients", "losses", "params", "moment1", "moment2"]
    for fit in fits:
        for name, expected in zip(names, fit.result(), strict=False):
            actual, found = found[: len(expected)], found[len(expected) :]
            assert actual == expected, f"{name} of {fit.model}, {fit.optimizer}"
    assert not found


@arm_levels
def test_steps(level, emulated, long):
    # the portable level is the same C on every machine, and slow here
    check_steps(lambda jobs: emulated(level, jobs), 1 if long or level == "neon" else 11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_of_many_rows(dtype, emulated):
    """Batches that every level sums in stretches; with Nesterov's momentum and Adam."""
    fits = [
        Fit(6, "relu", "squared_error", dtype, "sgd", 1600, 1540),
        Fit(5, "relu", "softmax_cross_entropy", dtype, "adam", 1600, 1540),
    ]
    check(lambda jobs: emulated("neon", jobs), fits)


@arm_levels
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_that_leave_out_zeros(level, dtype, emulated):
    fits = [
        Fit(seed, "relu", "softmax_cross_entropy", dtype, optimizer, sizes=(150, 37, 5), zeros=0.97)
        for seed in (2, 3)
        for optimizer in core.OPTIMIZERS
    ]
    check(lambda jobs: emulated(level, jobs), fits)


@arm_levels
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_over_sparse_rows(level, dtype, emulated):
    check(lambda jobs: emulated(level, jobs), sparse_fits(dtype))


def sparse_fits(dtype):
    """Of all sizes, optimizers and options."""
    return [
        Fit(seed, "relu", "softmax_cross_entropy", dtype, optimizer, zeros=0.8, is_sparse=True)
        for seed in range(12)
        for optimizer in core.OPTIMIZERS
    ]
