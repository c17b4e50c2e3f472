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
}  # fmt: skip

GOLDEN = {
    "SGD float32": "f8b8749c043a2aa304a31fa203f00b20",
    "SGD float64": "41b55e7ececddfd6f08ec57264adc3ca",
    "Adam, three layers, odd batch": "14fed7aa9546eebae23fed621cf55fc5",
    "squared error, wide": "2fd7d75009742ca265b26a5c6288b82b",
}


def digests(n_threads=1):
    """The first half of the SHA-256 of the parameters after every fit."""
    X, y = fastmlp.data.load_digits()
    X = X / 16
    found = {}
    for name, (sizes, options, trainer, rule) in FITS.items():
        model = fastmlp.MLP(sizes, **options)
        # whole numbers over a power of two: no mathematical library has a say in them
        rng = np.random.default_rng(0)
        model.params[:] = rng.integers(-1024, 1025, model.n_parameters) / 8192
        target = y if model.classifies else X
        trainer(model, seed=0, n_threads=n_threads, engine="fused", **rule).fit(X, target, epochs=5)
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
