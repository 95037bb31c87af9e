"""The library's trailers, and the limit of metadata that a peer accepts."""

from dataclasses import replace

from grpc_idempotency.records import Outcome

STATUS = "idempotency-status"
CREATED = "idempotency-created"
STATUS_DETAILS = "grpc-status-details-bin"
PUSH_BACK = "grpc-retry-pushback-ms"

_OURS = (STATUS, CREATED)


def cap(outcome: Outcome, limit: int) -> tuple[Outcome, int]:
    """Cuts status message and trailers to ``limit`` bytes; returns the outcome and how many bytes were dropped.

    A peer randomly refuses more than 8 KiB of metadata. So an outcome that could be sent only sometimes is changed to
    one that can always be sent, and is always the same. Bytes are counted as peers count them. The status message is
    kept first, then the trailers that still fit, in their order. Trailers with the library's own names are dropped: the
    handler has passed on the answer of another server that keeps keys, and this server's answer gets its own.
    """
    if any(name in _OURS for name, _ in outcome.trailers):
        outcome = replace(outcome, trailers=tuple(entry for entry in outcome.trailers if entry[0] not in _OURS))
    size = _text_size(outcome.details) + sum(map(_entry_size, outcome.trailers))
    if size <= limit:
        return outcome, 0
    details = _cut(outcome.details, limit)
    left = limit - _text_size(details)
    kept: list[tuple[str, str | bytes]] = []
    for entry in outcome.trailers:
        if _entry_size(entry) <= left:
            left -= _entry_size(entry)
            kept.append(entry)
    return replace(outcome, details=details, trailers=tuple(kept)), size - (limit - left)


def _cut(text: str, limit: int) -> str:
    """Returns as many whole characters of the text as fit into ``limit`` bytes."""
    for end, character in enumerate(text):
        limit -= _text_size(character)
        if limit < 0:
            return text[:end]
    return text


def _text_size(text: str) -> int:
    """Returns the bytes of a status message when it is sent: percent-encoded, except printable ASCII."""
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())


_ENTRY_OVERHEAD = 32  # bytes that HTTP/2 counts for each header besides its name and value (RFC 9113, 6.5.2)


def _entry_size(entry: tuple[str, str | bytes]) -> int:
    return len(entry[0]) + len(entry[1]) + _ENTRY_OVERHEAD
