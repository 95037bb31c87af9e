"""Fences: 16 random bytes each, which no other claim has ever had or will have (4.2).

A system call lets other threads run before it returns. So the bytes are drawn for many fences at once.
"""

import os

_DRAWN = 256

_fences: list[bytes] = []
"""Fences that no claim has had. Appending and popping are atomic."""


def new_fence() -> bytes:
    """Returns 16 random bytes that no claim has had."""
    try:
        return _fences.pop()
    except IndexError:
        drawn = os.urandom(16 * _DRAWN)
        _fences.extend([drawn[at : at + 16] for at in range(16, len(drawn), 16)])
        return drawn[:16]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fences.clear)  # the parent process will use these
