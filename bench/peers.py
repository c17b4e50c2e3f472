"""The contenders: each trains the same network on the same rows in the same order.

A contender is a function of (shape, X, y, threads) that prepares everything, converts the data,
and returns its version, what computes in it, and a function that trains so many epochs more and
returns the mean training loss of the last. Making the order of the rows and gathering them is
part of that function. scikit-learn alone has an order of its own.
"""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from shapes import Shape

import fastmlp
from fastmlp._core import shuffled

MOMENTUM, BETA1, BETA2, EPSILON = 0.9, 0.9, 0.999, 1e-8
Train = Callable[[int], float]
Ready = tuple[str, str, Train]  # version, what computes, train


def blas_core() -> str:
    """The BLAS that NumPy and SciPy use, and the kernels it has chosen, as it names them."""
    from threadpoolctl import threadpool_info

    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    names = {f"{pool['internal_api']} {pool.get('architecture', '')}".strip() for pool in pools}
    return ", ".join(sorted(names)) or "no BLAS"


def orders(shape: Shape) -> Callable[[], np.ndarray]:
    """A function that makes the order of the rows in the next epoch, the same for everybody."""
    if not shape.shuffle:
        return partial(np.arange, shape.rows)
    rng = np.random.default_rng(0)
    return lambda: shuffled(shape.rows, int(rng.integers(2**64, dtype=np.uint64)))


def initial(shape: Shape) -> fastmlp.MLP:
    """The network that everybody starts from."""
    return fastmlp.MLP(shape.sizes, dtype=shape.dtype, seed=0)


def fastmlp_engine(engine: str, shape: Shape, X, y, threads: int) -> Ready:
    kind = {
        "sgd": partial(fastmlp.SGD, momentum=MOMENTUM),
        "adam": partial(fastmlp.Adam, beta_1=BETA1, beta_2=BETA2, epsilon=EPSILON),
    }
    trainer = kind[shape.optimizer](
        initial(shape),
        learning_rate=shape.learning_rate,
        batch_size=shape.batch,
        shuffle=shape.shuffle,
        seed=0,
        engine=engine,
        n_threads=threads,
    )

    def train(epochs: int) -> float:
        return trainer.fit(X, y, epochs=epochs).loss[-1]

    trainer.fit(X, y, epochs=0)  # loads BLAS, so that it can be named
    kernels = f"own, {fastmlp.engines.simd_level()}" if engine == "fused" else blas_core()
    return fastmlp.__version__, kernels, train


def numpy(shape: Shape, X, y, threads: int) -> Ready:
    """A loop by hand that allocates nothing big; all parameters in one array."""
    model, B, L = initial(shape), shape.batch, len(shape.sizes) - 1
    params, W, b = model.params, model.weights, model.biases
    grad, moment1, moment2, change = (np.zeros_like(params) for _ in range(4))
    dW, db = model.split(grad)
    A = [np.empty((B, n), shape.dtype) for n in shape.sizes]
    dA = [np.empty_like(a) for a in A]
    positive = [np.empty(a.shape, bool) for a in A]
    every_row, next_order, rate = np.arange(B), orders(shape), shape.learning_rate
    t = 0

    def sgd() -> None:
        np.multiply(moment1, MOMENTUM, out=moment1)
        np.multiply(grad, rate, out=grad)
        np.subtract(moment1, grad, out=moment1)
        np.add(params, moment1, out=params)

    def adam() -> None:
        nonlocal t
        t += 1
        np.multiply(moment1, BETA1, out=moment1)
        np.multiply(grad, 1 - BETA1, out=change)
        np.add(moment1, change, out=moment1)
        np.multiply(moment2, BETA2, out=moment2)
        np.square(grad, out=grad)
        np.multiply(grad, 1 - BETA2, out=grad)
        np.add(moment2, grad, out=moment2)
        np.sqrt(moment2, out=change)
        np.add(change, EPSILON, out=change)
        np.divide(moment1, change, out=change)
        np.multiply(change, rate * (1 - BETA2**t) ** 0.5 / (1 - BETA1**t), out=change)
        np.subtract(params, change, out=params)

    update = sgd if shape.optimizer == "sgd" else adam

    def step(labels: np.ndarray) -> float:
        for l in range(L):
            Z = np.matmul(A[l], W[l], out=A[l + 1])
            np.add(Z, b[l], out=Z)
            if l < L - 1:
                np.maximum(Z, 0, out=Z)
        dZ = np.subtract(Z, Z.max(axis=1, keepdims=True), out=dA[L])
        right = dZ[every_row, labels]
        np.exp(dZ, out=dZ)
        total = dZ.sum(axis=1, keepdims=True)
        loss = (np.log(total[:, 0]) - right).mean()
        np.divide(dZ, total, out=dZ)
        dZ[every_row, labels] -= 1
        np.divide(dZ, B, out=dZ)
        for l in reversed(range(L)):
            np.matmul(A[l].T, dA[l + 1], out=dW[l])
            np.sum(dA[l + 1], axis=0, out=db[l])
            if l:
                np.matmul(dA[l + 1], W[l].T, out=dA[l])
                np.multiply(dA[l], np.greater(A[l], 0, out=positive[l]), out=dA[l])
        update()
        return float(loss)

    def train(epochs: int) -> float:
        for _ in range(epochs):
            losses = []
            order = next_order()
            for start in range(0, shape.rows, B):
                rows = order[start : start + B]
                if shape.shuffle:
                    np.take(X, rows, axis=0, out=A[0], mode="clip")  # clip: straight into out
                else:
                    A[0] = X
                losses.append(step(y[rows]))
        return sum(losses) / len(losses)

    return np.__version__, blas_core(), train


