"""The metadata of ours on the way out, and how much metadata a peer takes."""

from dataclasses import replace

from grpc_idempotency.records import Outcome

STATUS = "idempotency-status"
CREATED = "idempotency-created"
REFUSED = "refused"
STATUS_DETAILS = "grpc-status-details-bin"
PUSH_BACK = "grpc-retry-pushback-ms"

_OURS = (STATUS, CREATED)


def cap(outcome: Outcome, limit: int) -> tuple[Outcome, int]:
    """The outcome within ``limit`` bytes of status message and trailers, and how many bytes were dropped for that.

    A peer refuses more than 8 KiB of metadata at random, so that an outcome which could be sent only now and then is
    made one that can always be sent, and always the same. Bytes are counted as peers count them. The status message
    goes first, the trailers that still fit are kept in their order. Those of our own names are dropped: a handler has
    passed on the answer of another server with keys, and this one's answer gets its own.
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
    """As many whole characters of the text as measure no more than the limit."""
    for end, character in enumerate(text):
        limit -= _text_size(character)
        if limit < 0:
            return text[:end]
    return text


def _text_size(text: str) -> int:
    """What a status message measures when it is sent: percent-encoded, but for printable ASCII."""
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())


_ENTRY_OVERHEAD = 32  # bytes that HTTP/2 counts for each header besides its name and value (RFC 9113, 6.5.2)


def _entry_size(entry: tuple[str, str | bytes]) -> int:
    return len(entry[0]) + len(entry[1]) + _ENTRY_OVERHEAD
