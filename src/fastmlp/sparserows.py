"""Sparse rows, made dense in parts for a core that takes nothing else."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["dense_parts", "dense_rows"]

Array = NDArray[Any]

# So many bytes at a time, but at least a batch.
DENSE_BYTES = 16 << 20

Part = tuple[Array, Array, Array | None, NDArray[np.intp]]


def dense_parts(
    X: Any, y: Array, sample_weight: Array | None, order: NDArray[np.intp], batch_size: int
) -> Iterable[Part]:
    """Return X, y, sample weights and order in parts of whole batches whose X is dense."""
    if type(X) is np.ndarray or not hasattr(X, "tocsr"):
        return ((X, y, sample_weight, order),)
    return _made_dense(X, y, sample_weight, order, batch_size)


def _made_dense(
    X: Any, y: Array, sample_weight: Array | None, order: NDArray[np.intp], batch_size: int
) -> Iterator[Part]:
    size = dense_rows(X, batch_size)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        weights = None if sample_weight is None else sample_weight[rows]
        yield X[rows].toarray(), y[rows], weights, np.arange(len(rows), dtype=np.intp)


def dense_rows(X: Any, multiple: int = 1) -> int:
    """Return how many rows of a sparse matrix to make dense at a time."""
    rows: int = DENSE_BYTES // (max(1, X.shape[1]) * X.dtype.itemsize)
    return max(1, rows // multiple) * multiple
