"""What goes over the wire: the key and the fingerprint on the way in; status, details and trailers on the way out."""

import hashlib
import hmac
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from grpc_idempotency._effects import Answer
from grpc_idempotency._refusals import DOMAIN, Refusal
from grpc_idempotency.records import Fingerprint, Outcome, Trailers

if TYPE_CHECKING:
    from google.protobuf.message import Message

STATUS = "idempotency-status"
CREATED = "idempotency-created"
MESSAGE_COUNT = "idempotency-message-count"
REFUSED = "refused"
STATUS_DETAILS = "grpc-status-details-bin"
PUSH_BACK = "grpc-retry-pushback-ms"

_OURS = (STATUS, CREATED)

_LONGEST_KEY = 255
_LONGEST_COUNT = 18

Metadata = Collection[tuple[str, str | bytes]]


# On the way in


class InvalidKey(ValueError):
    """The key breaks 2.1; the text says how, without the key."""


def carries_key(metadata: Metadata | None, headers: Sequence[str]) -> bool:
    """Whether a key came in any of these headers, well-formed or not."""
    return any(name in headers for name, _ in metadata or ())


def find_key(metadata: Metadata, headers: Sequence[str]) -> str | None:
    """The one key that came in any of these headers, unquoted; ``None`` where none came (2.1).

    Raises :class:`InvalidKey` for a malformed key, and for several that differ.
    """
    found: str | None = None
    for name, value in metadata:
        if name in headers:
            key = parse_key(value)
            if found is not None and key != found:
                raise InvalidKey("several values came, and they differ")
            found = key
    return found


def parse_key(value: str | bytes) -> str:
    """One key as a header or a ``request_id`` carries it: a string as it is, or quoted as in RFC 8941, 3.3.3."""
    if isinstance(value, bytes):
        raise InvalidKey("it is not text")
    key = _unquote(value) if value.startswith('"') else value
    if not key:
        raise InvalidKey("it is empty")
    if len(key) > _LONGEST_KEY:
        raise InvalidKey(f"it has {len(key)} characters")
    if not (key.isascii() and key.isprintable()):
        raise InvalidKey("it has characters that are not printable ASCII")
    if key[0] == " " or key[-1] == " ":
        raise InvalidKey("it begins or ends with a space")
    return key


def _unquote(value: str) -> str:
    characters = iter(value[1:])
    plain: list[str] = []
    for character in characters:
        if character == '"':
            if next(characters, None) is not None:
                raise InvalidKey("something follows its closing quote")
            return "".join(plain)
        if character == "\\":
            character = next(characters, "")
            if character not in ('"', "\\"):
                raise InvalidKey("a backslash in it escapes neither a quote nor a backslash")
        plain.append(character)
    raise InvalidKey("its closing quote is missing")


def digest_name(principal: bytes, method: str, key: str, secret: bytes | None) -> bytes:
    """The name of an operation (3.1): 16 bytes, from length-framed parts; an HMAC where there is a secret."""
    framed = b"".join(
        len(part).to_bytes(8, "big") + part for part in (b"name", principal, method.encode(), key.encode())
    )
    return _digest(framed, secret)[:16]


def fingerprint(raw: bytes, canonical: bytes, secret: bytes | None) -> Fingerprint:
    """The fingerprint of a request (3.2)."""
    digest = _digest(raw, secret)
    return Fingerprint(raw=digest, canonical=digest if canonical == raw else _digest(canonical, secret))


class StreamFingerprint:
    """The fingerprint of a stream of requests (3.2), made while they come: each counts behind its length."""

    def __init__(self, secret: bytes | None) -> None:
        self._raw = self._canonical = _digester(secret)
        """The same one, until a message's canonical form differs from its bytes."""

    def add(self, raw: bytes, canonical: bytes) -> None:
        """One more message."""
        if canonical != raw and self._canonical is self._raw:
            self._canonical = self._raw.copy()
        _add_framed(self._raw, raw)
        if self._canonical is not self._raw:
            _add_framed(self._canonical, canonical)

    def end(self) -> Fingerprint:
        """That of all of them."""
        return Fingerprint(raw=self._raw.digest(), canonical=self._canonical.digest())


class InvalidCount(ValueError):
    """The message count is missing or malformed; the text says how."""


def message_count(metadata: Metadata) -> int:
    """How many messages a client-stream was announced to have (4.8). Raises :class:`InvalidCount`."""
    values = {value for name, value in metadata if name == MESSAGE_COUNT}
    if not values:
        raise InvalidCount("it did not come")
    value = values.pop()
    if values:
        raise InvalidCount("several values came, and they differ")
    if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _LONGEST_COUNT):
        raise InvalidCount("it has to be a decimal number without a sign")
    return int(value)


def _digest(data: bytes, secret: bytes | None) -> bytes:
    if secret is None:
        return hashlib.sha256(data).digest()
    return hmac.digest(secret, data, "sha256")


def _digester(secret: bytes | None) -> Any:
    """A digest that grows."""
    return hashlib.sha256() if secret is None else hmac.new(secret, digestmod="sha256")


def _add_framed(digester: Any, data: bytes) -> None:
    digester.update(len(data).to_bytes(8, "big"))
    digester.update(data)


# On the way out


def reply_to(answer: Answer | Refusal | Outcome) -> Outcome:
    """What is sent: an outcome with the trailers that are ours (2.2).

    A bare outcome is a refusal as gRPC itself would make it, which is in no table of ours.
    """
    if isinstance(answer, Refusal):
        return _refusal_outcome(answer)
    if isinstance(answer, Outcome):
        return replace(answer, trailers=((STATUS, REFUSED),))
    ours: Trailers = ((STATUS, answer.mark.value),)
    if answer.created is not None:
        ours += ((CREATED, rfc3339(answer.created)),)
    told = answer.outcome
    return Outcome(status=told.status, message=told.message, details=told.details, trailers=told.trailers + ours)


def _refusal_outcome(refusal: Refusal) -> Outcome:
    trailers: Trailers = ((STATUS, REFUSED), (STATUS_DETAILS, _details_of(refusal).SerializeToString()))
    if refusal.push_back and refusal.retry_after is not None:
        trailers += ((PUSH_BACK, str(round(refusal.retry_after / timedelta(milliseconds=1)))),)
    return Outcome(status=refusal.reason.status, details=refusal.message, trailers=trailers)


def _details_of(refusal: Refusal) -> status_pb2.Status:
    """The refusal as AIP-193 wants it: an ErrorInfo, and what the table adds to it."""
    info = error_details_pb2.ErrorInfo(reason=refusal.reason.name, domain=DOMAIN, metadata=dict(refusal.variables))
    details: list[Message] = [info]
    if refusal.reason.value.bad_request:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=refusal.variables["field"], description=refusal.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if refusal.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(refusal.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=refusal.reason.status, message=refusal.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def rfc3339(moment: datetime) -> str:
    """An instant in UTC, to the millisecond (RFC 3339)."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
