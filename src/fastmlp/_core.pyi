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

class Core:
    def __init__(
        self,
        engine: object,
        sizes: tuple[int, ...],
        activation: str,
        loss: str,
        dtype: str,
        max_rows: int = 1,
        optimizer: str | None = None,
    ) -> None: ...
    def infer(self, X: object, params: NDArray[Any], what: int) -> NDArray[Any] | None: ...
    def gradients(
        self, gradients: NDArray[Any], X: NDArray[Any], y: NDArray[Any], params: NDArray[Any]
    ) -> float: ...
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
        X: NDArray[Any],
        y: NDArray[Any],
        order: NDArray[np.intp],
        batch_size: int,
        *,
        learning_rate: float,
        weight_decay: float = 0,
        momentum: float = 0,
        nesterov: bool = False,
        beta1: float = 0,
        beta2: float = 0,
        epsilon: float = 0,
        decoupled: bool = False,
        t: int = 0,
        n_threads: int = 1,
        max_workers: int = 0,
        any_size: bool = False,
    ) -> tuple[float, int, bool]: ...

def fused_engine(level: str) -> object | None: ...
def vector_math(
    engine: object, function: str, out: NDArray[Any], x: NDArray[Any], dtype: str
) -> None: ...
def fma_probe(level: str, dtype: str, seconds: float) -> float: ...
def shuffled(n: int, seed: int) -> NDArray[np.intp]: ...
def first_nonfinite(x: NDArray[Any]) -> int: ...
