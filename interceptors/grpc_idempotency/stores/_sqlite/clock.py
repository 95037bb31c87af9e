"""The store's clock (4.9): one for all processes on the file, and independent of changes of the wall clock.

A row in the database, the *anchor*, records the store's time at one instant, together with the machine's up-time at
that instant and the id of the boot. The store's time is the anchor's time plus the growth of the up-time since then. So
it goes on while a process, or all of them, are down, and setting the wall clock changes nothing. After a reboot the
wall clock is read once, for a new anchor, which is never before the last known time of the store.

If the machine has no boot id, a reboot is detected by an up-time that is smaller than the anchor's, or by a store time
that is before the last known one. A reboot that neither shows makes the store's time late by the time that the machine
was off: expiry is late by as much, never early, and no lease is live for longer than its length and the few seconds
(``turns.BEAT``) within which the last known time is written.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class RawClock(Protocol):
    """The machine's clocks. Tests have their own."""

    @property
    def wall_ns(self) -> Callable[[], int]:
        """A function that returns the nanoseconds since 1970, by the wall clock."""

    @property
    def uptime_ns(self) -> Callable[[], int]:
        """A function that returns the nanoseconds that the machine has been up, the same for all processes."""

    def boot_id(self) -> str:
        """Returns an id of this boot of the machine; an empty string if the machine has none."""


class MachineClock:
    """The machine's own clocks."""

    wall_ns = staticmethod(time.time_ns)
    if hasattr(time, "CLOCK_BOOTTIME"):
        uptime_ns = staticmethod(functools.partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME))  # includes time asleep
    else:
        uptime_ns = staticmethod(time.monotonic_ns)  # excludes time asleep on some systems

    def boot_id(self) -> str:
        """Returns the kernel's random id of this boot, on Linux."""
        return _read_boot_id()


@functools.cache
def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """The store's time at one instant of one boot."""

    boot_id: str
    uptime_ns: int
    store_ms: int

    def at(self, uptime_ns: int) -> int:
        """Returns the store's time, in milliseconds, at another instant of that boot."""
        return self.store_ms + (uptime_ns - self.uptime_ns) // 1_000_000


class StoreClock:
    """Computes the store's time from an anchor."""

    def __init__(self, raw: RawClock) -> None:
        self._raw = raw
        self.wall_ns = raw.wall_ns
        self.uptime_ns = raw.uptime_ns
        self.offset_ns = 0
        """How far the store's time is ahead of the machine's up-time, in nanoseconds."""

    def start(self, anchor: Anchor | None, last_ms: int) -> Anchor | None:
        """Uses the stored ``anchor`` if it is valid; otherwise makes a new one.

        Args:
            anchor: The stored anchor, if there is one.
            last_ms: The last known time of the store, in milliseconds.

        Returns:
            The new anchor, which has to be stored; ``None`` if the stored one is valid.
        """
        uptime_ns, boot_id = self.uptime_ns(), self._raw.boot_id()
        anew = None
        if anchor is None or anchor.boot_id != boot_id or anchor.at(uptime_ns) < max(anchor.store_ms, last_ms):
            wall_ms = self.wall_ns() // 1_000_000
            anchor = anew = Anchor(boot_id=boot_id, uptime_ns=uptime_ns, store_ms=max(wall_ms, last_ms))
        self.offset_ns = anchor.store_ms * 1_000_000 - anchor.uptime_ns
        return anew

    def now(self) -> int:
        """Returns the store's time in milliseconds."""
        return (self.offset_ns + self.uptime_ns()) // 1_000_000
