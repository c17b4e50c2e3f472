"""Turn: what one thread does at a time, also after a fork."""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Turn"]


class Turn:
    """One thread's at a time, as often as that thread likes.

    A forked process has only the thread that forked. What the other threads held is free there, and
    `abandoned`: they left their work where it was.

    Attributes
    ----------
    abandoned : bool
        Its holder stayed behind in a fork. For its next holder to look at, and to set back.
    """

    def __init__(self) -> None:
        self.abandoned = False
        self._lock = threading.RLock()
        self._holder: int | None = None
        self._depth = 0
        self._closed = False
        self._fits = 0
        _turns.add(self)

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take the turn, or wait for it; return whether this thread has it."""
        if not self._lock.acquire(blocking):
            return False
        self._depth += 1
        self._holder = threading.get_ident()
        return True

    def release(self) -> None:
        """Give the turn back, as often as it was taken."""
        self._depth -= 1
        if not self._depth:
            self._holder = None
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    @contextmanager
    def of_a_fit(self, what: str, *, nested: bool = False, closed: bool = True) -> Iterator[None]:
        """Hold the turn, or raise RuntimeError if another thread has it, or this one already.

        Parameters
        ----------
        what : str
            Is in the middle of a fit, for the message.
        nested : bool
            Whether this thread may have it already.
        closed : bool
            Whether other threads must not `look` meanwhile.
        """
        if not self.acquire(blocking=False):
            raise _in_the_middle(what)
        before = self._closed
        try:
            if self._depth > 1 and not nested:
                raise _in_the_middle(what)
            self._fits += closed
            self._closed = closed
            yield
        finally:
            self._closed = before
            self.release()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Let other threads look, until the block ends; its holder calls this."""
        before, self._closed = self._closed, False
        try:
            yield
        finally:
            self._closed = before

    def look(self, what: str) -> int:
        """Return how many closed fits there were; raise RuntimeError in another thread's."""
        if self._closed and self._holder != threading.get_ident():
            raise _in_the_middle(what)
        return self._fits

    def _forked(self) -> None:
        if self._lock.acquire(blocking=False):  # nobody's, or of the thread that is here
            self._lock.release()
            return
        self._lock = threading.RLock()
        self._holder, self._depth, self._closed = None, 0, False
        self.abandoned = True


def _in_the_middle(what: str) -> RuntimeError:
    return RuntimeError(f"{what} is in the middle of a fit, which has to end first")


def _after_fork() -> None:
    for turn in list(_turns):
        turn._forked()


_turns: weakref.WeakSet[Turn] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
