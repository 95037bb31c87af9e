"""Packs metadata and requests into single values, for stores that keep bytes."""

import struct

from grpc_idempotency.records import StoredRequest, Trailers

_FRAME = struct.Struct(">HI?")
_LENGTH = struct.Struct(">I")


def packed(metadata: Trailers) -> bytes | None:
    """Packs metadata into one value: length-framed, in order. Returns ``None`` if there are none."""
    if not metadata:
        return None
    parts: list[bytes] = []
    for key, value in metadata:
        name, content = key.encode(), value if isinstance(value, bytes) else value.encode()
        parts += (_FRAME.pack(len(name), len(content), isinstance(value, bytes)), name, content)
    return b"".join(parts)


def unpacked(data: bytes | None) -> Trailers:
    """The inverse of :func:`packed`."""
    metadata: list[tuple[str, str | bytes]] = []
    at, end = 0, len(data or b"")
    while data and at < end:
        name_length, length, binary = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        name, at = data[at : at + name_length].decode(), at + name_length
        content, at = data[at : at + length], at + length
        metadata.append((name, content if binary else content.decode()))
    return tuple(metadata)


def packed_request(request: StoredRequest) -> bytes:
    """Packs a request into one value: principal, metadata and messages, each preceded by its length."""
    parts = (request.principal, packed(request.metadata) or b"", *request.messages)
    return b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))


def unpacked_request(data: bytes) -> StoredRequest:
    """The inverse of :func:`packed_request`."""
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        parts.append(data[at : at + length])
        at += length
    principal, metadata, *messages = parts
    return StoredRequest(principal=principal, metadata=unpacked(metadata), messages=tuple(messages))
