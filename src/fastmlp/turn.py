"""Turn: what one thread does at a time, also after a fork."""

import os
import weakref

from fastmlp._core import Turn

__all__ = ["Turn", "new_turn"]

_turns: weakref.WeakSet[Turn] = weakref.WeakSet()


def new_turn() -> Turn:
    """Return a turn that is free in a forked process whose parent's other threads had it."""
    turn = Turn()
    _turns.add(turn)
    return turn


def _after_fork() -> None:
    for turn in list(_turns):
        turn.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
