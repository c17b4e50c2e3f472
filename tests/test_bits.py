"""The bits of a fit: the same for every number of threads and every instruction set.

The golden values hold on every machine, as long as NumPy's generators draw the same integers.
After a change that is meant to change the bits, renew them with `python tests/test_bits.py`.
"""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from levels import LEVELS

import fastmlp

# name: (sizes, options of MLP, trainer, its options)
FITS = {
    "SGD float32": (
        [64, 100, 10], {}, fastmlp.SGD, {"momentum": 0.9, "batch_size": 32},
    ),
    "SGD float64": (
        [64, 100, 10], {"dtype": "float64"}, fastmlp.SGD, {"momentum": 0.9, "batch_size": 32},
    ),
    "Adam, three layers, odd batch": (
        [64, 37, 23, 10], {"activation": "tanh"}, fastmlp.Adam,
        {"batch_size": 53, "weight_decay": 0.01, "decoupled": True},
    ),
    "squared error, wide": (
        [64, 131, 64], {"activation": "logistic", "loss": "squared_error"}, fastmlp.SGD,
        {"batch_size": 200, "nesterov": True, "weight_decay": 0.001},
    ),
    # rows so wide that a step gathers those of the next batch; the last batch is short
    "wide rows float32": (
        [301, 45, 10], {}, fastmlp.SGD, {"momentum": 0.9, "batch_size": 70},
    ),
    "wide rows float64": (
        [301, 7, 10], {"dtype": "float64"}, fastmlp.Adam, {"batch_size": 11},
    ),
    # layers that threads share out by their outputs, evenly or not
    "wide layers": (
        [301, 256, 290, 10], {}, fastmlp.SGD, {"momentum": 0.9, "batch_size": 100},
    ),
    # fewer rows than a tile has: several panels at a time
    "rows one by one": (
        [64, 130, 100, 10], {}, fastmlp.SGD, {"momentum": 0.9, "batch_size": 1},
    ),
    "two rows": (
        [301, 45, 37, 10], {"dtype": "float64", "activation": "tanh"}, fastmlp.Adam,
        {"batch_size": 2},
    ),
    "three rows": (
        [64, 130, 100, 64], {"loss": "squared_error"}, fastmlp.SGD,
        {"batch_size": 3, "nesterov": True, "weight_decay": 0.001},
    ),
    # long rows into few outputs: what pads the rows is multiplied as well
    "one layer": (
        [301, 10], {}, fastmlp.Adam, {"batch_size": 70},
    ),
    # inputs most of which are 0: the tiles leave them out, and by stretches of rows too
    "many zeros float32": (
        [301, 112, 10], {}, fastmlp.SGD, {"momentum": 0.9, "batch_size": 100},
    ),
    "many zeros float64": (
        [301, 45, 10], {"dtype": "float64", "activation": "tanh"}, fastmlp.Adam, {"batch_size": 70},
    ),
    "many zeros, large batch": (
        [301, 290, 10], {}, fastmlp.SGD, {"batch_size": 1200, "nesterov": True},
    ),
    # three activations, dropout, clipping, sample weights
    "dropout, clipped": (
        [64, 37, 23, 45, 10], {"activation": ["gelu", "silu", "leaky_relu"]}, fastmlp.Adam,
        {"batch_size": 53, "dropout": 0.25, "max_norm": 0.5, "weight_decay": 0.01},
    ),
    "weighted probabilities": (
        [64, 50, 64], {"loss": "binary_cross_entropy", "dtype": "float64"}, fastmlp.SGD,
        {"batch_size": 40, "momentum": 0.9},
    ),
}  # fmt: skip

WEIGHTED = ("dropout, clipped", "weighted probabilities")

GOLDEN = {
    "SGD float32": "c8cc9393e377f1c8b2430e00f67b588c",
    "SGD float64": "2ac47c6b28e9038395a6f1209bc830a9",
    "Adam, three layers, odd batch": "14fed7aa9546eebae23fed621cf55fc5",
    "squared error, wide": "28f3958713982306fe73d4ba2c7d084d",
    "wide rows float32": "5abf5dd56b8b0ec7b582b743777e7db3",
    "wide rows float64": "8e994beb4825bcbc96a93b0c9cff8e9b",
    "wide layers": "9ca8432e8c2849fa0f45520e9f029534",
    "rows one by one": "fc3abedb28666c9b623d6782bb2a5dc9",
    "two rows": "e1ca9dc74d682e70f58378fbf5583a37",
    "three rows": "c4bfce1dd753ee4c48471596b0b04142",
    "one layer": "df1450dad172955e0c089874569e7d19",
    "many zeros float32": "59f038c77f16392a515b2bc646b3cdf0",
    "many zeros float64": "33f9042be29347ccb72b3ae5557b1eea",
    "many zeros, large batch": "64db33796cb0472d55d5e938dd676305",
    "dropout, clipped": "3b353c8ed065d28494840b9db7805aef",
    "weighted probabilities": "fea8278abe1422d6ee96e2d555b41cbf",
}


def digests(n_threads=1):
    """The first half of the SHA-256 of the parameters after every fit."""
    digits, numbers = fastmlp.data.load_digits()
    found = {}
    for name, (sizes, options, trainer, rule) in FITS.items():
        some = slice(200 * rule["batch_size"])  # steps enough, and soon done
        X, y = digits[some] / 16, numbers[some]
        model = fastmlp.MLP(sizes, **options)
        # whole numbers over a power of two: no mathematical library has a say in them
        rng = np.random.default_rng(0)
        model.params[:] = rng.integers(-1024, 1025, model.n_parameters) / 8192
        target = y if model.classifies else X
        inputs = np.tile(X, 5)[:, : sizes[0]]
        if "zeros" in name:
            inputs = np.where(inputs > 0.9, inputs, 0)
        fit = trainer(model, seed=0, n_threads=n_threads, engine="fused", **rule).fit
        weights = (y + 1) / 8 if name in WEIGHTED else None
        fit(inputs, target, epochs=5, sample_weight=weights)
        bits = model.params.astype(model.params.dtype.newbyteorder("<")).tobytes()
        found[name] = hashlib.sha256(bits).hexdigest()[:32]
    return found


# Memory that was never written holds 0x7f7f7f7f..., a number, but a huge one: whoever reads it is
# found out (glibc only; elsewhere the variable means nothing).
DIRTY = {"MALLOC_PERTURB_": "128"}
RUNS = [
    *((level, n_threads, {}) for level in LEVELS for n_threads in (1, 2, 3, 4, 8)),
    *((LEVELS[i % len(LEVELS)], n_threads, DIRTY) for i, n_threads in enumerate((1, 2, 3, 4, 8))),
]


@pytest.mark.parametrize(
    "level, n_threads, memory", RUNS, ids=[f"{r[0]}-{r[1]}{'-dirty' if r[2] else ''}" for r in RUNS]
)
def test_the_bits_are_the_golden_ones(level, n_threads, memory):
    environment = {
        **os.environ, **memory, "FASTMLP_SIMD": level, "FASTMLP_OVERSUBSCRIBE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, __file__, str(n_threads)],
        env=environment, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == GOLDEN, (
        f"the bits of {[name for name in FITS if found[name] != GOLDEN.get(name)]} have changed; "
        f"if that was meant, write into GOLDEN what `python tests/test_bits.py` prints"
    )


if __name__ == "__main__":
    print(json.dumps(digests(int(sys.argv[1]) if len(sys.argv) > 1 else 1), indent=4))
