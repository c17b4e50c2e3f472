"""The networks and batches that are raced, and the data they train on."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shape:
    """A network, its batch and its data.

    Attributes
    ----------
    sizes : widths of the layers
    batch : rows of a step
    rows : rows of the data, a multiple of batch
    """

    sizes: tuple[int, ...]
    batch: int
    rows: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        return f"{'-'.join(map(str, self.sizes))} b{self.batch}"

    @property
    def flops_per_row(self) -> int:
        """Useful flops of a training step for one row: the first layer needs no dX."""
        products = [n_in * n_out for n_in, n_out in zip(self.sizes, self.sizes[1:], strict=False)]
        return 4 * products[0] + 6 * sum(products[1:])

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Seeded data with something to learn: labels from a random linear map, with noise."""
        rng = np.random.default_rng(0)
        X = rng.normal(size=(self.rows, self.sizes[0])).astype(self.dtype)
        scores = X @ rng.normal(size=(self.sizes[0], self.sizes[-1]))
        scores += 0.1 * np.abs(scores).mean() * rng.gumbel(size=scores.shape)
        return X, scores.argmax(axis=1)


SHAPES = {
    shape.name: shape
    for shape in [
        Shape((64, 100, 10), 32, 8192),
        Shape((784, 128, 10), 64, 8192),
        Shape((784, 256, 128, 10), 128, 8192),
        Shape((784, 512, 512, 10), 256, 8192),
        Shape((1024, 2048, 2048, 1000), 1024, 4096),
    ]
}
