"""The engines that this machine can run, and cores under them."""

import numpy as np

from fastmlp import engines
from fastmlp._core import Core, fused_engine

# Instruction sets of the fused engine that this CPU has.
LEVELS = [level for level in engines.LEVELS if fused_engine(level) is not None]
DTYPES = ["float32", "float64"]


def capsule(engine):
    """The engine "blas", or the fused one at a level."""
    return engines.load("blas", 1) if engine == "blas" else fused_engine(engine)


def core_of(engine, model, max_rows, optimizer="sgd", dropout=0.0, n_threads=1, is_sparse=False):
    """A core for a model's network, under "blas" or a level, laid out for so many threads."""
    return Core(
        capsule(engine), model.sizes, model.activations, model.loss_name, model.dtype, max_rows,
        optimizer, loss_parameter=model.loss_parameter, loss_clip=model.probability_clip,
        dropout=dropout, is_sparse=is_sparse, n_threads=n_threads, any_size=True,
    )  # fmt: skip


def same_bits(a, b):
    """Whether two arrays hold the same bits, any NaN being like any other."""
    nan = np.isnan(a)
    return np.array_equal(nan, np.isnan(b)) and a[~nan].tobytes() == b[~nan].tobytes()
