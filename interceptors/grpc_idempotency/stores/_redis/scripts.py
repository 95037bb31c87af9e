"""Loads the store's scripts from the folder ``lua``."""

import functools
import hashlib
import importlib.resources
from dataclasses import dataclass

NAMES = (
    "claim",
    "complete",
    "count",
    "forget",
    "hold",
    "methods",
    "names",
    "notes",
    "places",
    "reached",
    "read",
    "record_step",
    "release",
    "renew",
    "standing",
    "steps",
    "sweep",
    "undo",
    "wait",
    "watch",
)
_UNCONFIRMED = ("count", "methods", "names", "notes", "places", "reached", "read", "standing", "steps", "watch")
"""Scripts that change no record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script as the server knows it."""

    text: bytes
    """Its text, with the functions that all scripts share."""
    digest: bytes
    """The name under which the server keeps it: the SHA-1 of its text, in hex."""
    writes: bool
    """True if it can change a record."""


@functools.cache
def script(name: str) -> Script:
    """Returns the script of this name."""
    folder = importlib.resources.files(__package__).joinpath("lua")
    parts = (folder.joinpath(file).read_bytes() for file in ("common.lua", f"{name}.lua"))
    text = b"".join(parts)
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    return Script(text=text, digest=digest, writes=name not in _UNCONFIRMED)
