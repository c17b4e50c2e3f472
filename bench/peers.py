"""The contenders: each trains the same network on the same rows in the same order.

Run as ``python bench/peers.py CONTENDER SHAPE THREADS EPOCHS``, a process of its own for every
contender: it prints one JSON line about itself, and for every line it reads trains EPOCHS epochs
more and prints the seconds they took and the training loss of the last. Making the order of the
rows and gathering them is part of what is timed; importing, compiling, converting the data and
the first epochs are not.
"""

import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
from shapes import SHAPES, Shape

LEARNING_RATE, MOMENTUM = 0.01, 0.9
Train = Callable[[int], float]  # epochs -> loss of the last


def blas_core() -> str:
    """The kernels OpenBLAS has chosen, as it names them."""
    from threadpoolctl import threadpool_info

    cores = {str(pool.get("architecture")) for pool in threadpool_info()}
    return ", ".join(sorted(cores - {"None"})) or "none loaded"


def orders(shape: Shape) -> Callable[[], np.ndarray]:
    """A new order of the rows at every call, the same for all contenders."""
    rng = np.random.default_rng(0)
    return lambda: rng.permutation(shape.rows)


def initial(shape: Shape):
    """The weights and biases that all contenders start from."""
    from fastmlp import MLP

    model = MLP(shape.sizes, dtype=shape.dtype, seed=0)
    return model.weights, model.biases


def fastmlp_blas(shape: Shape, X, y, threads: int) -> tuple[str, Train]:
    import fastmlp

    model = fastmlp.MLP(shape.sizes, dtype=shape.dtype, seed=0)
    trainer = fastmlp.SGD(
        model,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        batch_size=shape.batch,
        seed=0,
        engine="blas",
        n_threads=threads,
    )
    return fastmlp.__version__, lambda epochs: trainer.fit(X, y, epochs=epochs).loss[-1]


def sklearn(shape: Shape, X, y, threads: int) -> tuple[str, Train]:
    import sklearn
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")  # it warns that max_iter epochs were not enough
    model = MLPClassifier(
        shape.sizes[1:-1],
        solver="sgd",
        alpha=0,
        batch_size=shape.batch,
        learning_rate_init=LEARNING_RATE,
        momentum=MOMENTUM,
        nesterovs_momentum=False,
        random_state=0,
        warm_start=True,
        tol=0,
        n_iter_no_change=10**9,
    )
    model.set_params(max_iter=1).fit(X, y)
    weights, biases = initial(shape)
    model.coefs_ = [W.copy() for W in weights]
    model.intercepts_ = [b.copy() for b in biases]

    def train(epochs: int) -> float:
        model.set_params(max_iter=epochs).fit(X, y)
        return model.loss_

    return sklearn.__version__, train


def torch(shape: Shape, X, y, threads: int) -> tuple[str, Train]:
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    layers: list[nn.Module] = []
    for n_in, n_out in zip(shape.sizes, shape.sizes[1:], strict=False):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    if shape.dtype == "float64":
        model = model.double()
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer, W, b in zip(linear, *initial(shape), strict=True):
            layer.weight.copy_(torch.from_numpy(W.T.copy()))
            layer.bias.copy_(torch.from_numpy(b.copy()))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    cross_entropy = nn.CrossEntropyLoss()
    Xt, yt = torch.from_numpy(X), torch.from_numpy(y)
    next_order = orders(shape)

    def train(epochs: int) -> float:
        for _ in range(epochs):
            order = torch.from_numpy(next_order())
            losses = []
            for rows in order.split(shape.batch):
                optimizer.zero_grad(set_to_none=True)
                loss = cross_entropy(model(Xt[rows]), yt[rows])
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    return torch.__version__, train


CONTENDERS = {"fastmlp blas": fastmlp_blas, "scikit-learn": sklearn, "PyTorch eager": torch}
NEEDS = {"scikit-learn": "sklearn", "PyTorch eager": "torch"}


def absent(contender: str) -> bool:
    """Whether what the contender needs is not installed."""
    module = NEEDS.get(contender)
    return module is not None and importlib.util.find_spec(module) is None


def main() -> None:
    contender, shape_name, threads, epochs = sys.argv[1:]
    shape = SHAPES[shape_name]
    X, y = shape.data()
    version, train = CONTENDERS[contender](shape, X, y, int(threads))
    train(1)
    start = time.perf_counter()
    train(1)  # the first epochs, compilation included, are not counted
    seconds = time.perf_counter() - start
    about = {"version": version, "blas": blas_core(), "seconds": seconds, "pid": os.getpid()}
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = train(int(epochs))
        print(json.dumps({"seconds": time.perf_counter() - start, "loss": loss}), flush=True)


if __name__ == "__main__":
    main()
