"""The BLAS engine: a whole network, made of the operations in _blas.pyx.

It is the engine to read, and the one that every other is tested against beside the NumPy
reference. Sizes: B rows, I inputs, O outputs, L layers.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport isfinite
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from fastmlp._blas cimport (
    _adam_update, _linear_backward, _linear_forward, _logistic_backward, _logistic_forward, _relu_backward,
    _relu_forward, _sgd_update, _softmax_cross_entropy_backward, _softmax_cross_entropy_forward,
    _squared_error, _tanh_backward, _tanh_forward, floating,
)
from fastmlp._csrc cimport (
    FM_ADAM, FM_ENGINE_CAPSULE, FM_FLOAT32, FM_LOGISTIC, FM_RELU, FM_SOFTMAX_CROSS_ENTROPY,
    FM_TANH, fm_engine, fm_first_nonfinite_float32, fm_first_nonfinite_float64, fm_net, fm_rule,
    fm_run,
)

# Workspace: the targets of the batch, then, of type floating, A_0 | A_1 | ... | A_L | dA | dA',
# each max_rows rows of its width, and the gradients. dA and dA' hold the errors of a layer's output
# and input in turn and are as wide as the widest layer. State: params | moment1 | moment2, flat.

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


cdef ptrdiff_t _n_params(const fm_net *net) noexcept nogil:
    cdef ptrdiff_t l, n = 0
    for l in range(net.n_layers):
        n += (net.sizes[l] + 1) * net.sizes[l + 1]
    return n


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


cdef double _backpropagate(fm_run *run, floating *A_0, floating *W, floating *dW,
                           double alpha, double beta) noexcept nogil:
    # dW = alpha (gradients of the mean loss) + beta dW, for all layers; returns the summed loss,
    # and where that is not finite has left dW alone
    cdef const fm_net *net = &run.net
    cdef ptrdiff_t L = net.n_layers, max_rows = run.max_rows, B = run.B, l, I, O
    cdef const floating *X = <const floating *>run.X
    cdef const void *y = run.y
    cdef floating *A = A_0
    cdef floating *dZ
    cdef floating *dA
    cdef floating *dA_next
    cdef double loss

    if run.rows != NULL:
        _gather(<char *>A_0, <const char *>X, run.rows, B, net.sizes[0] * sizeof(floating))
        _gather(<char *>run.workspace, <const char *>y, run.rows, B, _target_bytes(net))
        X, y = A_0, run.workspace

    dZ = _forward(run, X, A_0 + max_rows * net.sizes[0], W, B)
    loss = _loss(run, dZ, dZ, y, B)
    if not isfinite(loss):
        return loss

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
            _linear_backward(<floating *>NULL, dW, dW + I * O, dZ, X, W, B, I, O,
                             <floating>alpha, <floating>beta)
        else:
            _linear_backward(dA, dW, dW + I * O, dZ, <const floating *>A, W, B, I, O,
                             <floating>alpha, <floating>beta)
            _activation_backward(dA, A, B * I, net.activation)
        dZ, dA, dA_next = dA, dA_next, dA
    return loss


cdef double _step(fm_run *run, floating *A_0, floating *W, floating *dW) noexcept nogil:
    cdef const fm_rule *rule = &run.rule
    cdef ptrdiff_t n_params = _n_params(&run.net), l, i, n, O
    cdef floating *m = W + n_params
    cdef floating *v = m + n_params
    cdef floating decay = <floating>(rule.learning_rate * rule.weight_decay)
    cdef bint accumulate = rule.kind != FM_ADAM and not rule.nesterov
    cdef double loss, weight_decay
    if accumulate:
        # m = momentum m - learning_rate dW, by the products themselves: dW never exists
        loss = _backpropagate(run, A_0, W, m, -rule.learning_rate, rule.momentum)
    else:
        loss = _backpropagate(run, A_0, W, dW, 1, 0)
    if not isfinite(loss):
        return loss
    for l in range(2 * run.net.n_layers):  # weights and biases in turn
        O = run.net.sizes[l // 2 + 1]
        n = O if l % 2 else run.net.sizes[l // 2] * O
        weight_decay = 0 if l % 2 else rule.weight_decay
        if rule.kind == FM_ADAM:
            _adam_update(W, m, v, dW, n, rule.learning_rate, rule.corrected_rate, rule.beta1,
                         rule.beta2, rule.epsilon, weight_decay, rule.decoupled)
        elif rule.nesterov:
            _sgd_update(W, m, dW, n, rule.learning_rate, rule.momentum, True, weight_decay)
        else:
            for i in range(n if weight_decay != 0 else 0):
                m[i] -= decay * W[i]
            for i in range(n):
                W[i] += m[i]
        W += n
        m += n
        v += n
        dW += n
    return loss


# -- the engine's functions behind csrc/fastmlp.h, which know the dtype only at run time ----------

cdef inline char *_first_activation(fm_run *run) noexcept nogil:
    return <char *>run.workspace + run.max_rows * _target_bytes(&run.net)


cdef inline char *_own_gradients(fm_run *run) noexcept nogil:
    cdef ptrdiff_t l, width = 2 * _widest(&run.net)
    for l in range(run.net.n_layers + 1):
        width += run.net.sizes[l]
    return _first_activation(run) + run.max_rows * width * _itemsize(&run.net)


cdef void _engine_sizes(const fm_run *run, size_t *workspace, size_t *state) noexcept nogil:
    cdef size_t n_bytes = _n_params(&run.net) * _itemsize(&run.net)
    workspace[0] = _own_gradients(<fm_run *>run) - <char *>run.workspace + n_bytes
    state[0] = 3 * n_bytes


cdef void _engine_prepare(fm_run *run) noexcept nogil:
    memset(run.state, 0, 3 * _n_params(&run.net) * _itemsize(&run.net))


cdef void _engine_load(fm_run *run) noexcept nogil:
    cdef size_t n_bytes = _n_params(&run.net) * _itemsize(&run.net)
    memcpy(run.state, run.params, n_bytes)
    if run.moment1 != NULL:
        memcpy(<char *>run.state + n_bytes, run.moment1, n_bytes)
    if run.moment2 != NULL:
        memcpy(<char *>run.state + 2 * n_bytes, run.moment2, n_bytes)


cdef void _engine_store(const fm_run *run) noexcept nogil:
    cdef size_t n_bytes = _n_params(&run.net) * _itemsize(&run.net)
    memcpy(run.params, run.state, n_bytes)
    if run.moment1 != NULL:
        memcpy(run.moment1, <char *>run.state + n_bytes, n_bytes)
    if run.moment2 != NULL:
        memcpy(run.moment2, <char *>run.state + 2 * n_bytes, n_bytes)


cdef void _engine_forward(fm_run *run, void *out, const void *X, ptrdiff_t B) noexcept nogil:
    cdef char *A_0 = _first_activation(run)
    cdef void *A_L
    if run.net.dtype == FM_FLOAT32:
        A_L = _forward(run, <const float *>X, <float *>A_0, <const float *>run.params, B)
    else:
        A_L = _forward(run, <const double *>X, <double *>A_0, <const double *>run.params, B)
    memcpy(out, A_L, B * run.net.sizes[run.net.n_layers] * _itemsize(&run.net))


cdef double _engine_gradients(fm_run *run) noexcept nogil:
    cdef char *A_0 = _first_activation(run)
    if run.net.dtype == FM_FLOAT32:
        return _backpropagate(run, <float *>A_0, <float *>run.params, <float *>run.gradients, 1, 0)
    return _backpropagate(run, <double *>A_0, <double *>run.params, <double *>run.gradients, 1, 0)


cdef double _engine_step(fm_run *run) noexcept nogil:
    cdef char *A_0 = _first_activation(run)
    cdef char *dW = _own_gradients(run)
    if run.backup != NULL:
        memcpy(run.backup, run.state, 3 * _n_params(&run.net) * _itemsize(&run.net))
    if run.net.dtype == FM_FLOAT32:
        return _step(run, <float *>A_0, <float *>run.state, <float *>dW)
    return _step(run, <double *>A_0, <double *>run.state, <double *>dW)


cdef int _engine_finite(const fm_run *run) noexcept nogil:
    cdef ptrdiff_t n = _n_params(&run.net)
    if run.net.dtype == FM_FLOAT32:
        return fm_first_nonfinite_float32(<const float *>run.state, n) < 0
    return fm_first_nonfinite_float64(<const double *>run.state, n) < 0


cdef fm_engine _engine
_engine.name = "blas"
_engine.level = NULL
_engine.sizes = _engine_sizes
_engine.prepare = _engine_prepare
_engine.load = _engine_load
_engine.store = _engine_store
_engine.finite = _engine_finite
_engine.forward = _engine_forward
_engine.gradients = _engine_gradients
_engine.step = _engine_step
engine = PyCapsule_New(&_engine, FM_ENGINE_CAPSULE, NULL)
