"""A short fit by both engines, with what surrounds it; `sanitize.py valgrind` runs it."""

import os
import tempfile
from pathlib import Path

import numpy as np

import fastmlp

SIZES = [[20, 17, 5], [13, 40, 3], [260, 9, 2]]  # the last ones' rows are gathered ahead


def fit(engine, sizes, dtype, trainer, **options):
    """Train, predict, save and load, and go on."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(45, sizes[0])), rng.integers(0, sizes[-1], 45)
    model = fastmlp.MLP(sizes, activation="gelu", dtype=dtype, seed=0)
    run = trainer(model, batch_size=20, engine=engine, n_threads=2, seed=0, **options)
    run.fit(X, y, epochs=2, validation_data=(X[:7], y[:7]), sample_weight=rng.random(45))
    with tempfile.TemporaryDirectory() as folder:
        run.checkpoint(Path(folder, "run.ckpt"))
        run.fit(X, y, epochs=1)
        trainer.resume(Path(folder, "run.ckpt")).fit(X, y, epochs=1)
        model.save(Path(folder, "model.safetensors"))
        loaded = fastmlp.MLP.load(Path(folder, "model.safetensors"))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(loaded.predict_proba(X[:1]), model.predict_proba(X[:1]))
    assert np.isfinite(model.gradients(X, y)[0])
    assert np.isfinite(model.input_gradients(X)).all()


if __name__ == "__main__":
    os.environ["FASTMLP_OVERSUBSCRIBE"] = "1"
    for engine in ("fused", "blas"):
        for sizes in SIZES:
            for dtype in ("float32", "float64"):
                fit(engine, sizes, dtype, fastmlp.SGD, momentum=0.9, max_norm=1.0)
                fit(engine, sizes, dtype, fastmlp.Adam, dropout=0.25, weight_decay=0.01)
    print("fitted by", fastmlp.engines.simd_level())
