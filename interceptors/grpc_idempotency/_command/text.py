"""Times, durations and foreign text as an operator reads and writes them."""

import argparse
import re
from datetime import datetime, timedelta, timezone

from grpc_idempotency._checks import LONGEST

_DURATION = re.compile(r"([0-9]{1,10})([smhd]?)\Z")
_HOUR = 3600
_UNITS = {"s": 1, "m": 60, "h": _HOUR, "d": 86400}


def plain(value: object) -> str:
    """Returns a value as text on one line. Control characters are escaped, since details and names come from others."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def iso(value: datetime | None) -> str | None:
    """Returns a time as RFC 3339 writes it, in UTC to the second."""
    return None if value is None else value.astimezone(timezone.utc).isoformat(timespec="seconds")


def instant(value: datetime) -> str:
    """Returns a time for people, in UTC to the second."""
    return f"{value.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}Z"


def now() -> datetime:
    """Returns the time of this host."""
    return datetime.now(timezone.utc)


def age(since: datetime, at: datetime) -> str:
    """Returns the time between two instants in its largest unit, as ``3m``. A clock that is behind counts as 0."""
    seconds = max(0, int((at - since).total_seconds()))
    unit, size = next((unit, size) for unit, size in reversed(_UNITS.items()) if seconds >= size or size == 1)
    return f"{seconds // size}{unit}"


def duration(value: str) -> timedelta:
    """Reads a duration: ``90``, ``90s``, ``15m``, ``6h`` or ``2d``. For argparse.

    Raises:
        ArgumentTypeError: The value is something else, zero, or longer than a hundred years.
    """
    match = _DURATION.match(value)
    seconds = int(match[1]) * _UNITS[match[2] or "s"] if match else 0
    if not 0 < seconds <= LONGEST.total_seconds():
        raise argparse.ArgumentTypeError(
            f"must be whole seconds from 1 to {int(LONGEST.total_seconds())}, or a number with a unit, as 15m, 6h or 2d"
        )
    return timedelta(seconds=seconds)


def count(value: str) -> int:
    """Reads a number of 1 or more. For argparse.

    Raises:
        ArgumentTypeError: The value is something else.
    """
    if not (value.isdecimal() and value.isascii() and len(value) <= 9 and int(value) > 0):
        raise argparse.ArgumentTypeError("must be a whole number of 1 or more")
    return int(value)


def seconds(value: str) -> float:
    """Reads a pause of up to an hour. For argparse.

    Raises:
        ArgumentTypeError: The value is something else.
    """
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not 0 < found <= _HOUR:
        raise argparse.ArgumentTypeError("must be a number of seconds, more than 0 and at most 3600")
    return found
