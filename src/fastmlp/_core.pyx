"""The core: owns the buffers of one network under one engine and runs its batches without the GIL.

It trusts its callers (`model`, `trainer`) for the meaning of what they hand over (finite
numbers, labels in range, rows that exist) and checks for itself that every array is contiguous
and has the length the network's sizes ask for.
"""

cimport cython
from cpython.buffer cimport (
    Py_buffer, PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE,
    PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.math cimport INFINITY, isfinite, pow, sqrt
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

import numpy as np
from numpy import dtype as numpy_dtype, empty, ndarray

from fastmlp.memory import check as check_memory

from fastmlp._csrc cimport (
    FM_ABSOLUTE_ERROR, FM_ADAM, FM_BINARY_CROSS_ENTROPY, FM_CSR_AHEAD, FM_ENGINE_CAPSULE, FM_EXP,
    FM_FLOAT32, FM_FLOAT64, FM_GELU, FM_HUBER, FM_IDENTITY, FM_LEAKY_RELU, FM_LOG, FM_LOGISTIC,
    FM_MATH_LOGISTIC, FM_MATH_TANH, FM_NONE, FM_NORMAL_CDF, FM_POISSON, FM_QUANTILE, FM_RELU,
    FM_SGD, FM_SILU, FM_SOFTMAX_CROSS_ENTROPY, FM_SQUARED_ERROR, FM_TANH, fm_allocate, fm_borrow,
    fm_dropout_words, fm_engine, fm_first_nonfinite_float32, fm_first_nonfinite_float64, fm_forks_so_far,
    fm_fused_engine, fm_gate, fm_gate_close, fm_gate_drop, fm_gate_enter, fm_gate_leave, fm_gate_make,
    fm_gate_open, fm_gate_renew, fm_give_back, fm_hold_forks, fm_let_fork, fm_net, fm_probe, fm_release,
    fm_rows, fm_run, fm_share_out, fm_shuffle, fm_team_close, fm_team_open, fm_vector_math,
)

ACTIVATIONS = {
    "identity": FM_IDENTITY, "relu": FM_RELU, "tanh": FM_TANH, "logistic": FM_LOGISTIC,
    "leaky_relu": FM_LEAKY_RELU, "gelu": FM_GELU, "silu": FM_SILU,
}
LOSSES = {
    "softmax_cross_entropy": FM_SOFTMAX_CROSS_ENTROPY,
    "binary_cross_entropy": FM_BINARY_CROSS_ENTROPY, "squared_error": FM_SQUARED_ERROR,
    "poisson": FM_POISSON, "absolute_error": FM_ABSOLUTE_ERROR, "huber": FM_HUBER,
    "quantile": FM_QUANTILE,
}
OPTIMIZERS = {"sgd": FM_SGD, "adam": FM_ADAM}
DTYPES = {"float32": FM_FLOAT32, "float64": FM_FLOAT64}

# Work of a step that may take longer than SIGNAL_INTERVAL, in flops.
cdef double LONG_STEP = 1e8
# What `infer` returns.
OUTPUTS, CLASSES, PROBABILITIES = range(3)
# Rows that a thread of `infer` sends through the network at a time: at most, and where there are enough.
cdef ptrdiff_t FORWARD_ROWS = 512, ENOUGH_ROWS = 128
# Bytes that all threads of `infer` may have for that, one of them excepted.
cdef size_t MOST_ROOM = 1 << 30
cdef size_t ALIGNMENT = 64
# Work of a step for which a thread is worth meeting, 15 to 30 microseconds of it.
cdef double FLOPS_PER_THREAD = 3e6
# Numbers of a sparse batch that 32 bits count.
cdef ptrdiff_t MOST_ENTRIES = 0xFFFFFFFF
# What an update of a parameter takes, in flops, where there may be hardly any others.
cdef double FLOPS_OF_UPDATE = 10
# Work of `infer` that is worth a thread, if it is awake and if it has to be woken, and rows, of which fewer
# than ROWS_TO_SHARE are not shared out, but the outputs of layers. A row less than FEW_ROWS takes as long as
# those do, which is what it takes to read the weights.
cdef double FLOPS_TO_INFER = 7e5, FLOPS_TO_WAKE = 5e6
cdef ptrdiff_t ROWS_TO_INFER = 8, ROWS_TO_SHARE = 32, FEW_ROWS = 3
cdef int MOST_THREADS = 4096


LABEL = numpy_dtype("int64")


include "_arrays.pxi"
include "_signals.pxi"
include "_rows.pxi"
include "_inference.pxi"


cdef struct Progress:
    ptrdiff_t rows, steps  # of an epoch that were done
    double loss, penalty   # summed over these rows


cdef class Core(Inference):
    """One network in training under one engine.

    Parameters
    ----------
    engine, sizes, activations, loss, dtype, writes
        As for `Inference`; it writes the parameters, too.
    max_rows : int, the largest batch to train on
    optimizer : str, key of OPTIMIZERS
    is_sparse : whether the inputs to train on are SparseRows, or else arrays
    n_threads, any_size : how many threads epochs are to be shared out among, as they say; any other
        number gives the same results, and takes longer where layers are wide
    loss_parameter, loss_clip, dropout : float, as in fm_net

    Not for use by two threads at once, but for `infer`: the workspace is shared by all other calls.

    Training works on the engine's own copy of the parameters: `load`, `epoch` as often as wanted,
    `store`.
    """

    cdef void *memory
    cdef void *backup
    cdef void *norm_room
    cdef ptrdiff_t entries_room  # how many numbers of a batch there is room for
    cdef bint can_undo
    cdef public int64_t t  # steps completed in all
    cdef public int64_t number  # of the latest epoch that was begun
    cdef Progress begun, done  # of that epoch: when it was entered, and now
    cdef Signals signals
    cdef object raised  # by a signal's handler, to be raised again when the engine has returned
    cdef ptrdiff_t target_bytes

    def __cinit__(self, engine, sizes, activations, loss, dtype, ptrdiff_t max_rows, optimizer, *,
                  double loss_parameter=0, double loss_clip=0, double dropout=0,
                  bint is_sparse=False, Writes writes=None, int n_threads=1, bint any_size=False):
        cdef size_t n_bytes, state_bytes
        self.number = -1
        self.run.net.loss_parameter = loss_parameter
        self.run.net.loss_clip = loss_clip
        self.run.net.dropout = dropout
        self.run.rule.kind = OPTIMIZERS[optimizer]
        self.run.max_rows = max(max_rows, 1)
        self.signals.core = <void *>self
        self.run.interrupted = _interrupted
        self.run.signals = &self.signals
        self.run.is_sparse = is_sparse
        if not any_size:
            n_threads = min(n_threads, self._useful_threads(self.run.max_rows, 1))
        self.run.n_threads = n_threads
        if self.run.net.loss == FM_SOFTMAX_CROSS_ENTROPY:
            self.target_bytes = sizeof(int64_t)
        else:
            self.target_bytes = self.n_out * self.itemsize

        # workspace | state | backup of the state, each on a cache line
        self.engine.sizes(&self.run, &n_bytes, &state_bytes)
        n_bytes = _aligned(n_bytes)
        state_bytes = _aligned(state_bytes)
        check_memory(n_bytes + 2 * state_bytes, "the working space of the network")
        self.memory = fm_allocate(n_bytes + 2 * state_bytes)
        if self.memory == NULL:
            raise MemoryError(
                f"no memory for the {n_bytes + 2 * state_bytes} bytes of working space of the network"
            )
        self.run.workspace = self.memory
        self.run.state = <char *>self.run.workspace + n_bytes
        self.backup = <char *>self.run.state + state_bytes
        self.engine.prepare(&self.run)

    def __dealloc__(self):
        fm_release(self.memory)
        fm_release(self.norm_room)
        fm_release(self.run.entries)

    @property
    def is_sparse(self):
        """Whether it trains on SparseRows."""
        return bool(self.run.is_sparse)

    def gradients(self, gradients, X, y, params, sample_weight=None, *, int n_threads=1,
                  int max_workers=0, bint any_size=False):
        """Gradients of the mean loss over all of X (n, n_in), an array or SparseRows; returns that loss.

        Where the loss is not finite, the gradients are left alone.
        """
        cdef ptrdiff_t n = X.shape[0]
        cdef double loss
        cdef Pointer inputs = self._inputs(X)
        cdef Pointer targets = Pointer(y, n * self.target_bytes)
        cdef Pointer weights = self._weights(sample_weight, n)
        cdef Pointer parameters = self._params(params, False)
        cdef Pointer derivatives = self._params(gradients, True)
        if n > self.run.max_rows:
            raise ValueError(f"{n} rows where at most {self.run.max_rows} were announced")
        self._bind(targets, weights)
        self._make_entries_room(NULL, n, n)
        self.run.params = parameters.view.buf
        self.run.moment1 = self.run.moment2 = NULL
        self.run.gradients = derivatives.view.buf
        self.run.rows = NULL
        self.run.B = n
        self.run.weight_sum = self._weight_sum()
        self.can_undo = False
        if not any_size:
            n_threads = min(n_threads, self._useful_threads(n, self._density(X)))
        self._listen()
        with nogil:
            self.run.team = fm_team_open(n_threads, max_workers)
            self._begin_step()
            loss = self.engine.gradients(&self.run)
            if self.signals.forked and not self.signals.raised:  # as in `_steps`
                self.signals.forked = False
                loss = self.engine.gradients(&self.run)
            self._end_step()
            fm_team_close(self.run.team)
            self.run.team = NULL
        if self.signals.raised:
            self._stop()
        return loss / self.run.weight_sum

    def load(self, params, moment1=None, moment2=None):
        """Take over parameters and the moments of the optimizer."""
        self._exchange(params, moment1, moment2, False)

    def store(self, params, moment1=None, moment2=None):
        """Write parameters and moments back, as the last completed step left them."""
        self._exchange(params, moment1, moment2, True)

    cdef _exchange(self, params, moment1, moment2, bint store):
        cdef Pointer first = None if moment1 is None else self._params(moment1, store)
        cdef Pointer second = None if moment2 is None else self._params(moment2, store)
        cdef Pointer parameters = self._params(params, store)
        self.run.params = parameters.view.buf
        self.run.moment1 = NULL if first is None else first.view.buf
        self.run.moment2 = NULL  # the state has room for one only under Adam
        if second is not None and self.run.rule.kind == FM_ADAM:
            self.run.moment2 = second.view.buf
        if store:  # with the GIL: others see all of it or nothing, and so does a fork
            self.writes.store(self.engine, &self.run)
            return
        self.can_undo = False
        with nogil:
            self.engine.load(&self.run)

    def epoch(self, X, y, order, ptrdiff_t batch_size, *, sample_weight=None, double learning_rate,
              double l2=0, double weight_decay=0, double decoupled_decay=0,
              double max_norm=INFINITY, double momentum=0, bint nesterov=False, double beta1=0,
              double beta2=0, double epsilon=0, int64_t t=0, uint64_t dropout_key=0,
              int64_t number=0, begun=(0, 0, 0.0, 0.0), int n_threads=1, int max_workers=0,
              bint any_size=False):
        """Train on the rows of X in `order`, batch by batch, the last one perhaps short.

        The options are those of `fm_rule`, and l2, which adds l2/2 times the squared weights over
        the sum of the batch's sample weights to its loss. t is the number of steps done before,
        `number` that of the epoch, and `begun` what `progress` said when its rows before these were
        done. `n_threads` is how many threads may work, `max_workers` how many the process may have
        beside its own. A step that is too small to gain from threads gets none, unless `any_size`.

        Returns loss and penalty of l2, both summed over the rows of the epoch, the number of steps
        done, and whether all of them were. A step that meets or makes numbers that are not finite
        is not done and ends the epoch; `store` then gives what the step before it left. A signal
        whose handler raises (Ctrl-C) ends the epoch after a completed step. A batch without weight
        is passed over.
        """
        cdef ptrdiff_t n = order.shape[0], steps = 0
        cdef bint all_done
        cdef Pointer inputs = self._inputs(X)
        cdef Pointer targets = Pointer(y, X.shape[0] * self.target_bytes)
        cdef Pointer weights = self._weights(sample_weight, X.shape[0])
        cdef Pointer rows = Pointer(order, n * sizeof(ptrdiff_t))
        if not 1 <= batch_size <= self.run.max_rows:
            raise ValueError(f"batch_size {batch_size} is not in 1..{self.run.max_rows}")
        self._bind(targets, weights)
        self._make_entries_room(<const ptrdiff_t *>rows.view.buf, n, batch_size)
        self.run.rule.learning_rate = learning_rate
        self.run.rule.decoupled_decay = decoupled_decay
        self.run.rule.max_norm = max_norm
        self.run.rule.momentum = momentum
        self.run.rule.nesterov = nesterov
        self.run.rule.beta1 = beta1
        self.run.rule.beta2 = beta2
        self.run.rule.epsilon = epsilon
        self.run.dropout_key = dropout_key
        if isfinite(max_norm):
            self._make_norm_room()
        if not any_size:
            n_threads = min(n_threads, self._useful_threads(min(batch_size, n), self._density(X)))
        self.begun.rows, self.begun.steps, self.begun.loss, self.begun.penalty = begun
        self.done, self.t, self.number = self.begun, t, number
        self.can_undo = False
        with nogil:
            self.run.team = fm_team_open(n_threads, max_workers)
            try:
                steps = self._steps(<const ptrdiff_t *>rows.view.buf, n, batch_size, t, n, l2,
                                    weight_decay, False)
                all_done = self.done.rows == self.begun.rows + n and isfinite(
                    self.done.loss + self.done.penalty
                )
                while steps and not self.engine.finite(&self.run):
                    # A step made numbers that are not finite: the epoch again, without it. It was
                    # the last one, unless they stayed hidden (relu makes 0 of -infinity, tanh 1 of
                    # infinity): then this ends after the first that makes some, and goes round again.
                    self._back_to_start()
                    steps = self._steps(<const ptrdiff_t *>rows.view.buf, n, batch_size, t,
                                        steps - 1, l2, weight_decay, True)
                    all_done = False
            finally:
                fm_team_close(self.run.team)
                self.run.team = NULL
        return self.done.loss, self.done.penalty, steps, all_done

    @property
    def skips_zeros(self):
        """Whether the next step leaves out inputs that are 0, as the ones before have found many."""
        return bool(self.run.skips_zeros)

    @property
    def progress(self):
        """Of the latest epoch: rows and steps done, and loss and penalty summed over the rows."""
        return self.done.rows, self.done.steps, self.done.loss, self.done.penalty

    def undo(self):
        """Take back what the latest epoch did to the state; nothing where it did nothing."""
        if self.can_undo:
            self._back_to_start()

    cdef void _back_to_start(self) noexcept nogil:
        # the state before the steps of the latest epoch, of which there must have been one
        self.run.state, self.backup = self.backup, self.run.state
        self.can_undo = False
        self.t -= self.done.steps - self.begun.steps
        self.done = self.begun

    cdef void _listen(self) noexcept nogil:
        # before the first step, or the only one
        self.signals.looked = _seconds()
        self.signals.raised = self.signals.forked = self.signals.holds_forks = False

    cdef int _stop(self) except -1 with gil:
        # Raises what a handler has raised, at a completed step. Where that made numbers that are not
        # finite, the steps of this epoch are given up: to do them again would take too long now.
        if self.done.steps > self.begun.steps and not self.engine.finite(&self.run):
            self._back_to_start()
        error, self.raised = self.raised, None
        raise error

    cdef _make_norm_room(self):
        if self.norm_room == NULL:
            self.norm_room = fm_allocate(self.n_params * self.itemsize)
        if self.norm_room == NULL:
            raise MemoryError(f"no memory for {self.n_params} gradients")
        self.run.gradients = self.norm_room

    cdef _make_entries_room(self, const ptrdiff_t *order, ptrdiff_t n, ptrdiff_t batch_size):
        cdef ptrdiff_t most = 0
        if self.run.is_sparse:
            most = _most_values(&self.run.X, order, n, batch_size)
        if most <= self.entries_room:
            return
        if most > MOST_ENTRIES:
            raise ValueError(f"a batch of {most} numbers, of which there may be {MOST_ENTRIES}")
        fm_release(self.run.entries)
        self.run.entries, self.entries_room = NULL, 0
        check_memory(most * 2 * self.itemsize, "the inputs of a batch")
        self.run.entries = fm_allocate(most * 2 * self.itemsize)
        if self.run.entries == NULL:
            raise MemoryError(f"no memory for the {most} inputs of a batch")
        self.entries_room = most

    cdef Pointer _inputs(self, X):
        # the memory of what X holds, to be kept as long as X; as the inputs of the run
        cdef SparseRows sparse
        cdef Pointer memory
        if not self.run.is_sparse:
            memory = Pointer(X, X.shape[0] * self.n_in * self.itemsize)
            self.run.X.values = memory.view.buf
            return memory
        if type(X) is not SparseRows or X.shape[1] != self.n_in or X.dtype != self.dtype:
            raise TypeError(f"X is {type(X).__name__}, expected SparseRows of {self.n_in} columns")
        sparse = X
        self.run.X = sparse.rows
        return sparse.memory

    cdef double _density(self, X):
        # the share of the inputs that are there
        cdef SparseRows sparse
        if not self.run.is_sparse:
            return 1
        sparse = X
        return sparse.n_values() / max(1.0, <double>len(sparse) * self.n_in)

    cdef Pointer _weights(self, sample_weight, ptrdiff_t n):
        return None if sample_weight is None else Pointer(sample_weight, n * self.itemsize)

    cdef double _weight_sum(self) noexcept nogil:
        # of the batch
        cdef const fm_run *run = &self.run
        cdef double total = 0
        cdef ptrdiff_t b, row
        if run.sample_weight == NULL:
            return run.B
        for b in range(run.B):
            row = b if run.rows == NULL else run.rows[b]
            if self.itemsize == 4:
                total += (<const float *>run.sample_weight)[row]
            else:
                total += (<const double *>run.sample_weight)[row]
        return total

    cdef void _begin_step(self) noexcept nogil:
        # one that may look for signals, and lets forks through while it does
        self._hold_forks()
        self.signals.holds_forks = self.engine.level == NULL

    cdef void _end_step(self) noexcept nogil:
        self.signals.holds_forks = False
        self._let_fork()

    cdef int _useful_threads(self, ptrdiff_t B, double density):
        # at least FLOPS_PER_THREAD multiplications and additions for every thread of a step
        cdef double of_inputs = <double>self.n_in * self.sizes[1], flops = 6.0 * self.n_params * B
        if self.run.is_sparse:
            flops -= (1 - density) * 6 * B * of_inputs - FLOPS_OF_UPDATE * of_inputs
        return <int>max(1.0, min(flops / FLOPS_PER_THREAD, 4096.0))

    cdef void _bind(self, Pointer targets, Pointer weights):
        self.run.y = targets.view.buf
        self.run.sample_weight = NULL if weights is None else weights.view.buf
        self.run.n_ahead = 0
        self.run.gathered = 0

    cdef ptrdiff_t _steps(self, const ptrdiff_t *rows, ptrdiff_t n, ptrdiff_t batch_size,
                          int64_t t, ptrdiff_t most, double l2, double weight_decay,
                          bint look) except -1 nogil:
        # At most `most` steps over rows[0..n), from step t on; returns how many were completed. A
        # step whose loss is not finite is not. With `look`, the first step that makes numbers that
        # are not finite is the last.
        cdef fm_run *run = &self.run
        cdef ptrdiff_t steps = 0, start = 0
        cdef double loss, penalty = 0
        # A long step asks for signals in its middle, and between two of them, to be done within one.
        cdef bint is_long = 6.0 * self.n_params * batch_size > LONG_STEP
        self.done, self.t = self.begun, t
        run.gathered = False  # an epoch that is done again may have been left before a later batch
        self._listen()
        while start < n and steps < most:
            if is_long and _interrupted(&self.signals) and self.signals.raised:
                self._stop()
            run.B = min(n - start, batch_size)
            run.rows = rows + start
            run.n_ahead = n - start - run.B
            run.weight_sum = self._weight_sum()
            if run.weight_sum == 0:
                start += run.B
                self.done.rows += run.B
                run.gathered = False
                continue
            run.step = t + steps
            run.rule.weight_decay = weight_decay + l2 / run.weight_sum
            if run.rule.kind == FM_ADAM:
                run.rule.corrected_rate = run.rule.learning_rate * sqrt(
                    1 - pow(run.rule.beta2, t + steps + 1)
                ) / (1 - pow(run.rule.beta1, t + steps + 1))
            if l2 != 0:
                penalty = 0.5 * l2 * self.engine.penalty(run)
            if not isfinite(penalty):
                break
            if steps == 0:  # the backup is of the state before all of them
                run.backup = self.backup
            self._begin_step()
            loss = self.engine.step(run)
            self._end_step()
            if steps == 0:
                self.backup = run.backup
                run.backup = NULL
            if self.signals.raised:  # in the middle of the step, which is then not done
                self._stop()
            if self.signals.forked:  # and the child lacks the threads that had parts of it
                self.signals.forked = False
                continue
            if not isfinite(loss):
                break
            self.can_undo = True
            if run.sample_weight != NULL:
                loss = loss / run.weight_sum * run.B
            self.done.loss += loss
            self.done.penalty += penalty / run.weight_sum * run.B
            self.done.rows += run.B
            self.done.steps += 1
            self.t += 1
            steps += 1
            start += run.B
            if not isfinite(self.done.loss + self.done.penalty):
                break
            if look and not self.engine.finite(run):
                break
        return steps


include "_turn.pxi"
include "_functions.pxi"
