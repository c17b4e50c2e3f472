"""The core: owns the buffers of one network under one engine and runs its batches without the GIL.

It trusts its callers (`model`, `trainer`) for the meaning of what they hand over (finite
numbers, labels in range, rows that exist) and checks for itself that every array is contiguous
and has the length the network's sizes ask for.
"""

from cpython.buffer cimport (
    Py_buffer, PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport isfinite
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

from fastmlp._csrc cimport (
    FM_ENGINE_CAPSULE, FM_FLOAT32, FM_FLOAT64, FM_IDENTITY, FM_LOGISTIC, FM_RELU,
    FM_SOFTMAX_CROSS_ENTROPY, FM_SQUARED_ERROR, FM_TANH, fm_engine, fm_first_nonfinite_float32,
    fm_first_nonfinite_float64, fm_run,
)

cdef extern from "<time.h>" nogil:
    enum: TIME_UTC
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec
    int timespec_get(timespec *ts, int base)

ACTIVATIONS = {
    "identity": FM_IDENTITY, "relu": FM_RELU, "tanh": FM_TANH, "logistic": FM_LOGISTIC,
}
LOSSES = {
    "softmax_cross_entropy": FM_SOFTMAX_CROSS_ENTROPY, "squared_error": FM_SQUARED_ERROR,
}
DTYPES = {"float32": FM_FLOAT32, "float64": FM_FLOAT64}

# How often a running epoch looks for signals, in seconds: Ctrl-C is promised within 0.1.
cdef double SIGNAL_INTERVAL = 0.02
# Rows that `forward` sends through the network at a time.
cdef ptrdiff_t FORWARD_ROWS = 1024
cdef size_t ALIGNMENT = 64


cdef class Pointer:
    """The memory of a C-contiguous array, held for as long as this object lives."""

    cdef Py_buffer view

    def __cinit__(self, array, ptrdiff_t n_bytes, bint writable=False):
        PyObject_GetBuffer(
            array, &self.view, PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if writable else 0)
        )
        if self.view.len != n_bytes:
            raise ValueError(f"array of {self.view.len} bytes where {n_bytes} are needed")

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef double _seconds() noexcept nogil:
    cdef timespec ts
    timespec_get(&ts, TIME_UTC)
    return ts.tv_sec + 1e-9 * ts.tv_nsec


cdef int _check_signals() except -1 with gil:
    return PyErr_CheckSignals()


