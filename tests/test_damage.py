"""Small files of every kind of ours, damaged in every way that is one bit, or one end, away."""

import numpy as np
import pytest

import fastmlp
from fastmlp import MLP, Adam

X = np.linspace(-1, 1, 100, dtype="f").reshape(100, 1)
Y = np.arange(100) % 2


def model(path):
    MLP([2, 2, 2]).save(path)
    return MLP.load


def checkpoint(path):
    trainer = Adam(MLP([1, 1, 2]), batch_size=50, seed=None)
    trainer.checkpoint(path)
    trainer.fit(X, Y, epochs=2)
    return Adam.resume


def estimator(path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    fastmlp.MLPClassifier([1], solver="sgd").partial_fit(X, Y, classes=[0, 1]).save(path)
    return fastmlp.MLPClassifier.load


@pytest.fixture(params=[model, checkpoint, estimator])
def file(request, tmp_path):
    """Return what reads a file, the file, and what is in it."""
    path = tmp_path / "file"
    read = request.param(path)
    read(path)  # as it is
    return read, path, path.read_bytes()


def refused(read, path):
    with pytest.raises(fastmlp.FileFormatError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} is not a fastmlp ")


def test_every_truncation_is_refused(file):
    read, path, whole = file
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refused(read, path)
    path.write_bytes(whole + b"\0")
    refused(read, path)


def test_every_changed_bit_is_refused(file, long):
    read, path, whole = file
    # an estimator's file is the same format, and the longest
    for i in range(0, 8 * len(whole), 1 if long or len(whole) < 2000 else 7):
        changed = bytearray(whole)
        changed[i // 8] ^= 1 << i % 8
        path.write_bytes(changed)
        refused(read, path)
