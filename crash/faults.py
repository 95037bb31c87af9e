"""Faults, each a way in which such a library can be wrong, put into the lab's servers from outside.

The lab's checker has to catch every one of them: that is how we know that it would catch them in the library.
"""

from typing import Any

STORES: dict[str, Any] = {}
FAULTS: dict[str, str] = {}


def patch(fault: str) -> None:
    """What is no fault of the store's."""
