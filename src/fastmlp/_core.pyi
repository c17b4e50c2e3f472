from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

ACTIVATIONS: dict[str, int]
LOSSES: dict[str, int]
OPTIMIZERS: dict[str, int]
OUTPUTS: int
CLASSES: int
PROBABILITIES: int
DTYPES: dict[str, int]

class Writes:
    def write(self, params: NDArray[Any], values: NDArray[Any]) -> None: ...
    def copy(self, params: NDArray[Any]) -> NDArray[Any]: ...

class SparseRows:
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    given: NDArray[Any]
    data: NDArray[Any]
    indices: NDArray[np.int32]
    indptr: NDArray[np.int64]
    def __init__(
        self,
        data: NDArray[Any],
        indices: NDArray[Any],
        indptr: NDArray[Any],
        shape: tuple[int, ...],
        dtype: Any = None,
    ) -> None: ...
    def __len__(self) -> int: ...

class Inference:
    def __init__(
        self,
        engine: object,
        sizes: tuple[int, ...],
        activations: tuple[str, ...],
        loss: str,
        dtype: str,
        *,
        writes: Writes | None = None,
        any_size: bool = False,
    ) -> None: ...
    def infer(
        self,
        X: object,
        params: NDArray[Any],
        what: int,
        threads: Callable[[bool], int] | None = None,
    ) -> NDArray[Any] | None: ...

class Core(Inference):
    t: int
    number: int
    progress: tuple[int, int, float, float]
    @property
    def is_sparse(self) -> bool: ...
    @property
    def skips_zeros(self) -> bool: ...
    def __init__(
        self,
        engine: object,
        sizes: tuple[int, ...],
        activations: tuple[str, ...],
        loss: str,
        dtype: str,
        max_rows: int,
        optimizer: str,
        *,
        loss_parameter: float = 0,
        loss_clip: float = 0,
        dropout: float = 0,
        is_sparse: bool = False,
        writes: Writes | None = None,
        n_threads: int = 1,
        any_size: bool = False,
    ) -> None: ...
    def gradients(
        self,
        gradients: NDArray[Any],
        X: NDArray[Any] | SparseRows,
        y: NDArray[Any],
        params: NDArray[Any],
        sample_weight: NDArray[Any] | None = None,
        *,
        n_threads: int = 1,
        max_workers: int = 0,
        any_size: bool = False,
    ) -> float: ...
    def undo(self) -> None: ...
    def load(
        self,
        params: NDArray[Any],
        moment1: NDArray[Any] | None = None,
        moment2: NDArray[Any] | None = None,
    ) -> None: ...
    def store(
        self,
        params: NDArray[Any],
        moment1: NDArray[Any] | None = None,
        moment2: NDArray[Any] | None = None,
    ) -> None: ...
    def epoch(
        self,
        X: NDArray[Any] | SparseRows,
        y: NDArray[Any],
        order: NDArray[np.intp],
        batch_size: int,
        *,
        sample_weight: NDArray[Any] | None = None,
        learning_rate: float,
        l2: float = 0,
        weight_decay: float = 0,
        decoupled_decay: float = 0,
        max_norm: float = ...,
        momentum: float = 0,
        nesterov: bool = False,
        beta1: float = 0,
        beta2: float = 0,
        epsilon: float = 0,
        t: int = 0,
        dropout_key: int = 0,
        number: int = 0,
        begun: tuple[int, int, float, float] = ...,
        n_threads: int = 1,
        max_workers: int = 0,
        any_size: bool = False,
    ) -> tuple[float, float, int, bool]: ...

class Turn:
    abandoned: bool
    computes: bool
    def acquire(self, blocking: bool = True) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...
    def attempt(self) -> AbstractContextManager[bool, None]: ...
    def computing(self, what: str) -> AbstractContextManager[None, None]: ...
    def of_a_fit(
        self, what: str, *, nested: bool = False, closed: bool = True
    ) -> AbstractContextManager[None, None]: ...
    def shared(self) -> AbstractContextManager[None, None]: ...
    def look(self, what: str) -> int: ...
    def forked(self) -> None: ...

def fused_engine(level: str) -> object | None: ...
def vector_math(
    engine: object, function: str, out: NDArray[Any], x: NDArray[Any], dtype: str
) -> None: ...
def fma_probe(level: str, dtype: str, seconds: float) -> float: ...
def dropout_words(key: int, step: int, layer: int, row: int, block: int) -> NDArray[np.uint32]: ...
def draw(bit_generator: np.random.BitGenerator, room: NDArray[np.uint64]) -> None: ...
def shuffled(n: int, seed: int) -> NDArray[np.intp]: ...
def first_nonfinite(x: NDArray[Any]) -> int: ...
