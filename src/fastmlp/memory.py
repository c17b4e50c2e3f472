"""How much memory there is, asked before any of it is touched.

Linux promises more than it has and ends the process that takes it at its word. Whoever is about to
take as much as a user's sizes say asks here first.
"""

import contextlib
import functools
import os
import sys
from pathlib import Path

__all__ = ["check", "installed"]

# Where control groups, version 2 and 1, say what this process may have.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@functools.cache
def installed() -> int:
    """Return the bytes of memory of this machine, or what its control group may have of them."""
    limits = [sys.maxsize]
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there is no sysconf on Windows
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in LIMITS:
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limit for limit in limits if limit > 0)


def check(n_bytes: int, what: str) -> None:
    """Raise MemoryError if `what` takes more bytes than there are.

    Examples
    --------
    >>> check(10**6, "X")
    >>> check(10**20, "X")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    MemoryError: X takes 93132257462 GiB of memory, more than the ... GiB there are
    """
    if n_bytes > installed():
        raise MemoryError(
            f"{what} takes {min(n_bytes, 2**99) / 2**30:.0f} GiB of memory, more than the "
            f"{installed() / 2**30:.0f} GiB there are"
        )
