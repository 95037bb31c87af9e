"""The clock for leases and for replays kept in memory."""

import time
from collections.abc import Callable
from functools import partial

now: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Returns seconds of a clock that goes on while the process is stopped.

It goes on while the machine is asleep, too, if the system has ``CLOCK_BOOTTIME``.
"""
