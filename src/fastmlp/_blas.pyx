"""The operations of a network over BLAS, forward and backward, line by line.

Matrix products go to SciPy's BLAS; everything else is a plain loop. Sizes: B rows, I inputs,
O outputs. Pointers come in the order outputs, const inputs, sizes, scalars; all matrices are
row-major. The functions on pointers carry an underscore; those on arrays, which `kernels`
publishes, have the same name without it.
"""

from libc.math cimport NAN, exp, expf, log, logf, sqrt, sqrtf, tanh, tanhf
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t
from libc.string cimport memcpy
from scipy.linalg.cython_blas cimport dgemm, sgemm

include "_blas_int.pxi"

# The largest size that a dimension handed to BLAS may have.
MAX_DIMENSION = (<object>1 << (8 * sizeof(blas_int) - 1)) - 1


# -- products ------------------------------------------------------------------------------------

cdef inline void _gemm(floating *C, const floating *A, const floating *B, ptrdiff_t M, ptrdiff_t N,
                       ptrdiff_t K, char trans_a, char trans_b, floating alpha,
                       floating beta) noexcept nogil:
    # C (M, N) = alpha op(A) (M, K) op(B) (K, N) + beta C, all row-major, none empty.
    # BLAS is column-major, so it is asked for the transpose: C^T = op(B)^T op(A)^T.
    cdef blas_int m = <blas_int>M, n = <blas_int>N, k = <blas_int>K
    cdef blas_int lda = <blas_int>(K if trans_a == c'N' else M)
    cdef blas_int ldb = <blas_int>(N if trans_b == c'N' else K)
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
    _gemm(Y, X, W, B, O, I, c'N', c'N', <floating>1, <floating>1)


cdef void _linear_backward(floating *dX, floating *dW, floating *db, const floating *dY,
                           const floating *X, const floating *W, ptrdiff_t B, ptrdiff_t I,
                           ptrdiff_t O, floating alpha, floating beta) noexcept nogil:
    # The gradients proper have alpha = 1 and beta = 0; a step of SGD accumulates them in the
    # velocity, with alpha = -learning_rate and beta = momentum.
    cdef ptrdiff_t row, o
    # dW (I, O) = alpha X^T (I, B) dY (B, O) + beta dW
    _gemm(dW, X, dY, I, O, B, c'T', c'N', alpha, beta)
    # db (O,) = alpha (sum of the rows of dY) + beta db
    for o in range(O):
        db[o] = 0 if beta == 0 else beta * db[o]
    for row in range(B):
        for o in range(O):
            db[o] += alpha * dY[row * O + o]
    # dX (B, I) = dY (B, O) W^T (O, I); the first layer has no use for it
    if dX != NULL:
        _gemm(dX, dY, W, B, I, O, c'N', c'T', <floating>1, <floating>0)


# -- activations, each derivative taken from the output A ----------------------------------------

cdef void _relu_forward(floating *A, const floating *Z, ptrdiff_t n) noexcept nogil:
    # A = max(Z, 0); the comparison lets NaN through
    cdef ptrdiff_t i
    cdef floating z
    for i in range(n):
        z = Z[i]
        A[i] = 0 if z <= 0 else z


cdef void _relu_backward(floating *dZ, const floating *dA, const floating *A,
                         ptrdiff_t n) noexcept nogil:
    # dZ = dA where A > 0, else 0; dA is read either way, so that no branch is needed
    cdef ptrdiff_t i
    cdef floating derivative
    for i in range(n):
        derivative = dA[i]
        dZ[i] = 0 if A[i] <= 0 else derivative


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
    cdef int64_t label
    cdef double loss = 0
    for row in range(B):
        z = Z + row * O
        p = P + row * O
        largest = z[0]
        for o in range(1, O):
            if z[o] > largest:
                largest = z[o]
        label = 0 if y == NULL else y[row]
        # One out of range was changed since it was checked.
        target = z[label] - largest if 0 <= label < O else <floating>NAN
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


cdef void _adam_update(floating *W, floating *m, floating *v, const floating *dW, ptrdiff_t n,
                       double learning_rate, double corrected_rate, double beta1, double beta2,
                       double epsilon, double weight_decay, bint decoupled) noexcept nogil:
    # g = dW + weight_decay W, or decoupled g = dW and W = W - learning_rate weight_decay W
    # m = beta1 m + (1 - beta1) g
    # v = beta2 v + (1 - beta2) g^2
    # W = W - corrected_rate m / (sqrt(v) + epsilon)
    cdef floating rate = <floating>corrected_rate, b1 = <floating>beta1, b2 = <floating>beta2
    # 1 - beta before it is rounded: in float32 there may be nothing left of it after
    cdef floating c1 = <floating>(1 - beta1), c2 = <floating>(1 - beta2)
    cdef floating eps = <floating>epsilon, g
    cdef floating coupled = 0 if decoupled else <floating>weight_decay
    cdef floating shrink = <floating>(learning_rate * weight_decay) if decoupled else 0
    cdef ptrdiff_t i
    for i in range(n):
        g = dW[i] + coupled * W[i]
        m[i] = b1 * m[i] + c1 * g
        v[i] = b2 * v[i] + c2 * g * g
        W[i] = W[i] - shrink * W[i] - rate * m[i] / (_sqrt(v[i]) + eps)


cdef inline floating _sqrt(floating x) noexcept nogil:
    if floating is float:
        return sqrtf(x)
    else:
        return sqrt(x)


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
                         X.shape[0], W.shape[0], W.shape[1], 1, 0)


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


def adam_update(floating[::1] W, floating[::1] m, floating[::1] v, const floating[::1] dW,
                double learning_rate, double corrected_rate, double beta1, double beta2,
                double epsilon, double weight_decay, bint decoupled):
    with nogil:
        _adam_update(&W[0], &m[0], &v[0], &dW[0], W.shape[0], learning_rate, corrected_rate, beta1,
                     beta2, epsilon, weight_decay, decoupled)
