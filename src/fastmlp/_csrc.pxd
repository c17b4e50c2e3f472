"""csrc/fastmlp.h and csrc/pool.h, declared once for every Cython module."""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "fastmlp.h" nogil:
    enum: FM_FLOAT32, FM_FLOAT64
    enum: FM_IDENTITY, FM_RELU, FM_TANH, FM_LOGISTIC, FM_LEAKY_RELU, FM_GELU, FM_SILU
    const double FM_LEAK
    enum: FM_SOFTMAX_CROSS_ENTROPY, FM_SQUARED_ERROR, FM_BINARY_CROSS_ENTROPY, FM_POISSON
    enum: FM_ABSOLUTE_ERROR, FM_HUBER, FM_QUANTILE
    enum: FM_SGD, FM_ADAM, FM_NONE
    enum: FM_EXP, FM_LOG, FM_MATH_TANH, FM_MATH_LOGISTIC, FM_NORMAL_CDF
    const char *FM_ENGINE_CAPSULE

    ctypedef struct fm_net:
        ptrdiff_t n_layers
        const ptrdiff_t *sizes
        const int *activations
        int loss
        double loss_parameter
        double loss_clip
        double dropout
        int dtype

    ctypedef struct fm_rule:
        int kind
        double learning_rate, weight_decay, decoupled_decay, max_norm
        double momentum
        int nesterov
        double beta1, beta2, epsilon, corrected_rate

    ctypedef struct fm_rows:
        const void *values
        const int32_t *columns
        const int64_t *starts

    enum: FM_CSR_AHEAD

    ctypedef struct fm_run:
        fm_net net
        fm_rule rule
        fm_rows X
        int is_sparse
        void *entries
        const void *y
        const void *sample_weight
        double weight_sum
        void *params
        void *moment1
        void *moment2
        void *gradients
        void *state
        void *backup
        void *workspace
        ptrdiff_t max_rows
        int n_threads, n_woken
        const ptrdiff_t *rows
        ptrdiff_t B
        ptrdiff_t n_ahead
        uint64_t dropout_key
        uint64_t step
        int gathered
        fm_team *team
        const void *level
        int skips_zeros
        int (*interrupted)(void *signals) noexcept nogil
        void *signals

    ctypedef struct fm_engine:
        const char *name
        const void *level
        void (*sizes)(const fm_run *run, size_t *workspace, size_t *state) noexcept nogil
        void (*prepare)(fm_run *run) noexcept nogil
        void (*load)(fm_run *run) noexcept nogil
        void (*store)(const fm_run *run) noexcept nogil
        int (*finite)(const fm_run *run) noexcept nogil
        void (*forward)(fm_run *run, void *out, const fm_rows *X, ptrdiff_t B,
                        int softmax) noexcept nogil
        double (*penalty)(const fm_run *run) noexcept nogil
        double (*gradients)(fm_run *run) noexcept nogil
        double (*step)(fm_run *run) noexcept nogil

    const fm_engine *fm_fused_engine(const char *level)
    void fm_vector_math(const fm_engine *engine, int dtype, int function, void *y, const void *x,
                        ptrdiff_t n)
    double fm_probe(const char *level, int dtype, double seconds)
    void fm_shuffle(ptrdiff_t *order, ptrdiff_t n, uint64_t seed)
    void fm_dropout_words(uint32_t *words, uint64_t key, uint64_t step, ptrdiff_t layer, ptrdiff_t row,
                          ptrdiff_t block)
    uint32_t fm_dropout_threshold(double dropout)
    double fm_sum_of_squares_float32(const float *x, ptrdiff_t n)
    double fm_sum_of_squares_float64(const double *x, ptrdiff_t n)
    void *fm_allocate(size_t n_bytes)
    void fm_release(void *memory)
    void *fm_borrow(size_t n_bytes)
    void fm_give_back(void *memory)
    ptrdiff_t fm_first_nonfinite_float32(const float *x, ptrdiff_t n)
    ptrdiff_t fm_first_nonfinite_float64(const double *x, ptrdiff_t n)

cdef extern from "pool.h" nogil:
    ctypedef struct fm_team:
        pass

    fm_team *fm_team_open(int n_threads, int max_workers)
    ptrdiff_t fm_share_out(
        int n_threads, int n_woken, ptrdiff_t n_parts,
        int (*work)(void *argument, int thread, ptrdiff_t part) noexcept nogil, void *argument)
    void fm_team_close(fm_team *team)
    int fm_forks_so_far()

cdef extern from "gate.h" nogil:
    void fm_hold_forks()
    void fm_let_fork()
    ctypedef struct fm_gate:
        pass

    fm_gate *fm_gate_make()
    void fm_gate_drop(fm_gate *gate)
    void fm_gate_enter(fm_gate *gate)
    void fm_gate_leave(fm_gate *gate)
    void fm_gate_close(fm_gate *gate)
    void fm_gate_open(fm_gate *gate)
    void fm_gate_renew(fm_gate *gate)
