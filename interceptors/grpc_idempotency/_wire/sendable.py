"""What gRPC can send as metadata and as a status message.

gRPC itself finds out late, or never: some of what it takes from a handler leaves the client without an answer, or ends
the process. A recorded answer has to be refused while its handler can still hear of it, before it is stored (4.7).
"""

import re
from collections.abc import Iterable
from typing import Any

from grpc_idempotency.records import Trailers

_NAME = re.compile(rb"[a-z0-9_.-]+")
_TEXT = re.compile(rb"[ -~]*")
_FATAL = b"grpc-timeout"
"""A server that sends metadata under this name is ended by gRPC itself."""


def sendable(metadata: Iterable[Any]) -> Trailers:
    """The metadata as gRPC sends it: names and texts as ``str``, ``-bin`` values as ``bytes``.

    Raises:
        TypeError: It is no series of pairs, or one of them is neither text nor bytes.
        ValueError: A name or a value has characters that can't be sent, or is no pair.
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
    """As gRPC encodes a name or a text, ``None`` as the empty one."""
    if text is None:
        return b""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise TypeError(f"metadata takes text or bytes, not {type(text).__name__}")
    return text.encode()


def aio_trailers(metadata: Any) -> tuple[Any, ...]:
    """The entries of trailing metadata, checked as grpc.aio does it.

    Like there, the entries of an iterator are lost, since checking has used them up.
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
    """The trailing metadata of a handler on ``grpc.server``, which takes ``None`` and whatever has a length."""
    return () if metadata is None or not len(metadata) else sendable(metadata)


def text_of(details: Any) -> str:
    """A status message as a client of gRPC reads it, of what a handler on ``grpc.server`` has set."""
    if isinstance(details, str):
        return details
    try:
        return bytes(details).decode()
    except UnicodeDecodeError:
        return bytes(details).decode("latin-1")
