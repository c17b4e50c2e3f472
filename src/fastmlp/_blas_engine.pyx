"""The BLAS engine: a whole network, made of the operations in _blas.pyx.

It is the engine to read, and the one that every other is tested against beside the NumPy
reference. Sizes: B rows, I inputs, O outputs, L layers.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport INFINITY, NAN, exp, isfinite, log, log1p, sqrt
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy, memset

from fastmlp._blas cimport (
    _adam_update, _linear_backward, _linear_forward, _logistic_backward, _logistic_forward, _relu_backward,
    _relu_forward, _sgd_update, _softmax_cross_entropy_backward, _softmax_cross_entropy_forward,
    _squared_error, _tanh_backward, _tanh_forward, floating,
)
from fastmlp._csrc cimport (
    FM_ADAM, FM_BINARY_CROSS_ENTROPY, FM_ENGINE_CAPSULE, FM_FLOAT32, FM_GELU, FM_LOGISTIC, FM_NONE, FM_RELU,
    FM_SILU,
    FM_SOFTMAX_CROSS_ENTROPY, FM_SQUARED_ERROR, FM_TANH, fm_dropout_threshold, fm_dropout_words,
    fm_engine, fm_first_nonfinite_float32, fm_first_nonfinite_float64, fm_net, fm_rows, fm_rule, fm_run,
    fm_sum_of_squares_float32, fm_sum_of_squares_float64,
)
from fastmlp._elementwise cimport activate, logistic, loss_of_value

# Workspace: the targets of the batch, then, of type floating, A_0 | A_1 | ... | A_L | dA | dA',
# each max_rows rows of its width, the slopes of the hidden layers where any of them needs them, and
# the gradients. A_0 is not there where the inputs are sparse. dA and dA' hold the errors of a layer's
# output and input in turn and are as wide as the widest layer. State: params | moment1 | moment2, flat.

cdef inline size_t _itemsize(const fm_net *net) noexcept nogil:
    return sizeof(float) if net.dtype == FM_FLOAT32 else sizeof(double)


cdef size_t _target_bytes(const fm_net *net) noexcept nogil:
    # of one row
    if net.loss == FM_SOFTMAX_CROSS_ENTROPY:
        return sizeof(int64_t)
    return net.sizes[net.n_layers] * _itemsize(net)


cdef ptrdiff_t _width(const fm_run *run, ptrdiff_t l) noexcept nogil:
    # of A_l
    return 0 if l == 0 and run.is_sparse else run.net.sizes[l]


cdef ptrdiff_t _widest(const fm_run *run) noexcept nogil:
    cdef ptrdiff_t l, widest = 0
    for l in range(run.net.n_layers + 1):
        widest = max(widest, _width(run, l))
    return widest


cdef ptrdiff_t _n_params(const fm_net *net) noexcept nogil:
    cdef ptrdiff_t l, n = 0
    for l in range(net.n_layers):
        n += (net.sizes[l] + 1) * net.sizes[l + 1]
    return n


cdef ptrdiff_t _width_of_activations(const fm_run *run) noexcept nogil:
    # A_0 | A_1 | ... | A_L | dA | dA'
    cdef ptrdiff_t l, width = 2 * _widest(run)
    for l in range(run.net.n_layers + 1):
        width += _width(run, l)
    return width


cdef floating *_slopes(const fm_run *run, floating *A_0) noexcept nogil:
    # where those of the first hidden layer are kept
    return A_0 + run.max_rows * _width_of_activations(run)


cdef void _gather(char *out, const char *data, const ptrdiff_t *rows, ptrdiff_t B,
                  size_t row_bytes) noexcept nogil:
    # out = data[rows]
    cdef ptrdiff_t i
    for i in range(B):
        memcpy(out + i * row_bytes, data + rows[i] * row_bytes, row_bytes)


cdef bint _keeps_slopes(const fm_net *net, ptrdiff_t l) noexcept nogil:
    # whether the outputs of hidden layer l do not tell their slopes
    return net.dropout > 0 or net.activations[l] == FM_GELU or net.activations[l] == FM_SILU


cdef void _activation_forward(floating *A, floating *slopes, ptrdiff_t n,
                              int activation) noexcept nogil:
    # A = activation(A), and where slopes is not NULL its slopes
    cdef ptrdiff_t i
    cdef double slope
    if slopes == NULL and activation == FM_RELU:
        _relu_forward(A, A, n)
    elif slopes == NULL and activation == FM_TANH:
        _tanh_forward(A, A, n)
    elif slopes == NULL and activation == FM_LOGISTIC:
        _logistic_forward(A, A, n)
    else:
        for i in range(n):
            A[i] = <floating>activate(A[i], activation, &slope)
            if slopes != NULL:
                slopes[i] = <floating>slope


cdef void _activation_backward(floating *dA, const floating *A, const floating *slopes, ptrdiff_t n,
                               int activation) noexcept nogil:
    # dA = dA dA/dZ, from the slopes or from the output A
    cdef ptrdiff_t i
    cdef double slope
    if slopes != NULL:
        for i in range(n):
            dA[i] *= slopes[i]
    elif activation == FM_RELU:
        _relu_backward(dA, dA, A, n)
    elif activation == FM_TANH:
        _tanh_backward(dA, dA, A, n)
    elif activation == FM_LOGISTIC:
        _logistic_backward(dA, dA, A, n)
    else:  # one whose output has the sign of its input
        for i in range(n):
            activate(A[i], activation, &slope)
            dA[i] *= <floating>slope


cdef void _drop(const fm_run *run, ptrdiff_t l, floating *A, floating *slopes, ptrdiff_t B,
                ptrdiff_t O) noexcept nogil:
    # dropout of layer l: outputs and slopes to zero, or up by 1 / (1 - dropout)
    cdef uint32_t words[32]
    cdef uint32_t threshold = fm_dropout_threshold(run.net.dropout)
    cdef floating up = <floating>(1 / (1 - run.net.dropout)), factor
    cdef ptrdiff_t row, o
    for row in range(B):
        for o in range(O):
            if o % 32 == 0:
                fm_dropout_words(words, run.dropout_key, run.step, l, row, o // 32)
            factor = 0 if words[o % 32] < threshold else up
            A[row * O + o] *= factor
            slopes[row * O + o] *= factor


cdef void _sparse_linear_forward(floating *Y, const fm_rows *X, const ptrdiff_t *rows,
                                 const floating *W, const floating *b, ptrdiff_t B,
                                 ptrdiff_t O) noexcept nogil:
    # Y (B, O) = X[rows] W + b
    cdef const floating *x = <const floating *>X.values
    cdef ptrdiff_t row, o, source
    cdef int64_t i
    for row in range(B):
        source = row if rows == NULL else rows[row]
        memcpy(Y, b, O * sizeof(floating))
        for i in range(X.starts[source], X.starts[source + 1]):
            for o in range(O):
                Y[o] += x[i] * W[X.columns[i] * O + o]
        Y += O


cdef void _sparse_linear_backward(floating *dW, floating *db, const floating *dY, const fm_rows *X,
                                  const ptrdiff_t *rows, ptrdiff_t B, ptrdiff_t I, ptrdiff_t O,
                                  floating alpha, floating beta) noexcept nogil:
    # dW (I, O) = alpha X[rows]^T dY (B, O) + beta dW, and db likewise
    cdef const floating *x = <const floating *>X.values
    cdef ptrdiff_t row, o, j, source
    cdef int64_t i
    for j in range(I * O):
        dW[j] = 0 if beta == 0 else beta * dW[j]
    for o in range(O):
        db[o] = 0 if beta == 0 else beta * db[o]
    for row in range(B):
        source = row if rows == NULL else rows[row]
        for i in range(X.starts[source], X.starts[source + 1]):
            for o in range(O):
                dW[X.columns[i] * O + o] += alpha * (x[i] * dY[o])
        for o in range(O):
            db[o] += alpha * dY[o]
        dY += O


cdef floating *_forward(fm_run *run, const fm_rows *X, const ptrdiff_t *rows, floating *A_next,
                        const floating *W, floating *slopes, ptrdiff_t B) noexcept nogil:
    # The layers in turn, from A_0, which are B rows of X, into A_next = A_1 and on; returns A_L. Of
    # sparse rows it takes `rows`, if there are any, of others the first. slopes is where to keep those
    # of the hidden layers when training, else NULL.
    cdef const fm_net *net = &run.net
    cdef const floating *A = <const floating *>X.values
    cdef floating *kept
    cdef ptrdiff_t l, I, O
    for l in range(net.n_layers):
        I, O = net.sizes[l], net.sizes[l + 1]
        if l == 0 and run.is_sparse:
            _sparse_linear_forward(A_next, X, rows, W, W + I * O, B, O)
        else:
            _linear_forward(A_next, A, W, W + I * O, B, I, O)
        if l < net.n_layers - 1:
            kept = slopes if slopes != NULL and _keeps_slopes(net, l) else <floating *>NULL
            _activation_forward(A_next, kept, B * O, net.activations[l])
            if kept != NULL and net.dropout > 0:
                _drop(run, l, A_next, kept, B, O)
            if slopes != NULL:
                slopes += run.max_rows * O
        A = A_next
        A_next += run.max_rows * O
        W += I * O + O
    return <floating *>A


cdef double _loss(fm_run *run, floating *dZ, const void *y, ptrdiff_t B) noexcept nogil:
    # dZ = Z becomes the derivative of the mean loss over B rows; returns the sum over them. Sample
    # weights are those of run's own rows.
    cdef const fm_net *net = &run.net
    cdef const int64_t *labels = <const int64_t *>y
    cdef const floating *T = <const floating *>y
    cdef const floating *sample_weight = <const floating *>run.sample_weight
    cdef ptrdiff_t O = net.sizes[net.n_layers], row, o
    cdef double total = 0, loss, derivative, weight, p, least = -INFINITY, most = INFINITY
    if sample_weight == NULL and net.loss_clip == 0:
        if net.loss == FM_SOFTMAX_CROSS_ENTROPY:
            total = _softmax_cross_entropy_forward(dZ, dZ, labels, B, O)
            _softmax_cross_entropy_backward(dZ, dZ, labels, B, O)
            return total
        if net.loss == FM_SQUARED_ERROR:
            return _squared_error(dZ, dZ, T, B, O)
    if net.loss_clip > 0:
        least, most = -log1p(-net.loss_clip), -log(net.loss_clip)
    for row in range(B):
        weight = 1
        if sample_weight != NULL:
            weight = sample_weight[row if run.rows == NULL else run.rows[row]]
        if net.loss == FM_SOFTMAX_CROSS_ENTROPY:
            loss = _softmax_cross_entropy_forward(dZ, dZ, labels + row, 1, O)
            _softmax_cross_entropy_backward(dZ, dZ, labels + row, 1, O)
            total += weight * _clipped(loss, least, most)
        for o in range(O):
            if net.loss != FM_SOFTMAX_CROSS_ENTROPY:
                loss = loss_of_value(dZ[o], T[row * O + o], net.loss, net.loss_parameter,
                                     &derivative)
                if net.loss == FM_BINARY_CROSS_ENTROPY and net.loss_clip > 0:
                    # as scikit-learn has it, with the probability as it is rounded
                    p = <floating>logistic(dZ[o])
                    p = _clipped(p, net.loss_clip, 1 - net.loss_clip)
                    loss = -T[row * O + o] * log(p) - (1 - T[row * O + o]) * log(1 - p)
                total += weight * loss
                dZ[o] = <floating>derivative
            dZ[o] *= <floating>(weight / run.weight_sum)
        dZ += O
    return total


cdef inline double _clipped(double x, double least, double most) noexcept nogil:
    return least if x < least else most if x > most else x  # NaN stays


cdef double _backpropagate(fm_run *run, floating *A_0, floating *W, floating *dW,
                           double alpha, double beta) noexcept nogil:
    # dW = alpha (gradients of the mean loss) + beta dW, for all layers; returns the summed loss,
    # and where that is not finite has left dW alone
    cdef const fm_net *net = &run.net
    cdef ptrdiff_t L = net.n_layers, max_rows = run.max_rows, B = run.B, l, I, O
    cdef fm_rows X = run.X
    cdef const void *y = run.y
    cdef floating *A = A_0
    cdef floating *slopes = _slopes(run, A_0)
    cdef floating *dZ
    cdef floating *dA
    cdef floating *dA_next
    cdef double loss

    if run.rows != NULL and not run.is_sparse:
        _gather(<char *>A_0, <const char *>X.values, run.rows, B, net.sizes[0] * sizeof(floating))
        X.values = A_0
    if run.rows != NULL:
        _gather(<char *>run.workspace, <const char *>y, run.rows, B, _target_bytes(net))
        y = run.workspace

    dZ = _forward(run, &X, run.rows, A_0 + max_rows * _width(run, 0), W, slopes, B)
    loss = _loss(run, dZ, y, B)
    if run.interrupted != NULL and run.interrupted(run.signals):
        return NAN
    if not isfinite(loss):
        return loss

    # walk to the end of the network, then back through the layers
    for l in range(L):
        A += max_rows * _width(run, l)
        W += (net.sizes[l] + 1) * net.sizes[l + 1]
        dW += (net.sizes[l] + 1) * net.sizes[l + 1]
        slopes += max_rows * (net.sizes[l + 1] if l < L - 1 else 0)
    dA = A + max_rows * net.sizes[L]
    dA_next = dA + max_rows * _widest(run)
    for l in range(L - 1, -1, -1):
        I, O = net.sizes[l], net.sizes[l + 1]
        A -= max_rows * _width(run, l)
        W -= (I + 1) * O
        dW -= (I + 1) * O
        if l == 0 and run.is_sparse:
            _sparse_linear_backward(dW, dW + I * O, <const floating *>dZ, &X, run.rows, B, I, O,
                                    <floating>alpha, <floating>beta)
        elif l == 0:
            _linear_backward(<floating *>NULL, dW, dW + I * O, dZ, <const floating *>X.values, W, B, I, O,
                             <floating>alpha, <floating>beta)
        else:
            _linear_backward(dA, dW, dW + I * O, dZ, <const floating *>A, W, B, I, O,
                             <floating>alpha, <floating>beta)
            slopes -= max_rows * I
            _activation_backward(
                dA, <const floating *>A,
                <const floating *>slopes if _keeps_slopes(net, l - 1) else <const floating *>NULL,
                B * I, net.activations[l - 1],
            )
        dZ, dA, dA_next = dA, dA_next, dA
    return loss


cdef double _step(fm_run *run, floating *A_0, floating *W, floating *dW) noexcept nogil:
    cdef const fm_rule *rule = &run.rule
    cdef ptrdiff_t n_params = _n_params(&run.net), l, i, n, O
    cdef floating *m = W + n_params
    cdef floating *v = m + n_params
    cdef bint clips = isfinite(rule.max_norm), separate = clips or rule.decoupled_decay != 0
    cdef bint accumulate = rule.kind != FM_ADAM and not rule.nesterov and not separate, is_weight
    cdef double loss, weight_decay = rule.weight_decay, decay, norm, kept
    cdef floating shrink = <floating>(rule.learning_rate * rule.decoupled_decay)
    cdef floating velocity_decay = <floating>(rule.learning_rate * rule.weight_decay)
    if accumulate:
        # m = momentum m - learning_rate dW, by the products themselves: dW never exists
        loss = _backpropagate(run, A_0, W, m, -rule.learning_rate, rule.momentum)
    else:
        loss = _backpropagate(run, A_0, W, dW, 1, 0)
    if not isfinite(loss):
        return loss
    if separate and weight_decay != 0:
        _add_decay(&run.net, dW, W, weight_decay)
        weight_decay = 0
    if clips:
        norm = sqrt(_sum_of_squares(dW, n_params))
        # an infinite norm leaves nothing to scale, and NaN says so
        kept = NAN if norm == INFINITY else rule.max_norm / norm
        for i in range(n_params if norm > rule.max_norm else 0):
            dW[i] *= <floating>kept
    for l in range(2 * run.net.n_layers):  # weights and biases in turn
        is_weight = l % 2 == 0
        O = run.net.sizes[l // 2 + 1]
        n = run.net.sizes[l // 2] * O if is_weight else O
        decay = weight_decay if is_weight else 0
        for i in range(n if is_weight and shrink != 0 else 0):
            W[i] -= shrink * W[i]
        if rule.kind == FM_ADAM:
            _adam_update(W, m, v, dW, n, rule.learning_rate, rule.corrected_rate, rule.beta1,
                         rule.beta2, rule.epsilon, decay, False)
        elif not accumulate:
            _sgd_update(W, m, dW, n, rule.learning_rate, rule.momentum, rule.nesterov, decay)
        else:
            for i in range(n if decay != 0 else 0):
                m[i] -= velocity_decay * W[i]
            for i in range(n):
                W[i] += m[i]
        W += n
        m += n
        v += n
        dW += n
    return loss


cdef void _add_decay(const fm_net *net, floating *dW, const floating *W,
                     double weight_decay) noexcept nogil:
    # dW += weight_decay W for all weights, not for biases
    cdef ptrdiff_t l, i, n, n_layer
    for l in range(net.n_layers):
        n = net.sizes[l] * net.sizes[l + 1]
        n_layer = n + net.sizes[l + 1]
        for i in range(n):
            dW[i] += <floating>weight_decay * W[i]
        dW += n_layer
        W += n_layer


cdef double _sum_of_squares(const floating *x, ptrdiff_t n) noexcept nogil:
    if floating is float:
        return fm_sum_of_squares_float32(x, n)
    else:
        return fm_sum_of_squares_float64(x, n)


cdef double _penalty(const fm_net *net, const floating *W) noexcept nogil:
    cdef ptrdiff_t l
    cdef double total = 0
    for l in range(net.n_layers):
        total += _sum_of_squares(W, net.sizes[l] * net.sizes[l + 1])
        W += (net.sizes[l] + 1) * net.sizes[l + 1]
    return total


# -- the engine's functions behind csrc/fastmlp.h, which know the dtype only at run time ----------

cdef inline char *_first_activation(fm_run *run) noexcept nogil:
    return <char *>run.workspace + run.max_rows * _target_bytes(&run.net)


cdef inline char *_own_gradients(fm_run *run) noexcept nogil:
    cdef ptrdiff_t l, width = _width_of_activations(run)
    cdef bint slopes = False
    for l in range(run.net.n_layers - 1):
        slopes |= _keeps_slopes(&run.net, l)
    for l in range(run.net.n_layers - 1 if slopes else 0):
        width += run.net.sizes[l + 1]
    return _first_activation(run) + run.max_rows * width * _itemsize(&run.net)


cdef void _engine_sizes(const fm_run *run, size_t *workspace, size_t *state) noexcept nogil:
    cdef size_t n_bytes = _n_params(&run.net) * _itemsize(&run.net)
    cdef bint trains = run.rule.kind != FM_NONE
    workspace[0] = _own_gradients(<fm_run *>run) - <char *>run.workspace + trains * n_bytes
    state[0] = trains * 3 * n_bytes


cdef void _engine_prepare(fm_run *run) noexcept nogil:
    if run.rule.kind != FM_NONE:
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


cdef void _softmax(floating *Z, ptrdiff_t n, ptrdiff_t O) noexcept nogil:
    # rows of logits Z (n, O) become rows of probabilities
    cdef ptrdiff_t i, o
    cdef floating most, total
    for i in range(n):
        most = Z[0]
        for o in range(1, O):
            most = max(most, Z[o])
        total = 0
        for o in range(O):
            Z[o] = <floating>exp(<double>(Z[o] - most))
            total += Z[o]
        for o in range(O):
            Z[o] /= total
        Z += O


cdef void _engine_forward(fm_run *run, void *out, const fm_rows *X, ptrdiff_t B,
                          int softmax) noexcept nogil:
    cdef char *A_0 = _first_activation(run)
    cdef void *A_L
    if run.net.dtype == FM_FLOAT32:
        A_L = _forward(run, X, <const ptrdiff_t *>NULL, <float *>A_0, <const float *>run.params,
                       <float *>NULL, B)
    else:
        A_L = _forward(run, X, <const ptrdiff_t *>NULL, <double *>A_0, <const double *>run.params,
                       <double *>NULL, B)
    memcpy(out, A_L, B * run.net.sizes[run.net.n_layers] * _itemsize(&run.net))
    if softmax and run.net.dtype == FM_FLOAT32:
        _softmax(<float *>out, B, run.net.sizes[run.net.n_layers])
    elif softmax:
        _softmax(<double *>out, B, run.net.sizes[run.net.n_layers])


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


cdef double _engine_penalty(const fm_run *run) noexcept nogil:
    if run.net.dtype == FM_FLOAT32:
        return _penalty(&run.net, <const float *>run.state)
    return _penalty(&run.net, <const double *>run.state)


cdef int _engine_finite(const fm_run *run) noexcept nogil:
    # a parameter with an infinite mean square would never move again
    cdef ptrdiff_t n = _n_params(&run.net), squares = n if run.rule.kind == FM_ADAM else 0
    if run.net.dtype == FM_FLOAT32:
        return (fm_first_nonfinite_float32(<const float *>run.state, n) < 0
                and fm_first_nonfinite_float32(<const float *>run.state + 2 * n, squares) < 0)
    return (fm_first_nonfinite_float64(<const double *>run.state, n) < 0
            and fm_first_nonfinite_float64(<const double *>run.state + 2 * n, squares) < 0)


cdef fm_engine _engine
_engine.name = "blas"
_engine.level = NULL
_engine.sizes = _engine_sizes
_engine.prepare = _engine_prepare
_engine.load = _engine_load
_engine.store = _engine_store
_engine.finite = _engine_finite
_engine.forward = _engine_forward
_engine.penalty = _engine_penalty
_engine.gradients = _engine_gradients
_engine.step = _engine_step
engine = PyCapsule_New(&_engine, FM_ENGINE_CAPSULE, NULL)
