from typing import Any

import numpy as np
from numpy.typing import NDArray

ACTIVATIONS: dict[str, int]
LOSSES: dict[str, int]
DTYPES: dict[str, int]

class Core:
    def __init__(
        self,
        engine: object,
        sizes: tuple[int, ...],
        activation: str,
        loss: str,
        dtype: str,
        max_rows: int,
    ) -> None: ...
    def forward(self, out: NDArray[Any], X: NDArray[Any], params: NDArray[Any]) -> None: ...
    def gradients(
        self, gradients: NDArray[Any], X: NDArray[Any], y: NDArray[Any], params: NDArray[Any]
    ) -> float: ...
    def epoch(
        self,
        params: NDArray[Any],
        velocity: NDArray[Any],
        gradients: NDArray[Any],
        X: NDArray[Any],
        y: NDArray[Any],
        order: NDArray[np.intp],
        batch_size: int,
        learning_rate: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
    ) -> tuple[float, int, bool]: ...

def forward_rows(n: int) -> int: ...
def first_nonfinite(x: NDArray[Any]) -> int: ...
