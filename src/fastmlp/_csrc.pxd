"""csrc/fastmlp.h, declared once for every Cython module."""

from libc.stddef cimport ptrdiff_t

cdef extern from "fastmlp.h" nogil:
    enum: FM_FLOAT32, FM_FLOAT64
    enum: FM_IDENTITY, FM_RELU, FM_TANH, FM_LOGISTIC
    enum: FM_SOFTMAX_CROSS_ENTROPY, FM_SQUARED_ERROR
    const char *FM_ENGINE_CAPSULE

    ctypedef struct fm_net:
        ptrdiff_t n_layers
        const ptrdiff_t *sizes
        int activation
        int loss
        int dtype

    ctypedef struct fm_rule:
        double learning_rate
        double momentum
        double weight_decay
        int nesterov

    ctypedef struct fm_run:
        fm_net net
        fm_rule rule
        const void *X
        const void *y
        void *params
        void *velocity
        void *gradients
        void *workspace
        ptrdiff_t max_rows

    ctypedef struct fm_engine:
        const char *name
        size_t (*workspace_bytes)(const fm_net *net, ptrdiff_t max_rows) noexcept nogil
        void (*forward)(fm_run *run, void *out, const void *X, ptrdiff_t B) noexcept nogil
        double (*gradients)(fm_run *run, const ptrdiff_t *rows, ptrdiff_t B) noexcept nogil
        double (*step)(fm_run *run, const ptrdiff_t *rows, ptrdiff_t B) noexcept nogil

    ptrdiff_t fm_first_nonfinite_float32(const float *x, ptrdiff_t n)
    ptrdiff_t fm_first_nonfinite_float64(const double *x, ptrdiff_t n)
