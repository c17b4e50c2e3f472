# A network and its outputs: what a core that trains is, too. Rows are shared out among threads.

ctypedef fused floating:
    float
    double


cdef void _argmax(int64_t *classes, const floating *Z, ptrdiff_t n, ptrdiff_t O) noexcept nogil:
    # of every row of Z (n, O) the first of the largest, as NumPy has it
    cdef ptrdiff_t i, o, best
    for i in range(n):
        best = 0
        for o in range(1, O):
            if Z[i * O + o] > Z[i * O + best]:
                best = o
        classes[i] = best


# What one thread has of a call of `infer`: memory of its own.
cdef struct Share:
    fm_run run
    char *Z  # room for the outputs of its rows, where only their classes are asked for
    bint nonfinite  # whether it has met NaN or infinity among the inputs


# Rows that threads send through a network, part by part.
cdef struct Rows:
    const fm_engine *engine
    Share *shares
    int n_shares
    int n_sharing, n_woken  # threads that share out the outputs of layers, or 1; and that are woken
    ptrdiff_t n, n_parts, done  # rows; parts, and how many of them were done in earlier goes
    fm_rows X
    char *Z           # outputs, or NULL
    int64_t *classes  # or NULL
    bint softmax
    # of a go: how many parts are a fair share for each, how many the caller has done, when it began
    ptrdiff_t fair, mine
    double begun


cdef int _send(void *argument, int thread, ptrdiff_t part) noexcept nogil:
    # whether to go on: the caller looks around when it is time, but not before it has done its share,
    # or whoever has begun another part meanwhile would keep it waiting
    cdef Rows *rows = <Rows *>argument
    cdef Share *share = rows.shares + thread
    cdef const fm_net *net = &share.run.net
    cdef ptrdiff_t first = rows.n * (rows.done + part) // rows.n_parts
    cdef ptrdiff_t n = rows.n * (rows.done + part + 1) // rows.n_parts - first
    cdef ptrdiff_t I = net.sizes[0], O = net.sizes[net.n_layers]
    cdef ptrdiff_t itemsize = 4 if net.dtype == FM_FLOAT32 else 8
    cdef fm_rows X = _rows_from(&rows.X, first, I, net.dtype)
    cdef char *Z = share.Z if rows.Z == NULL else rows.Z + first * O * itemsize
    share.nonfinite |= _first_nonfinite(&X, n, I, net.dtype) >= 0
    if share.nonfinite:
        return False
    if thread == 0:
        rows.mine += 1
    rows.engine.forward(&share.run, Z, &X, n, rows.softmax)
    if rows.classes != NULL:
        if itemsize == 4:
            _argmax(rows.classes + first, <const float *>Z, n, O)
        else:
            _argmax(rows.classes + first, <const double *>Z, n, O)
    return thread > 0 or rows.mine <= rows.fair or _is_within(rows.begun, SIGNAL_INTERVAL)


