"""Checks of what gRPC can send as metadata and as a status message.

gRPC itself checks this late, or never: some values that it accepts from a handler leave the client without an answer,
or end the process. So a recorded answer is checked while its handler can still get the error, before it is stored
(4.7).
"""

import re
from collections.abc import Iterable
from typing import Any

from grpc_idempotency.records import Trailers

_NAME = re.compile(rb"[a-z0-9_.-]+")
_TEXT = re.compile(rb"[ -~]*")
_FATAL = b"grpc-timeout"
"""gRPC aborts the process of a server that sends metadata under this name."""


def sendable(metadata: Iterable[Any]) -> Trailers:
    """Returns the metadata as gRPC sends it: names and texts as ``str``, ``-bin`` values as ``bytes``.

    Raises:
        TypeError: It is not a series of pairs, or a name or value is neither text nor bytes.
        ValueError: A name or a value has characters that can't be sent, or an entry is not a pair.
    """
    return tuple(_entry(name, value) for name, value in metadata)


def _entry(name: Any, value: Any) -> tuple[str, str | bytes]:
    raw = _bytes_of(name)
    if not _NAME.fullmatch(raw) or raw == _FATAL:
        raise ValueError(f"gRPC can't send metadata under the name {name!r}")
    if raw.endswith(b"-bin"):
        if not isinstance(value, bytes):
            raise TypeError(f"the metadata {name!r} takes bytes, not {type(value).__name__}")
        return raw.decode(), bytes(value)
    text = _bytes_of(value)
    if not _TEXT.fullmatch(text):
        raise ValueError(f"gRPC can't send the value of the metadata {name!r}: it is not printable ASCII")
    return raw.decode(), text.decode()


def _bytes_of(text: Any) -> bytes:
    """Encodes a name or a text as gRPC does; ``None`` is empty."""
    if text is None:
        return b""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise TypeError(f"metadata takes text or bytes, not {type(text).__name__}")
    return text.encode()


def aio_trailers(metadata: Any) -> tuple[Any, ...]:
    """Returns the entries of trailing metadata, checked as grpc.aio does it.

    As in grpc.aio, the entries of an iterator are lost, since the check uses them up.
    """
    if not hasattr(metadata, "__iter__") or isinstance(metadata, dict):
        raise TypeError(f"trailing metadata is a series of tuples, not {type(metadata).__name__}")
    for entry in metadata:
        if not _is_pair(entry):
            raise TypeError("trailing metadata is a series of tuples of a str and a str or bytes")
    return tuple(metadata)


def _is_pair(entry: Any) -> bool:
    return (
        isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], str | bytes)
    )


def sync_trailers(metadata: Any) -> Trailers:
    """Returns the trailing metadata of a handler on ``grpc.server``: ``None``, or anything with a length."""
    return () if metadata is None or not len(metadata) else sendable(metadata)


def text_of(details: Any) -> str:
    """Returns the details that a handler on ``grpc.server`` has set, as a client of gRPC reads them."""
    if isinstance(details, str):
        return details
    try:
        return bytes(details).decode()
    except UnicodeDecodeError:
        return bytes(details).decode("latin-1")
