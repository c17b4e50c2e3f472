# Signals while a core works without the GIL: how it looks for them, and what it finds.

cdef extern from "<time.h>" nogil:
    enum: TIME_UTC
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec
    int timespec_get(timespec *ts, int base)

# How often a running epoch looks for signals, in seconds: Ctrl-C is promised within 0.1.
cdef double SIGNAL_INTERVAL = 0.02


cdef double _seconds() noexcept nogil:
    cdef timespec ts
    timespec_get(&ts, TIME_UTC)
    return ts.tv_sec + 1e-9 * ts.tv_nsec


cdef bint _is_within(double begun, double interval) noexcept nogil:
    # whether less time has passed; clocks may be set
    cdef double now = _seconds()
    return begun <= now < begun + interval


cdef int _check_signals() except -1 with gil:
    return PyErr_CheckSignals()


cdef struct Signals:
    double looked     # when a core at work last looked for signals
    int raised        # whether a handler has raised since the work began
    int forked        # whether this is the child of a handler that forked
    int holds_forks   # whether forks wait for us at this moment, as BLAS needs it in a step
    void *core


cdef int _interrupted(void *signals) noexcept nogil:
    # for fm_run: whether a handler has raised; looks for signals every SIGNAL_INTERVAL
    cdef Signals *seen = <Signals *>signals
    cdef double now = _seconds()
    cdef int forks
    if not seen.looked <= now < seen.looked + SIGNAL_INTERVAL:
        seen.looked = now
        # Whoever forks has the interpreter, and a handler may fork: the step is not in BLAS now.
        forks = fm_forks_so_far()
        if seen.holds_forks:
            fm_let_fork()
        _run_handlers(seen)
        if seen.holds_forks:
            fm_hold_forks()
        seen.forked = fm_forks_so_far() != forks
    return seen.raised or seen.forked


cdef void _run_handlers(Signals *signals) noexcept with gil:
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<Core>signals.core).raised = error
        signals.raised = True