cdef ptrdiff_t _n_parts(ptrdiff_t n, int n_threads) noexcept nogil:
    # Of n rows for so many threads: a few parts for each, so that none waits long for another, but
    # enough rows to be worth reading the weights.
    cdef ptrdiff_t most = (n + n_threads - 1) // n_threads
    if n_threads > 1:
        most = min(max((most + 3) // 4, min(most, ENOUGH_ROWS)), 2 * ENOUGH_ROWS)
    most = min(most, FORWARD_ROWS)
    cdef ptrdiff_t n_parts = (n + most - 1) // most
    return (n_parts + n_threads - 1) // n_threads * n_threads


# How far rows have come: all is done; the parameters have been written in between; or some are not finite.
cdef enum Sent:
    DONE, CHANGED, NONFINITE


cdef class Inference:
    """One network under one engine, and its outputs.

    Parameters
    ----------
    engine : capsule around a `fm_engine`
    sizes : sequence of int, the width of every layer, inputs first
    activations : sequence of str, keys of ACTIVATIONS, one for every hidden layer
    loss, dtype : str, keys of LOSSES, DTYPES
    writes : Writes, of the model whose parameters it reads, or None for its own
    any_size : whether threads share out rows that are too few to gain by it
    """

    cdef object capsule, dtype
    cdef Writes writes
    cdef fm_engine *engine
    cdef fm_run run
    cdef ptrdiff_t *sizes
    cdef int *activations
    cdef bint any_size
    cdef ptrdiff_t n_params, itemsize, n_in, n_out

    def __cinit__(self, engine, sizes, activations, loss, dtype, *args, Writes writes=None,
                  bint any_size=False, **others):
        cdef ptrdiff_t l, L = len(sizes) - 1
        if type(self) is Inference and (args or others):
            raise TypeError(f"Inference takes no {args or others}")
        self.capsule = engine
        self.writes = Writes() if writes is None else writes
        self.any_size = any_size
        self.dtype = numpy_dtype(dtype)
        self.engine = <fm_engine *>PyCapsule_GetPointer(engine, FM_ENGINE_CAPSULE)
        self.sizes = <ptrdiff_t *>malloc((L + 1) * sizeof(ptrdiff_t))
        self.activations = <int *>malloc(L * sizeof(int))
        if self.sizes == NULL or self.activations == NULL:
            raise MemoryError("no memory for the sizes of the network")
        for l in range(L + 1):
            self.sizes[l] = sizes[l]
        for l in range(L - 1):
            self.activations[l] = ACTIVATIONS[activations[l]]
        self.run.net.n_layers = L
        self.run.net.sizes = self.sizes
        self.run.net.activations = self.activations
        self.run.net.loss = LOSSES[loss]
        self.run.net.dtype = DTYPES[dtype]
        self.run.rule.kind = FM_NONE
        self.run.rule.max_norm = INFINITY
        self.run.level = self.engine.level
        self.run.n_threads = 1
        self.itemsize = 4 if self.run.net.dtype == FM_FLOAT32 else 8
        self.n_in = self.sizes[0]
        self.n_out = self.sizes[L]
        self.n_params = 0
        for l in range(L):
            self.n_params += (self.sizes[l] + 1) * self.sizes[l + 1]

    def __dealloc__(self):
        free(self.sizes)
        free(self.activations)

    cdef Pointer _params(self, array, bint writable):
        return Pointer(array, self.n_params * self.itemsize, writable)

    def infer(self, X, params, int what, threads=None):
        """Outputs of the network for X: OUTPUTS (n, n_out), CLASSES (n,) or PROBABILITIES (n, n_out).

        X is a C-contiguous ndarray (n, n_in) of the network's dtype with n >= 1 and finite values, or
        such SparseRows; of anything else None is returned. `threads` is asked how many may work, where there
        is enough for several to do, and told whether that is little; None stands for one.

        Safe in many threads at once, and while another stores: the outputs are those of the
        parameters before or after.
        """
        cdef Py_buffer view
        cdef Rows rows
        cdef SparseRows sparse
        rows.X.columns, rows.X.starts = NULL, NULL
        if type(X) is SparseRows:
            sparse = X
            if sparse.shape[0] < 1 or sparse.shape[1] != self.n_in or sparse.dtype != self.dtype:
                return None
            rows.X, rows.n = sparse.rows, sparse.shape[0]
            return self._infer(&rows, params, what, threads)
        if type(X) is not ndarray:
            return None
        try:
            PyObject_GetBuffer(X, &view, PyBUF_FORMAT | PyBUF_STRIDES)
        except (BufferError, ValueError):  # dates, for one, have no buffer
            return None
        try:
            if not self._takes(&view):
                return None
            rows.X.values, rows.n = view.buf, view.shape[0]
            return self._infer(&rows, params, what, threads)
        finally:
            PyBuffer_Release(&view)

    cdef _infer(self, Rows *rows, params, int what, threads):
        cdef Pointer memory
        cdef uint64_t n_writes
        cdef int sent
        rows.engine, rows.softmax = self.engine, what == PROBABILITIES
        rows.Z, rows.classes = NULL, NULL
        if what == CLASSES:
            out = empty(rows.n, LABEL)
            memory = Pointer(out, rows.n * sizeof(int64_t), True)
            rows.classes = <int64_t *>memory.view.buf
        else:
            out = empty((rows.n, self.n_out), self.dtype)
            memory = Pointer(out, rows.n * self.n_out * self.itemsize, True)
            rows.Z = <char *>memory.view.buf
        self._share(rows, threads)
        n_writes = self.writes.count()
        sent = self._forward(rows[0], params, n_writes, False)
        if sent == CHANGED:
            params = self.writes.copy(params)
            sent = self._forward(rows[0], params, 0, True)
        return out if sent == DONE else None

    cdef bint _takes(self, const Py_buffer *view):
        if view.ndim != 2 or view.shape[1] != self.n_in or view.shape[0] < 1:
            return False
        if view.format == NULL or view.format[1] != 0:
            return False
        if view.format[0] != (c"f" if self.itemsize == 4 else c"d"):
            return False
        return (<size_t>view.buf % self.itemsize == 0
                and PyBuffer_IsContiguous(<Py_buffer *>view, c"C"))

    cdef int _share(self, Rows *rows, threads) except -1:
        # How many threads share out the rows or, if these are few and dense, the outputs of layers.
        cdef ptrdiff_t n = rows.n, n_threads
        cdef double multiplications = <double>self.n_params * n, flops, useful = MOST_THREADS
        cdef bint by_rows = rows.X.columns != NULL or n >= ROWS_TO_SHARE
        rows.n_shares = rows.n_sharing = rows.n_woken = 1
        if threads is None or self.engine.level == NULL:  # BLAS has threads of its own
            return 0
        if rows.X.columns != NULL:
            multiplications -= (<double>self.n_in * n - rows.X.starts[n]) * self.sizes[1]
        flops = 2 * multiplications
        if by_rows:
            useful = n if self.any_size else min(flops / FLOPS_TO_INFER, n / <double>ROWS_TO_INFER)
        elif not self.any_size:
            useful = max(flops, 2.0 * FEW_ROWS * self.n_params) / FLOPS_TO_INFER
        if useful < 2:
            return 0
        n_threads = threads(flops < 2 * FLOPS_TO_WAKE and not self.any_size)
        n_threads = max(1, min(n_threads, <ptrdiff_t>min(useful, MOST_THREADS)))
        rows.n_woken = n_threads if self.any_size else <int>min(flops / FLOPS_TO_WAKE, MOST_THREADS)
        if by_rows:
            rows.n_shares = n_threads
        else:
            rows.n_sharing = n_threads
        return 0

    cdef int _forward(self, Rows rows, params, uint64_t n_writes, bint own) except -1:
        # In memory of its own, so that calls do not meet; CHANGED where the parameters, unless they
        # are its own too, have been written since there were n_writes.
        cdef Pointer parameters = self._params(params, False)
        cdef int sent = DONE
        cdef Share one
        cdef void *memory = NULL
        rows.shares, rows.done, rows.mine, rows.begun = &one, 0, 0, 0
        rows.n_parts, rows.fair = _n_parts(rows.n, rows.n_shares), 1 if rows.n_shares == 1 else 4
        try:
            if rows.n_shares > 1:
                rows.shares = <Share *>malloc(rows.n_shares * sizeof(Share))
                if rows.shares == NULL:
                    raise MemoryError(f"no memory for {rows.n_shares} threads")
            memory = self._workspaces(&rows, parameters.view.buf)
            if rows.n == 1:  # sooner done than the interpreter handed over
                return self._go(&rows, n_writes, own)
            with nogil:
                sent = self._go(&rows, n_writes, own)
                while sent == DONE and rows.done < rows.n_parts:
                    _check_signals()
                    fm_gate_renew(self.writes.gate)  # this may be the child of a handler
                    sent = self._go(&rows, n_writes, own)
            return sent
        finally:
            fm_give_back(memory)
            if rows.shares != &one:
                free(rows.shares)

    cdef void *_workspaces(self, Rows *rows, void *params) except NULL:
        # Of all shares, each for a part of the rows; of fewer where there is no memory for as many.
        cdef size_t workspace, state, outputs = 0
        cdef int i
        cdef char *memory
        cdef fm_run *run = &rows.shares.run
        run[0] = self.run
        run.rule.kind = FM_NONE
        run.n_threads, run.n_woken = rows.n_sharing, rows.n_woken
        run.is_sparse = rows.X.columns != NULL
        run.params = params
        run.max_rows = (rows.n + rows.n_parts - 1) // rows.n_parts
        self.engine.sizes(run, &workspace, &state)
        workspace = _aligned(workspace)
        if rows.Z == NULL:
            outputs = _aligned(run.max_rows * self.n_out * self.itemsize)
        while rows.n_shares > 1 and rows.n_shares * (workspace + outputs) > MOST_ROOM:
            rows.n_shares -= 1
        if workspace + outputs > MOST_ROOM:
            check_memory(workspace + outputs, "the working space of the network")
        memory = <char *>fm_borrow(rows.n_shares * (workspace + outputs))
        if memory == NULL and rows.n_shares > 1:
            rows.n_shares = 1
            memory = <char *>fm_borrow(workspace + outputs)
        if memory == NULL:
            raise MemoryError(
                f"no memory for the {workspace + outputs} bytes of working space of the network"
            )
        for i in range(rows.n_shares):
            if i > 0:
                rows.shares[i].run = run[0]
            rows.shares[i].run.workspace = memory + i * (workspace + outputs)
            rows.shares[i].Z = memory + i * (workspace + outputs) + workspace
            rows.shares[i].nonfinite = False
            self.engine.prepare(&rows.shares[i].run)
        return memory

    cdef int _go(self, Rows *rows, uint64_t n_writes, bint own) noexcept nogil:
        # as many parts as take 10 to 20 ms, or a few if they take longer
        cdef int i, sent = DONE
        if not own:
            fm_gate_enter(self.writes.gate)
            if self.writes.n != n_writes:
                sent = CHANGED
        if sent == DONE:
            self._hold_forks()
            if rows.n_parts == 1:
                _send(rows, 0, 0)
                rows.done = 1
            else:
                rows.begun, rows.mine = _seconds(), 0
                rows.done += fm_share_out(
                    rows.n_shares, rows.n_woken,
                    min(rows.n_parts - rows.done, rows.fair * rows.n_shares), _send, rows)
                if _is_within(rows.begun, SIGNAL_INTERVAL / 2):
                    rows.fair *= 2
            self._let_fork()
            for i in range(rows.n_shares):
                if rows.shares[i].nonfinite:
                    sent = NONFINITE
        if not own:
            fm_gate_leave(self.writes.gate)
        return sent

    cdef void _hold_forks(self) noexcept nogil:
        # BLAS has locks of its own, which a child of a fork in the middle would wait for for ever.
        if self.engine.level == NULL:
            fm_hold_forks()

    cdef void _let_fork(self) noexcept nogil:
        if self.engine.level == NULL:
            fm_let_fork()


cdef inline size_t _aligned(size_t n) noexcept nogil:
    return (n + ALIGNMENT - 1) & ~(ALIGNMENT - 1)
