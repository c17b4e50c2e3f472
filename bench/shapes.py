"""The networks and batches that are raced, and the data they train on."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastmlp.benchmark import SHAPES as MAIN
from fastmlp.benchmark import training_flops
from fastmlp.data import read_idx

# MNIST's test images, as they come, where somebody has put them.
MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist10k"
FLOPS_PER_TURN, STEPS_PER_TURN, CALLS_PER_TURN = 6e10, 5_000, 20_000
PREDICT_FLOPS_PER_TURN = 6e9


@dataclass(frozen=True)
class Shape:
    """A network, its batch, its data and what is done with them.

    Attributes
    ----------
    sizes : widths of the layers
    batch : rows of a step
    rows : rows of the data, a multiple of batch
    optimizer : "sgd", with momentum, or "adam"
    task : "train", or "predict": the class probabilities of all rows at once
    source : "random", or "mnist": the images, of whose numbers four in five are 0
    """

    sizes: tuple[int, ...]
    batch: int
    rows: int
    dtype: str = "float32"
    optimizer: str = "sgd"
    task: str = "train"
    source: str = "random"

    @property
    def name(self) -> str:
        words = ["-".join(map(str, self.sizes))]
        if self.task == "predict":
            words.append("one row" if self.rows == 1 else f"{self.rows:,} rows")
        else:
            words.append(f"b{self.batch}" if self.shuffle else "full batch")
        words += ["adam"] if self.optimizer == "adam" else []
        words += ["float64"] if self.dtype == "float64" else []
        words += ["MNIST"] if self.source == "mnist" else []
        return " ".join(words)

    @property
    def shuffle(self) -> bool:
        """Whether the order of the rows matters: not where a step takes all of them."""
        return self.batch < self.rows

    @property
    def flops_per_row(self) -> int:
        """Useful flops for one row, of a training step or of a prediction."""
        if self.task == "predict":
            return sum(2 * I * O for I, O in zip(self.sizes, self.sizes[1:], strict=False))
        return training_flops(self.sizes)

    @property
    def repeats(self) -> int:
        """Epochs, or calls, of a contender's turn: about a second for a middling one.

        Predictions, which do not have to learn anything meanwhile, take a tenth of that: many
        short turns are fairer where others use the machine now and then.
        """
        if self.rows == 1:
            return CALLS_PER_TURN
        flops = PREDICT_FLOPS_PER_TURN if self.task == "predict" else FLOPS_PER_TURN
        by_flops = flops / (self.flops_per_row * self.rows)
        by_steps = STEPS_PER_TURN / (self.rows / self.batch)
        return max(1, round(min(by_flops, by_steps)))

    @property
    def learning_rate(self) -> float:
        """So small that the trajectories of all contenders stay together to the end.

        Where the way is long or the steps large, rounding alone makes float32 losses differ by
        percents (in float64 they agree to 1e-15), and nothing could be told from them.
        """
        steps_per_turn = self.repeats * self.rows / self.batch
        rate = min(0.003, 1 / steps_per_turn)
        return rate if self.optimizer == "sgd" else rate / 10

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """MNIST; or seeded data with labels from a random linear map, and noise."""
        if self.source == "mnist":
            X, y = mnist(self.dtype)
            return X[: self.rows], y[: self.rows]
        rng = np.random.default_rng(0)
        X = rng.normal(size=(self.rows, self.sizes[0])).astype(self.dtype)
        scores = X @ rng.normal(size=(self.sizes[0], self.sizes[-1]))
        scores += np.abs(scores).mean() * rng.gumbel(size=scores.shape)
        y = scores.argmax(axis=1)
        y[: self.sizes[-1]] = np.arange(min(self.sizes[-1], self.rows))  # no class without a row
        return X, y


def mnist(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The images, numbers from 0 to 1, and what they show."""
    X = read_idx(MNIST / "t10k-images-idx3-ubyte.gz")
    y = read_idx(MNIST / "t10k-labels-idx1-ubyte.gz")
    return (X.reshape(len(X), -1) / 255).astype(dtype), y.astype(np.int64)


SETS = {
    "main": [Shape(sizes, batch, 8192 if batch < 1024 else 4096) for sizes, batch in MAIN],
    "odd": [  # sizes that divide by nothing; few inputs, few rows, many layers
        Shape((13, 37, 3), 20, 8000),
        Shape((301, 173, 59, 7), 100, 8000),
        Shape((7, 1001, 3), 50, 8000),
        Shape((1999, 50, 5), 64, 8192),
        Shape((100, 33, 33, 33, 33, 11), 77, 7700),
    ],
    "small batches": [
        Shape((64, 100, 10), 1, 2048),
        Shape((784, 128, 10), 1, 2048),
        Shape((784, 512, 512, 10), 1, 2048),
        Shape((784, 256, 128, 10), 8, 4096),
    ],
    "other": [
        Shape((784, 256, 128, 10), 128, 8192, optimizer="adam"),
        Shape((784, 256, 128, 10), 128, 8192, dtype="float64"),
        Shape((4, 32, 16, 4), 10_000, 10_000),
    ],
    "one row": [
        Shape((64, 100, 10), 1, 1, task="predict"),
        Shape((784, 256, 128, 10), 1, 1, task="predict"),
    ],
    "many rows": [
        Shape((64, 100, 10), 1000, 1000, task="predict"),
        Shape((784, 128, 10), 100, 100, task="predict"),
        Shape((784, 256, 128, 10), 1000, 1000, task="predict"),
        Shape((784, 512, 512, 10), 10_000, 10_000, task="predict"),
        Shape((1024, 2048, 2048, 1000), 1000, 1000, task="predict"),
    ],
}
SETS["pictures"] = []
if MNIST.exists():
    SETS["pictures"] = [
        *(replace(shape, source="mnist") for shape in SETS["main"] if shape.sizes[0] == 784),
        *(replace(shape, source="mnist") for shape in SETS["many rows"] if shape.sizes[0] == 784),
    ]
SHAPES = {shape.name: shape for shapes in SETS.values() for shape in shapes}
