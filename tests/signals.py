"""Signals that come in the middle of something."""

import signal
import time

import pytest


class Enough(Exception):
    """What the handler of `until_stopped` raises."""


def until_stopped(function, *arguments, after=0.1, error=Enough, **options):
    """Call a function that a signal's handler ends by an exception.

    The signal comes when this process has worked for `after` seconds. Returns for how many it has
    worked from there to the end of the call: whoever else uses the machine does not count.
    """

    def stop(*_):
        raise error

    old = signal.signal(signal.SIGPROF, stop)
    try:
        signal.setitimer(signal.ITIMER_PROF, after)
        began = time.process_time()
        with pytest.raises(error):
            function(*arguments, **options)
        return time.process_time() - began - after
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