def sklearn_network(shape: Shape, X, y):
    """The network in scikit-learn, as everybody starts from it."""
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")  # it warns that max_iter epochs were not enough
    model = MLPClassifier(
        shape.sizes[1:-1],
        solver=shape.optimizer,
        alpha=0,
        batch_size=shape.batch,
        learning_rate_init=shape.learning_rate,
        momentum=MOMENTUM,
        nesterovs_momentum=False,
        beta_1=BETA1,
        beta_2=BETA2,
        epsilon=EPSILON,
        shuffle=shape.shuffle,
        random_state=0,
        warm_start=True,
        tol=0,
        n_iter_no_change=10**9,
    )
    model.set_params(max_iter=1).fit(X, y)
    start = initial(shape)
    model.coefs_ = [W.copy() for W in start.weights]
    model.intercepts_ = [b.copy() for b in start.biases]
    return model


def sklearn(shape: Shape, X, y, threads: int) -> Ready:
    """It shuffles by itself, and every call of fit forgets the moments of the optimizer."""
    import sklearn

    model = sklearn_network(shape, X, y)

    def train(epochs: int) -> float:
        model.set_params(max_iter=epochs).fit(X, y)
        return float(model.loss_)

    return sklearn.__version__, blas_core(), train


def torch_network(shape: Shape, threads: int):
    """The network in PyTorch, as everybody starts from it."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    start = initial(shape)
    layers: list[nn.Module] = []
    for W, b in zip(start.weights, start.biases, strict=True):
        linear = nn.Linear(*W.shape, dtype=getattr(torch, shape.dtype))
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W.T.copy()))
            linear.bias.copy_(torch.from_numpy(b.copy()))
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def torch_kernels() -> str:
    import torch

    library = "MKL" if torch.backends.mkl.is_available() else "its own BLAS"
    return f"{library}, {torch.backends.cpu.get_cpu_capability()}"


def torch_train(shape: Shape, step) -> Train:
    """Train by a step that takes the numbers of its rows and returns the loss, a tensor."""
    import torch

    next_order = orders(shape)

    def train(epochs: int) -> float:
        for _ in range(epochs):
            batches = torch.from_numpy(next_order()).split(shape.batch)
            losses = [step(rows) for rows in batches]
        return float(torch.stack(losses).mean())

    return train


def torch_eager(shape: Shape, X, y, threads: int) -> Ready:
    """As people write it, and with the fused optimizer, the fastest that it has on the CPU."""
    import torch
    from torch.nn.functional import cross_entropy

    model = torch_network(shape, threads)
    kind = {
        "sgd": partial(torch.optim.SGD, momentum=MOMENTUM),
        "adam": partial(torch.optim.Adam, betas=(BETA1, BETA2), eps=EPSILON),
    }
    rate = shape.learning_rate
    optimizer = kind[shape.optimizer](model.parameters(), lr=rate, fused=True)
    X, y = torch.from_numpy(X), torch.from_numpy(y)

    def step(rows):
        optimizer.zero_grad(set_to_none=True)
        inputs, labels = (X[rows], y[rows]) if shape.shuffle else (X, y)
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return torch.__version__, torch_kernels(), torch_train(shape, step)


def torch_compiled(shape: Shape, X, y, threads: int) -> Ready:
    """The whole step as one graph: gathering, gradients by torch.func, the update written out.

    That is three times as fast on small networks as compiling a step with loss.backward(), at
    which the graph breaks.
    """
    import torch
    from torch.nn.functional import cross_entropy

    model = torch_network(shape, threads)
    params = {name: value.detach().clone() for name, value in model.named_parameters()}
    moment1, moment2 = ({n: torch.zeros_like(v) for n, v in params.items()} for _ in range(2))
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    t, rate = 0, shape.learning_rate

    def loss_of(params, inputs, labels):
        return cross_entropy(torch.func.functional_call(model, params, (inputs,)), labels)

    def step(params, moment1, moment2, corrected, rows):
        inputs, labels = (X[rows], y[rows]) if shape.shuffle else (X, y)
        grads, loss = torch.func.grad_and_value(loss_of)(params, inputs, labels)
        for name, p in params.items():
            g, m, v = grads[name], moment1[name], moment2[name]
            if shape.optimizer == "sgd":
                m.mul_(MOMENTUM).sub_(rate * g)
                p.add_(m)
            else:
                m.mul_(BETA1).add_((1 - BETA1) * g)
                v.mul_(BETA2).add_((1 - BETA2) * g * g)
                p.sub_(corrected * m / (v.sqrt() + EPSILON))
        return loss

    compiled = torch.compile(step, fullgraph=True)

    def next_step(rows):
        nonlocal t
        t += 1
        corrected = rate * (1 - BETA2**t) ** 0.5 / (1 - BETA1**t)
        # a tensor, so that a new value is no reason to compile again
        return compiled(params, moment1, moment2, torch.tensor(corrected, dtype=X.dtype), rows)

    return torch.__version__, torch_kernels(), torch_train(shape, next_step)


def jax(shape: Shape, X, y, threads: int) -> Ready:
    """A whole epoch in one compiled call, the batches by scan, parameters donated."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", shape.dtype == "float64")
    jax.config.update("jax_default_matmul_precision", "highest")
    start, rate = initial(shape), shape.learning_rate
    params = [
        (jnp.array(W), jnp.array(b)) for W, b in zip(start.weights, start.biases, strict=True)
    ]
    tree = jax.tree.map

    def loss_of(params, inputs, labels):
        A = inputs
        for W, b in params[:-1]:
            A = jax.nn.relu(A @ W + b)
        W, b = params[-1]
        Z = A @ W + b
        right = jnp.take_along_axis(Z, labels[:, None], axis=1)[:, 0]
        return (jax.nn.logsumexp(Z, axis=1) - right).mean()

    def step(state, batch):
        inputs, labels = batch
        params, m, v, t = state
        loss, grads = jax.value_and_grad(loss_of)(params, inputs, labels)
        if shape.optimizer == "sgd":
            m = tree(lambda m, g: MOMENTUM * m - rate * g, m, grads)
            return (tree(jnp.add, params, m), m, v, t), loss
        t = t + 1
        m = tree(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, grads)
        v = tree(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, grads)
        corrected = rate * jnp.sqrt(1 - BETA2**t) / (1 - BETA1**t)
        params = tree(lambda p, m, v: p - corrected * m / (jnp.sqrt(v) + EPSILON), params, m, v)
        return (params, m, v, t), loss

    @partial(jax.jit, donate_argnums=0)
    def epoch(state, X, y, batches):
        if not shape.shuffle:
            return step(state, (X, y))
        return jax.lax.scan(lambda state, rows: step(state, (X[rows], y[rows])), state, batches)

    zeros = partial(tree, jnp.zeros_like)
    state = (params, zeros(params), zeros(params), jnp.zeros((), shape.dtype))
    if shape.optimizer == "sgd":
        state = (params, zeros(params), None, None)
    X, y, next_order = jnp.array(X), jnp.array(y.astype(np.int32)), orders(shape)

    def train(epochs: int) -> float:
        nonlocal state
        for _ in range(epochs):
            batches = next_order().astype(np.int32).reshape(-1, shape.batch)
            state, losses = epoch(state, X, y, batches)
        return float(losses.mean())

    return jax.__version__, "XLA", train


CONTENDERS = {
    "fastmlp": partial(fastmlp_engine, "fused"),
    "fastmlp blas": partial(fastmlp_engine, "blas"),
    "NumPy": numpy,
    "scikit-learn": sklearn,
    "PyTorch eager": torch_eager,
    "PyTorch compiled": torch_compiled,
    "JAX": jax,
}
