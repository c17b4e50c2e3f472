# Turn: what one thread does at a time. Written in Cython, where no signal's handler runs between a
# lock and the note that it is held: an interrupted `with` has either both or neither.

from threading import RLock, get_ident


cdef class Turn:
    """One thread's at a time, as often as that thread likes: ``with turn:``.

    A forked process has only the thread that forked. What the other threads held is free there, and
    `abandoned`: they left their work where it was.

    Attributes
    ----------
    abandoned : bool
        Its holder stayed behind in a fork. For its next holder to look at, and to set back.
    computes : bool
        Whether a block of `computing` is going on.
    """

    cdef object __weakref__
    cdef object lock, take, leave, holder
    cdef int depth
    cdef bint closed
    cdef Py_ssize_t fits
    cdef public bint abandoned
    cdef readonly bint computes

    def __init__(self):
        self._renew()

    cdef _renew(self):
        try:
            lock = RLock()
        except RuntimeError:  # what CPython raises where there is no memory for one
            raise MemoryError("no memory for a lock") from None
        # Its methods are looked up now: later there might be no memory for that, and it held.
        self.take, self.leave, self.lock = lock.acquire, lock.release, lock

    cpdef bint acquire(self, bint blocking=True) except -1:
        """Take the turn, or wait for it; return whether this thread has it."""
        me = get_ident()
        if not self.take(blocking):
            return False
        self.depth += 1
        self.holder = me
        return True

    cpdef release(self):
        """Give the turn back, as often as it was taken."""
        self.depth -= 1
        if self.depth == 0:
            self.holder = None
        self.leave()

    def __enter__(self):
        self.acquire()

    def __exit__(self, kind, error, traceback):
        self.release()

    def attempt(self):
        """``with turn.attempt() as taken:`` takes the turn only if that needs no waiting."""
        return _Attempt(self)

    def computing(self, what):
        """``with turn.computing(what):`` is `computes`; RuntimeError if it is already.

        The turn must be this thread's.
        """
        return _Computing(self, what)

    def of_a_fit(self, what, *, bint nested=False, bint closed=True):
        """``with turn.of_a_fit(what):`` holds it, or raises RuntimeError if it is taken.

        Parameters
        ----------
        what : str
            Is in the middle of a fit, for the message.
        nested : bool
            Whether this thread may have it already.
        closed : bool
            Whether other threads must not `look` meanwhile.
        """
        return _Fit(self, what, nested, closed)

    def shared(self):
        """``with turn.shared():`` lets other threads look meanwhile; its holder calls this."""
        return _Shared(self)

    def look(self, what):
        """Return how many closed fits there were; raise RuntimeError in another thread's."""
        if self.closed and self.holder != get_ident():
            raise _in_the_middle(what)
        return self.fits

    def forked(self):
        """Be free in a forked process, if the thread that had it stayed behind."""
        if self.take(False):  # nobody's, or of the thread that is here
            self.leave()
            return
        self._renew()
        self.holder, self.depth, self.closed, self.computes = None, 0, False, False
        self.abandoned = True


cdef _in_the_middle(what):
    return RuntimeError(f"{what} is in the middle of a fit, which has to end first")


cdef class _Attempt:
    cdef Turn turn
    cdef bint taken

    def __init__(self, Turn turn):
        self.turn = turn

    def __enter__(self):
        self.taken = self.turn.acquire(False)
        return self.taken

    def __exit__(self, kind, error, traceback):
        if self.taken:
            self.turn.release()


cdef class _Computing:
    cdef Turn turn
    cdef object what

    def __init__(self, Turn turn, what):
        self.turn, self.what = turn, what

    def __enter__(self):
        if self.turn.computes:
            raise RuntimeError(f"{self.what} is in the middle of an epoch, of this very thread")
        self.turn.computes = True

    def __exit__(self, kind, error, traceback):
        self.turn.computes = False


cdef class _Fit:
    cdef Turn turn
    cdef object what
    cdef bint nested, closed, before

    def __init__(self, Turn turn, what, bint nested, bint closed):
        self.turn, self.what, self.nested, self.closed = turn, what, nested, closed

    def __enter__(self):
        if not self.turn.acquire(False):
            raise _in_the_middle(self.what)
        if self.turn.depth > 1 and not self.nested:
            self.turn.release()
            raise _in_the_middle(self.what)
        self.before = self.turn.closed
        self.turn.fits += self.closed
        self.turn.closed = self.closed

    def __exit__(self, kind, error, traceback):
        self.turn.closed = self.before
        self.turn.release()


cdef class _Shared:
    cdef Turn turn
    cdef bint before

    def __init__(self, Turn turn):
        self.turn = turn

    def __enter__(self):
        self.before, self.turn.closed = self.turn.closed, False

    def __exit__(self, kind, error, traceback):
        self.turn.closed = self.before