cdef class Core:
    """One network under one engine.

    Parameters
    ----------
    engine : capsule around a `fm_engine`
    sizes : sequence of int, the width of every layer, inputs first
    activation, loss, dtype : str, keys of ACTIVATIONS, LOSSES, DTYPES
    max_rows : int, the largest batch

    Not for use by two threads at once: the workspace is shared by all calls.
    """

    cdef object capsule
    cdef fm_engine *engine
    cdef fm_run run
    cdef ptrdiff_t *sizes
    cdef void *memory
    cdef ptrdiff_t n_params, itemsize, n_in, n_out, target_bytes

    def __cinit__(self, engine, sizes, activation, loss, dtype, ptrdiff_t max_rows):
        cdef ptrdiff_t l, L = len(sizes) - 1
        cdef size_t n_bytes
        self.capsule = engine
        self.engine = <fm_engine *>PyCapsule_GetPointer(engine, FM_ENGINE_CAPSULE)
        self.sizes = <ptrdiff_t *>malloc((L + 1) * sizeof(ptrdiff_t))
        if self.sizes == NULL:
            raise MemoryError("no memory for the sizes of the network")
        for l in range(L + 1):
            self.sizes[l] = sizes[l]
        self.run.net.n_layers = L
        self.run.net.sizes = self.sizes
        self.run.net.activation = ACTIVATIONS[activation]
        self.run.net.loss = LOSSES[loss]
        self.run.net.dtype = DTYPES[dtype]
        self.run.max_rows = max(max_rows, 1)
        self.itemsize = 4 if self.run.net.dtype == FM_FLOAT32 else 8
        self.n_in = self.sizes[0]
        self.n_out = self.sizes[L]
        self.n_params = 0
        for l in range(L):
            self.n_params += (self.sizes[l] + 1) * self.sizes[l + 1]
        if self.run.net.loss == FM_SOFTMAX_CROSS_ENTROPY:
            self.target_bytes = sizeof(int64_t)
        else:
            self.target_bytes = self.n_out * self.itemsize

        n_bytes = self.engine.workspace_bytes(&self.run.net, self.run.max_rows)
        self.memory = malloc(n_bytes + ALIGNMENT)
        if self.memory == NULL:
            raise MemoryError(f"no memory for the {n_bytes} bytes of working space of the network")
        self.run.workspace = <void *>((<size_t>self.memory + ALIGNMENT) & ~(ALIGNMENT - 1))

    def __dealloc__(self):
        free(self.memory)
        free(self.sizes)

    cdef Pointer _params(self, array, bint writable):
        return Pointer(array, self.n_params * self.itemsize, writable)

    def forward(self, out, X, params):
        """out (n, n_out) = the network's outputs for X (n, n_in)."""
        cdef ptrdiff_t n = X.shape[0], start = 0, B
        cdef Pointer outputs = Pointer(out, n * self.n_out * self.itemsize, True)
        cdef Pointer inputs = Pointer(X, n * self.n_in * self.itemsize)
        cdef Pointer parameters = self._params(params, False)
        self.run.params = parameters.view.buf
        with nogil:
            while start < n:
                B = min(n - start, self.run.max_rows)
                self.engine.forward(
                    &self.run,
                    <char *>outputs.view.buf + start * self.n_out * self.itemsize,
                    <const char *>inputs.view.buf + start * self.n_in * self.itemsize,
                    B,
                )
                start += B
                _check_signals()

    def gradients(self, gradients, X, y, params):
        """Gradients of the mean loss over all of X (n, n_in); returns that loss."""
        cdef ptrdiff_t n = X.shape[0]
        cdef double loss
        cdef Pointer inputs = Pointer(X, n * self.n_in * self.itemsize)
        cdef Pointer targets = Pointer(y, n * self.target_bytes)
        cdef Pointer parameters = self._params(params, False)
        cdef Pointer derivatives = self._params(gradients, True)
        if n > self.run.max_rows:
            raise ValueError(f"{n} rows where at most {self.run.max_rows} were announced")
        self.run.X = inputs.view.buf
        self.run.y = targets.view.buf
        self.run.params = parameters.view.buf
        self.run.gradients = derivatives.view.buf
        with nogil:
            loss = self.engine.gradients(&self.run, NULL, n)
        return loss / n

    def epoch(self, params, velocity, gradients, X, y, order, ptrdiff_t batch_size,
              double learning_rate, double momentum, bint nesterov, double weight_decay):
        """Train on the rows of X in `order`, batch by batch, the last one perhaps short.

        Returns the loss summed over the rows, the number of steps done, and whether all of them
        were: a step whose loss is not finite is not done and ends the epoch. A signal whose
        handler raises (Ctrl-C) ends it after a completed step.
        """
        cdef ptrdiff_t n = order.shape[0], start = 0, steps = 0, B
        cdef Pointer inputs = Pointer(X, X.shape[0] * self.n_in * self.itemsize)
        cdef Pointer targets = Pointer(y, X.shape[0] * self.target_bytes)
        cdef Pointer rows = Pointer(order, n * sizeof(ptrdiff_t))
        cdef Pointer parameters = self._params(params, True)
        cdef Pointer velocities = self._params(velocity, True)
        cdef Pointer derivatives = self._params(gradients, True)
        cdef double loss, total = 0, now, checked
        cdef bint finite = True
        if not 1 <= batch_size <= self.run.max_rows:
            raise ValueError(f"batch_size {batch_size} is not in 1..{self.run.max_rows}")
        self.run.X = inputs.view.buf
        self.run.y = targets.view.buf
        self.run.params = parameters.view.buf
        self.run.velocity = velocities.view.buf
        self.run.gradients = derivatives.view.buf
        self.run.rule.learning_rate = learning_rate
        self.run.rule.momentum = momentum
        self.run.rule.nesterov = nesterov
        self.run.rule.weight_decay = weight_decay
        with nogil:
            checked = _seconds()
            while start < n:
                B = min(n - start, batch_size)
                loss = self.engine.step(&self.run, <const ptrdiff_t *>rows.view.buf + start, B)
                if not isfinite(loss):
                    finite = False
                    break
                total += loss
                steps += 1
                start += B
                now = _seconds()
                if not checked <= now < checked + SIGNAL_INTERVAL:
                    checked = now
                    _check_signals()
        return total, steps, finite


def forward_rows(ptrdiff_t n):
    """The `max_rows` a core needs for `forward` on n rows."""
    return min(n, FORWARD_ROWS)


ctypedef fused floating:
    float
    double


def first_nonfinite(const floating[::1] x):
    """Index of the first NaN or infinity in x, or -1."""
    cdef ptrdiff_t found
    if x.shape[0] == 0:
        return -1
    with nogil:
        if floating is float:
            found = fm_first_nonfinite_float32(&x[0], x.shape[0])
        else:
            found = fm_first_nonfinite_float64(&x[0], x.shape[0])
    return found
