"""Fences: 16 random bytes each, that no other claim ever had or gets (4.2).

A call to the system lets other threads run before it is answered. So the bytes are drawn for many fences at once.
"""

import os

_DRAWN = 256

_fences: list[bytes] = []
"""Fences that nobody has had. Appending and popping are atomic."""


def new_fence() -> bytes:
    """Returns 16 random bytes that nobody has had."""
    try:
        return _fences.pop()
    except IndexError:
        drawn = os.urandom(16 * _DRAWN)
        _fences.extend([drawn[at : at + 16] for at in range(16, len(drawn), 16)])
        return drawn[:16]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fences.clear)  # the parent will use them
