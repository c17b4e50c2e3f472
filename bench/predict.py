"""The contenders for predictions: class probabilities of the same rows, as often as asked.

A contender is a function of (shape, x, y, threads), with x of shape (rows, n_in), that returns its
version, what computes in it, and a function that predicts so many times and returns the
probability of the first class. x is handed over as the kind of array that the contender likes
best, and the answer taken as it comes.
"""

from collections.abc import Callable

import numpy as np
from peers import Ready, blas_core, initial, sklearn_network, torch_kernels, torch_network
from shapes import Shape

import fastmlp


def repeated(predict: Callable[[], np.ndarray]) -> Callable[[int], float]:
    """Predict so many times; the first number of the last answer."""

    def calls(n: int) -> float:
        for _ in range(n):
            probabilities = predict()
        return float(np.asarray(probabilities).flat[0])

    return calls


def fastmlp_proba(shape: Shape, x, y, threads: int) -> Ready:
    model = initial(shape)
    kernels = f"own, {fastmlp.engines.simd_level()}"
    return fastmlp.__version__, kernels, repeated(lambda: model.predict_proba(x))


def fastmlp_forward(shape: Shape, x, y, threads: int) -> Ready:
    """Logits only: what the probabilities cost can be seen from the difference."""
    model = initial(shape)

    def calls(n: int) -> float:
        for _ in range(n):
            Z = model.forward(x)
        return float(np.exp(Z[0, 0] - Z[0].max()) / np.exp(Z[0] - Z[0].max()).sum())

    return fastmlp.__version__, f"own, {fastmlp.engines.simd_level()}", calls


def numpy(shape: Shape, x, y, threads: int) -> Ready:
    model = initial(shape)
    *hidden, (W, b) = zip(model.weights, model.biases, strict=True)

    def predict() -> np.ndarray:
        A = x
        for V, c in hidden:
            A = A @ V
            A += c
            np.maximum(A, 0, out=A)
        Z = A @ W
        Z += b
        Z -= Z.max(axis=1, keepdims=True)
        np.exp(Z, out=Z)
        Z /= Z.sum(axis=1, keepdims=True)
        return Z

    return np.__version__, blas_core(), repeated(predict)


def sklearn_proba(shape: Shape, x, y, threads: int) -> Ready:
    """The network comes from a fit on rows of which every class has one."""
    import sklearn

    labels = np.arange(shape.sizes[-1])
    model = sklearn_network(shape, np.zeros((len(labels), x.shape[1]), x.dtype), labels)
    return sklearn.__version__, blas_core(), repeated(lambda: model.predict_proba(x))


def torch_eager(shape: Shape, x, y, threads: int) -> Ready:
    import torch

    model, x = torch_network(shape, threads), torch.from_numpy(x)

    def calls(n: int) -> float:
        with torch.inference_mode():
            return repeated(lambda: torch.softmax(model(x), 1))(n)

    return torch.__version__, torch_kernels(), calls


def torch_traced(shape: Shape, x, y, threads: int) -> Ready:
    import torch

    model = torch.nn.Sequential(torch_network(shape, threads), torch.nn.Softmax(1)).eval()
    x = torch.from_numpy(x)
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(model, x))

    def calls(n: int) -> float:
        with torch.inference_mode():
            return repeated(lambda: traced(x))(n)

    return torch.__version__, torch_kernels(), calls


def jax_jitted(shape: Shape, x, y, threads: int) -> Ready:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", shape.dtype == "float64")
    jax.config.update("jax_default_matmul_precision", "highest")
    start = initial(shape)
    params = [
        (jnp.array(W), jnp.array(b)) for W, b in zip(start.weights, start.biases, strict=True)
    ]

    @jax.jit
    def predict(params, A):
        for W, b in params[:-1]:
            A = jax.nn.relu(A @ W + b)
        W, b = params[-1]
        return jax.nn.softmax(A @ W + b)

    x = jnp.array(x)
    return jax.__version__, "XLA", repeated(lambda: predict(params, x).block_until_ready())


def onnx_runtime(shape: Shape, x, y, threads: int) -> Ready:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    model = initial(shape)
    nodes, constants, name = [], [], "x"
    for l, (W, b) in enumerate(zip(model.weights, model.biases, strict=True)):
        constants += [numpy_helper.from_array(W, f"W{l}"), numpy_helper.from_array(b, f"b{l}")]
        last = l == len(model.weights) - 1
        nodes.append(helper.make_node("Gemm", [name, f"W{l}", f"b{l}"], [f"Z{l}"]))
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"Z{l}"], [f"A{l}"]))
        name = f"A{l}"
    real = TensorProto.FLOAT if shape.dtype == "float32" else TensorProto.DOUBLE
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", real, [len(x), shape.sizes[0]])],
        [helper.make_tensor_value_info(name, real, [len(x), shape.sizes[-1]])],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return onnxruntime.__version__, "MLAS", repeated(lambda: session.run(None, {"x": x})[0])


CONTENDERS = {
    "fastmlp": fastmlp_proba,
    "fastmlp forward": fastmlp_forward,
    "NumPy": numpy,
    "scikit-learn": sklearn_proba,
    "PyTorch eager": torch_eager,
    "PyTorch traced": torch_traced,
    "JAX": jax_jitted,
    "ONNX Runtime": onnx_runtime,
}
