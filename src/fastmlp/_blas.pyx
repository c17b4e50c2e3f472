"""The BLAS engine: every operation of the network, forward and backward, line by line.

Matrix products go to SciPy's BLAS; everything else is a plain loop. Sizes: B rows, I inputs,
O outputs. Pointers come in the order outputs, const inputs, sizes, scalars; all matrices are
row-major. The functions on pointers carry an underscore; those on arrays, which `kernels`
publishes, have the same name without it.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport exp, expf, isfinite, log, logf, tanh, tanhf
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset
from scipy.linalg.cython_blas cimport dgemm, sgemm

from fastmlp._csrc cimport (
    FM_ENGINE_CAPSULE, FM_FLOAT32, FM_LOGISTIC, FM_RELU, FM_SOFTMAX_CROSS_ENTROPY, FM_TANH,
    fm_engine, fm_net, fm_rule, fm_run,
)

include "_blas_int.pxi"

ctypedef fused floating:
    float
    double

# The largest size that a dimension handed to BLAS may have.
MAX_DIMENSION = (<object>1 << (8 * sizeof(blas_int) - 1)) - 1


# -- products ------------------------------------------------------------------------------------

cdef inline void _gemm(floating *C, const floating *A, const floating *B, ptrdiff_t M, ptrdiff_t N,
                       ptrdiff_t K, char trans_a, char trans_b, floating beta) noexcept nogil:
    # C (M, N) = op(A) (M, K) op(B) (K, N) + beta C, all row-major.
    # BLAS is column-major, so it is asked for the transpose: C^T = op(B)^T op(A)^T.
    cdef blas_int m = <blas_int>M, n = <blas_int>N, k = <blas_int>K
    cdef blas_int lda = <blas_int>(K if trans_a == c'N' else M)
    cdef blas_int ldb = <blas_int>(N if trans_b == c'N' else K)
    cdef floating alpha = 1
    if M == 0 or N == 0:
        return
    if K == 0:
        if beta == 0:
            memset(C, 0, M * N * sizeof(floating))
        return
    if floating is float:
        sgemm(&trans_b, &trans_a, &n, &m, &k, &alpha, <float *>B, &ldb, <float *>A, &lda,
              &beta, C, &n)
    else:
        dgemm(&trans_b, &trans_a, &n, &m, &k, &alpha, <double *>B, &ldb, <double *>A, &lda,
              &beta, C, &n)


cdef void _linear_forward(floating *Y, const floating *X, const floating *W, const floating *b,
                          ptrdiff_t B, ptrdiff_t I, ptrdiff_t O) noexcept nogil:
    # Y (B, O) = X (B, I) W (I, O) + b (O,)
    cdef ptrdiff_t row
    for row in range(B):
        memcpy(Y + row * O, b, O * sizeof(floating))
    _gemm(Y, X, W, B, O, I, c'N', c'N', <floating>1)


cdef void _linear_backward(floating *dX, floating *dW, floating *db, const floating *dY,
                           const floating *X, const floating *W, ptrdiff_t B, ptrdiff_t I,
                           ptrdiff_t O) noexcept nogil:
    cdef ptrdiff_t row, o
    # dW (I, O) = X^T (I, B) dY (B, O)
    _gemm(dW, X, dY, I, O, B, c'T', c'N', <floating>0)
    # db (O,) = sum of the rows of dY
    memset(db, 0, O * sizeof(floating))
    for row in range(B):
        for o in range(O):
            db[o] += dY[row * O + o]
    # dX (B, I) = dY (B, O) W^T (O, I); the first layer has no use for it
    if dX != NULL:
        _gemm(dX, dY, W, B, I, O, c'N', c'T', <floating>0)


# -- activations, each derivative taken from the output A ----------------------------------------

cdef void _relu_forward(floating *A, const floating *Z, ptrdiff_t n) noexcept nogil:
    # A = max(Z, 0); the comparison lets NaN through
    cdef ptrdiff_t i
    for i in range(n):
        A[i] = 0 if Z[i] <= 0 else Z[i]


cdef void _relu_backward(floating *dZ, const floating *dA, const floating *A,
                         ptrdiff_t n) noexcept nogil:
    # dZ = dA where A > 0, else 0
    cdef ptrdiff_t i
    for i in range(n):
        dZ[i] = 0 if A[i] <= 0 else dA[i]


cdef void _tanh_forward(floating *A, const floating *Z, ptrdiff_t n) noexcept nogil:
    # A = tanh(Z)
    cdef ptrdiff_t i
    for i in range(n):
        if floating is float:
            A[i] = tanhf(Z[i])
        else:
            A[i] = tanh(Z[i])


cdef void _tanh_backward(floating *dZ, const floating *dA, const floating *A,
                         ptrdiff_t n) noexcept nogil:
    # dZ = dA (1 - A^2)
    cdef ptrdiff_t i
    for i in range(n):
        dZ[i] = dA[i] * (1 - A[i] * A[i])


cdef void _logistic_forward(floating *A, const floating *Z, ptrdiff_t n) noexcept nogil:
    # A = 1 / (1 + exp(-Z))
    cdef ptrdiff_t i
    for i in range(n):
        A[i] = 1 / (1 + _exp(-Z[i]))


cdef void _logistic_backward(floating *dZ, const floating *dA, const floating *A,
                             ptrdiff_t n) noexcept nogil:
    # dZ = dA A (1 - A)
    cdef ptrdiff_t i
    for i in range(n):
        dZ[i] = dA[i] * A[i] * (1 - A[i])


cdef inline floating _exp(floating x) noexcept nogil:
    if floating is float:
        return expf(x)
    else:
        return exp(x)


cdef inline floating _log(floating x) noexcept nogil:
    if floating is float:
        return logf(x)
    else:
        return log(x)


# -- losses --------------------------------------------------------------------------------------

cdef double _softmax_cross_entropy_forward(floating *P, const floating *Z, const int64_t *y,
                                           ptrdiff_t B, ptrdiff_t O) noexcept nogil:
    # P = softmax(Z) by rows; returns the sum over rows of log(sum_o exp Z_o) - Z_y.
    # Shifting by the row's maximum keeps exp in range, and the loss never takes the log of a
    # probability, so neither can overflow or reach log(0). P may be Z. y may be NULL: no loss.
    cdef ptrdiff_t row, o
    cdef const floating *z
    cdef floating *p
    cdef floating largest, total, target
    cdef double loss = 0
    for row in range(B):
        z = Z + row * O
        p = P + row * O
        largest = z[0]
        for o in range(1, O):
            if z[o] > largest:
                largest = z[o]
        target = 0 if y == NULL else z[y[row]] - largest
        total = 0
        for o in range(O):
            p[o] = _exp(z[o] - largest)
            total += p[o]
        for o in range(O):
            p[o] /= total
        loss += _log(total) - target
    return loss


cdef void _softmax_cross_entropy_backward(floating *dZ, const floating *P, const int64_t *y,
                                          ptrdiff_t B, ptrdiff_t O) noexcept nogil:
    # dZ = (P - onehot(y)) / B. dZ may be P.
    cdef ptrdiff_t row, o
    cdef floating scale = <floating>(1.0 / B) if B > 0 else 0
    for row in range(B):
        for o in range(O):
            dZ[row * O + o] = (P[row * O + o] - (1 if o == y[row] else 0)) * scale


cdef double _squared_error(floating *dZ, const floating *Z, const floating *T, ptrdiff_t B,
                           ptrdiff_t O) noexcept nogil:
    # dZ = (Z - T) / B; returns the sum over rows of 1/2 |Z - T|^2. dZ may be Z.
    cdef ptrdiff_t i
    cdef floating error, scale = <floating>(1.0 / B) if B > 0 else 0
    cdef double loss = 0
    for i in range(B * O):
        error = Z[i] - T[i]
        loss += 0.5 * <double>error * <double>error
        dZ[i] = error * scale
    return loss


# -- the update ----------------------------------------------------------------------------------

cdef void _sgd_update(floating *W, floating *v, const floating *dW, ptrdiff_t n,
                      double learning_rate, double momentum, bint nesterov,
                      double weight_decay) noexcept nogil:
    # v = momentum v - learning_rate (dW + weight_decay W)
    # W = W + v, or with nesterov W + momentum v - learning_rate (dW + weight_decay W)
    cdef floating rate = <floating>learning_rate, mu = <floating>momentum
    cdef floating decay = <floating>weight_decay, change
    cdef ptrdiff_t i
    if nesterov:
        for i in range(n):
            change = rate * (dW[i] + decay * W[i])
            v[i] = mu * v[i] - change
            W[i] += mu * v[i] - change
    else:
        for i in range(n):
            v[i] = mu * v[i] - rate * (dW[i] + decay * W[i])
            W[i] += v[i]


# -- the engine: a whole network -----------------------------------------------------------------
#
# Workspace: the targets of the batch, then, of type floating, A_0 | A_1 | ... | A_L | dA | dA',
# each max_rows rows of its width. dA and dA' hold the errors of a layer's output and input in
# turn and are as wide as the widest layer.

cdef inline size_t _itemsize(const fm_net *net) noexcept nogil:
    return sizeof(float) if net.dtype == FM_FLOAT32 else sizeof(double)


cdef size_t _target_bytes(const fm_net *net) noexcept nogil:
    # of one row
    if net.loss == FM_SOFTMAX_CROSS_ENTROPY:
        return sizeof(int64_t)
    return net.sizes[net.n_layers] * _itemsize(net)


cdef ptrdiff_t _widest(const fm_net *net) noexcept nogil:
    cdef ptrdiff_t l, widest = 0
    for l in range(net.n_layers + 1):
        widest = max(widest, net.sizes[l])
    return widest


cdef size_t _workspace_bytes(const fm_net *net, ptrdiff_t max_rows) noexcept nogil:
    cdef ptrdiff_t l, width = 2 * _widest(net)
    for l in range(net.n_layers + 1):
        width += net.sizes[l]
    return max_rows * (_target_bytes(net) + width * _itemsize(net))


cdef void _gather(char *out, const char *data, const ptrdiff_t *rows, ptrdiff_t B,
                  size_t row_bytes) noexcept nogil:
    # out = data[rows]
    cdef ptrdiff_t i
    for i in range(B):
        memcpy(out + i * row_bytes, data + rows[i] * row_bytes, row_bytes)


cdef void _activation_forward(floating *A, ptrdiff_t n, int activation) noexcept nogil:
    if activation == FM_RELU:
        _relu_forward(A, A, n)
    elif activation == FM_TANH:
        _tanh_forward(A, A, n)
    elif activation == FM_LOGISTIC:
        _logistic_forward(A, A, n)


cdef void _activation_backward(floating *dA, const floating *A, ptrdiff_t n,
                               int activation) noexcept nogil:
    if activation == FM_RELU:
        _relu_backward(dA, dA, A, n)
    elif activation == FM_TANH:
        _tanh_backward(dA, dA, A, n)
    elif activation == FM_LOGISTIC:
        _logistic_backward(dA, dA, A, n)


cdef floating *_forward(fm_run *run, const floating *A, floating *A_next, const floating *W,
                        ptrdiff_t B) noexcept nogil:
    # The layers in turn, from A = A_0 into A_next = A_1 and on; returns A_L.
    cdef const fm_net *net = &run.net
    cdef ptrdiff_t l, I, O
    for l in range(net.n_layers):
        I, O = net.sizes[l], net.sizes[l + 1]
        _linear_forward(A_next, A, W, W + I * O, B, I, O)
        if l < net.n_layers - 1:
            _activation_forward(A_next, B * O, net.activation)
        A = A_next
        A_next += run.max_rows * O
        W += I * O + O
    return <floating *>A


cdef double _loss(fm_run *run, floating *dZ, floating *Z, const void *y,
                  ptrdiff_t B) noexcept nogil:
    # dZ of the mean loss over B rows; returns the sum. dZ may be Z.
    cdef ptrdiff_t O = run.net.sizes[run.net.n_layers]
    cdef double loss
    if run.net.loss == FM_SOFTMAX_CROSS_ENTROPY:
        loss = _softmax_cross_entropy_forward(dZ, Z, <const int64_t *>y, B, O)
        _softmax_cross_entropy_backward(dZ, dZ, <const int64_t *>y, B, O)
        return loss
    return _squared_error(dZ, Z, <const floating *>y, B, O)


cdef double _gradients(fm_run *run, floating *A_0, floating *W, floating *dW,
                       const ptrdiff_t *rows, ptrdiff_t B) noexcept nogil:
    cdef const fm_net *net = &run.net
    cdef ptrdiff_t L = net.n_layers, max_rows = run.max_rows, l, I, O
    cdef const floating *X = <const floating *>run.X
    cdef const void *y = run.y
    cdef floating *A = A_0
    cdef floating *dZ
    cdef floating *dA
    cdef floating *dA_next
    cdef double loss

    if rows != NULL:
        _gather(<char *>A_0, <const char *>X, rows, B, net.sizes[0] * sizeof(floating))
        _gather(<char *>run.workspace, <const char *>y, rows, B, _target_bytes(net))
        X, y = A_0, run.workspace

    dZ = _forward(run, X, A_0 + max_rows * net.sizes[0], W, B)
    loss = _loss(run, dZ, dZ, y, B)

    # walk to the end of the network, then back through the layers
    for l in range(L):
        A += max_rows * net.sizes[l]
        W += (net.sizes[l] + 1) * net.sizes[l + 1]
        dW += (net.sizes[l] + 1) * net.sizes[l + 1]
    dA = A + max_rows * net.sizes[L]
    dA_next = dA + max_rows * _widest(net)
    for l in range(L - 1, -1, -1):
        I, O = net.sizes[l], net.sizes[l + 1]
        A -= max_rows * I
        W -= (I + 1) * O
        dW -= (I + 1) * O
        if l == 0:
            _linear_backward(<floating *>NULL, dW, dW + I * O, dZ, X, W, B, I, O)
        else:
            _linear_backward(dA, dW, dW + I * O, dZ, <const floating *>A, W, B, I, O)
            _activation_backward(dA, A, B * I, net.activation)
        dZ, dA, dA_next = dA, dA_next, dA
    return loss


cdef void _update(fm_run *run, floating *W, floating *v, floating *dW) noexcept nogil:
    cdef const fm_rule *rule = &run.rule
    cdef ptrdiff_t l, n, O
    for l in range(run.net.n_layers):
        O = run.net.sizes[l + 1]
        n = run.net.sizes[l] * O
        _sgd_update(W, v, dW, n, rule.learning_rate, rule.momentum, rule.nesterov,
                    rule.weight_decay)
        _sgd_update(W + n, v + n, dW + n, O, rule.learning_rate, rule.momentum, rule.nesterov, 0)
        W += n + O
        v += n + O
        dW += n + O


# -- the engine's functions behind csrc/fastmlp.h, which know the dtype only at run time ----------

cdef inline char *_first_activation(fm_run *run) noexcept nogil:
    return <char *>run.workspace + run.max_rows * _target_bytes(&run.net)


cdef void _engine_forward(fm_run *run, void *out, const void *X, ptrdiff_t B) noexcept nogil:
    cdef char *A_0 = _first_activation(run)
    cdef void *A_L
    if run.net.dtype == FM_FLOAT32:
        A_L = _forward(run, <const float *>X, <float *>A_0, <const float *>run.params, B)
    else:
        A_L = _forward(run, <const double *>X, <double *>A_0, <const double *>run.params, B)
    memcpy(out, A_L, B * run.net.sizes[run.net.n_layers] * _itemsize(&run.net))


cdef double _engine_gradients(fm_run *run, const ptrdiff_t *rows, ptrdiff_t B) noexcept nogil:
    cdef char *A_0 = _first_activation(run)
    if run.net.dtype == FM_FLOAT32:
        return _gradients(run, <float *>A_0, <float *>run.params, <float *>run.gradients, rows, B)
    return _gradients(run, <double *>A_0, <double *>run.params, <double *>run.gradients, rows, B)


cdef double _engine_step(fm_run *run, const ptrdiff_t *rows, ptrdiff_t B) noexcept nogil:
    cdef double loss = _engine_gradients(run, rows, B)
    if isfinite(loss):
        if run.net.dtype == FM_FLOAT32:
            _update(run, <float *>run.params, <float *>run.velocity, <float *>run.gradients)
        else:
            _update(run, <double *>run.params, <double *>run.velocity, <double *>run.gradients)
    return loss


cdef fm_engine _engine
_engine.name = "blas"
_engine.workspace_bytes = _workspace_bytes
_engine.forward = _engine_forward
_engine.gradients = _engine_gradients
_engine.step = _engine_step
engine = PyCapsule_New(&_engine, FM_ENGINE_CAPSULE, NULL)


# -- the operations on arrays; `kernels` documents them and checks their arguments ----------------

def linear_forward(floating[:, ::1] Y, const floating[:, ::1] X, const floating[:, ::1] W,
                   const floating[::1] b):
    with nogil:
        _linear_forward(&Y[0, 0], &X[0, 0], &W[0, 0], &b[0], X.shape[0], W.shape[0], W.shape[1])


def linear_backward(floating[:, ::1] dX, floating[:, ::1] dW, floating[::1] db,
                    const floating[:, ::1] dY, const floating[:, ::1] X,
                    const floating[:, ::1] W):
    with nogil:
        _linear_backward(&dX[0, 0], &dW[0, 0], &db[0], &dY[0, 0], &X[0, 0], &W[0, 0],
                         X.shape[0], W.shape[0], W.shape[1])


def relu_forward(floating[::1] A, const floating[::1] Z):
    with nogil:
        _relu_forward(&A[0], &Z[0], Z.shape[0])


def relu_backward(floating[::1] dZ, const floating[::1] dA, const floating[::1] A):
    with nogil:
        _relu_backward(&dZ[0], &dA[0], &A[0], A.shape[0])


def tanh_forward(floating[::1] A, const floating[::1] Z):
    with nogil:
        _tanh_forward(&A[0], &Z[0], Z.shape[0])


def tanh_backward(floating[::1] dZ, const floating[::1] dA, const floating[::1] A):
    with nogil:
        _tanh_backward(&dZ[0], &dA[0], &A[0], A.shape[0])


def logistic_forward(floating[::1] A, const floating[::1] Z):
    with nogil:
        _logistic_forward(&A[0], &Z[0], Z.shape[0])


def logistic_backward(floating[::1] dZ, const floating[::1] dA, const floating[::1] A):
    with nogil:
        _logistic_backward(&dZ[0], &dA[0], &A[0], A.shape[0])


def softmax_cross_entropy_forward(floating[:, ::1] P, const floating[:, ::1] Z,
                                  const int64_t[::1] y):
    with nogil:
        loss = _softmax_cross_entropy_forward(&P[0, 0], &Z[0, 0], &y[0], Z.shape[0], Z.shape[1])
    return loss


def softmax_cross_entropy_backward(floating[:, ::1] dZ, const floating[:, ::1] P,
                                   const int64_t[::1] y):
    with nogil:
        _softmax_cross_entropy_backward(&dZ[0, 0], &P[0, 0], &y[0], P.shape[0], P.shape[1])


def squared_error(floating[:, ::1] dZ, const floating[:, ::1] Z, const floating[:, ::1] T):
    with nogil:
        loss = _squared_error(&dZ[0, 0], &Z[0, 0], &T[0, 0], Z.shape[0], Z.shape[1])
    return loss


def sgd_update(floating[::1] W, floating[::1] v, const floating[::1] dW, double learning_rate,
               double momentum, bint nesterov, double weight_decay):
    with nogil:
        _sgd_update(&W[0], &v[0], &dW[0], W.shape[0], learning_rate, momentum, nesterov,
                    weight_decay)
