"""The operations of _blas.pyx on pointers, for the engine that puts them together."""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t

ctypedef fused floating:
    float
    double

cdef void _linear_forward(
    floating *Y, const floating *X, const floating *W, const floating *b, ptrdiff_t B, ptrdiff_t I,
    ptrdiff_t O) noexcept nogil
cdef void _linear_backward(
    floating *dX, floating *dW, floating *db, const floating *dY, const floating *X,
    const floating *W, ptrdiff_t B, ptrdiff_t I, ptrdiff_t O, floating alpha,
    floating beta) noexcept nogil
cdef void _relu_forward(floating *A, const floating *Z, ptrdiff_t n) noexcept nogil
cdef void _relu_backward(
    floating *dZ, const floating *dA, const floating *A, ptrdiff_t n) noexcept nogil
cdef void _tanh_forward(floating *A, const floating *Z, ptrdiff_t n) noexcept nogil
cdef void _tanh_backward(
    floating *dZ, const floating *dA, const floating *A, ptrdiff_t n) noexcept nogil
cdef void _logistic_forward(floating *A, const floating *Z, ptrdiff_t n) noexcept nogil
cdef void _logistic_backward(
    floating *dZ, const floating *dA, const floating *A, ptrdiff_t n) noexcept nogil
cdef double _softmax_cross_entropy_forward(
    floating *P, const floating *Z, const int64_t *y, ptrdiff_t B, ptrdiff_t O) noexcept nogil
cdef void _softmax_cross_entropy_backward(
    floating *dZ, const floating *P, const int64_t *y, ptrdiff_t B, ptrdiff_t O) noexcept nogil
cdef double _squared_error(
    floating *dZ, const floating *Z, const floating *T, ptrdiff_t B, ptrdiff_t O) noexcept nogil
cdef void _sgd_update(
    floating *W, floating *v, const floating *dW, ptrdiff_t n, double learning_rate,
    double momentum, bint nesterov, double weight_decay) noexcept nogil
cdef void _adam_update(
    floating *W, floating *m, floating *v, const floating *dW, ptrdiff_t n, double learning_rate,
    double corrected_rate, double beta1, double beta2, double epsilon, double weight_decay,
    bint decoupled) noexcept nogil
