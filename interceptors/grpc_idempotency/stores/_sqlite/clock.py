"""The store's clock (4.9): one for all processes on the file, and deaf to jumps of the wall clock.

A row in the database, the *anchor*, says what the store's time was when the machine had been up for so long, and in
which boot of the machine that was. Store time is the anchor's plus what the machine's up-time has grown by since, so it
goes on while a process, or all of them, are down, and setting the wall clock changes nothing. After a reboot the wall
clock is asked once, for a new anchor that is never behind the last time that the store is known to have seen.

Where the machine does not tell its boot's id, a reboot is told from an up-time that is smaller than the anchor's, or
that gives a time before the last known one. A reboot that neither shows makes store time late by the time that the
machine was off: expiry is late by so much, never early, and no lease is live for longer than its length and the few
seconds (``turns.BEAT``) within which the last known time is written.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class RawClock(Protocol):
    """What the machine says of time. Tests have their own."""

    @property
    def wall_ns(self) -> Callable[[], int]:
        """Tells the nanoseconds since 1970, as far as anybody knows."""

    @property
    def uptime_ns(self) -> Callable[[], int]:
        """Tells the nanoseconds that the machine has been up, the same for all processes."""

    def boot_id(self) -> str:
        """A name for this boot of the machine; empty where it has none."""


class MachineClock:
    """The machine's own clocks."""

    wall_ns = staticmethod(time.time_ns)
    if hasattr(time, "CLOCK_BOOTTIME"):
        uptime_ns = staticmethod(functools.partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME))  # time asleep included
    else:
        uptime_ns = staticmethod(time.monotonic_ns)  # on some systems without the time asleep

    def boot_id(self) -> str:
        """The kernel's random id of this boot, on Linux."""
        return _read_boot_id()


@functools.cache
def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What the store's time was at one instant of one boot."""

    boot_id: str
    uptime_ns: int
    store_ms: int

    def at(self, uptime_ns: int) -> int:
        """The store's time at another instant of that boot, in milliseconds."""
        return self.store_ms + (uptime_ns - self.uptime_ns) // 1_000_000


class StoreClock:
    """Tells the store's time from an anchor."""

    def __init__(self, raw: RawClock) -> None:
        self._raw = raw
        self.wall_ns = raw.wall_ns
        self.uptime_ns = raw.uptime_ns
        self.offset_ns = 0
        """How far the store's time is ahead of the machine's up-time."""

    def start(self, anchor: Anchor | None, last_ms: int) -> Anchor | None:
        """Goes by the stored ``anchor`` if it holds; else answers the new one, to be stored.

        ``last_ms`` is the last time that the store is known to have seen.
        """
        uptime_ns, boot_id = self.uptime_ns(), self._raw.boot_id()
        anew = None
        if anchor is None or anchor.boot_id != boot_id or anchor.at(uptime_ns) < max(anchor.store_ms, last_ms):
            wall_ms = self.wall_ns() // 1_000_000
            anchor = anew = Anchor(boot_id=boot_id, uptime_ns=uptime_ns, store_ms=max(wall_ms, last_ms))
        self.offset_ns = anchor.store_ms * 1_000_000 - anchor.uptime_ns
        return anew

    def now(self) -> int:
        """The store's time in milliseconds."""
        return (self.offset_ns + self.uptime_ns()) // 1_000_000
