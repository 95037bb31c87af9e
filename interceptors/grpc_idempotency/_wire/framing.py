"""Framing: the messages of a stream as one value, each behind its length in four bytes, big-endian."""

import struct
from collections.abc import Iterable, Iterator

LENGTH = struct.Struct(">I")


def frame(messages: Iterable[bytes]) -> bytes:
    """Joins messages to one value, each behind its length in four bytes."""
    return b"".join(part for message in messages for part in (LENGTH.pack(len(message)), message))


def is_framed(data: bytes) -> bool:
    """Returns whether the bytes are complete messages, each behind its length."""
    at = 0
    while len(data) - at >= LENGTH.size:
        (length,) = LENGTH.unpack_from(data, at)
        at += LENGTH.size + length
    return at == len(data)


def unframe(data: bytes) -> Iterator[bytes]:
    """Yields the messages that :func:`frame` has joined."""
    at = 0
    while at < len(data):
        (length,) = LENGTH.unpack_from(data, at)
        at += LENGTH.size
        yield data[at : at + length]
        at += length
