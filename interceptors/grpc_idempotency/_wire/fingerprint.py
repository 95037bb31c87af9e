"""The fingerprint of a request (3.2), and the message count of a client-stream (4.8)."""

from collections.abc import Sequence
from hashlib import sha256

from google.protobuf.message import Message

from grpc_idempotency._wire.canonical import canonical, may_hold_any
from grpc_idempotency._wire.digest import add_framed, digester, hashed
from grpc_idempotency._wire.key import Metadata
from grpc_idempotency.records import Fingerprint

MESSAGE_COUNT = "idempotency-message-count"

_LONGEST_COUNT = 18
_MOST_TYPES = 4096
_PLAIN: set[type] = set()
"""Message types in which there can be no ``Any``: their deterministic serialization is their canonical form."""


def fingerprint(
    raw: bytes, message: object, excluded: Sequence[str], secret: bytes | None, digest: bytes | None = None
) -> Fingerprint:
    """Computes the fingerprint of a request (3.2).

    Args:
        raw: The request's bytes, as they came.
        message: The same, as the handler sees it.
        excluded: The fields that may differ between a call and its retry.
        secret: The secret that makes the digests HMACs.
        digest: The digest of ``raw``, if it is known already.
    """
    if digest is None:
        digest = sha256(raw).digest() if secret is None else hashed(raw, secret)
    kind = type(message)
    if excluded or kind not in _PLAIN:
        form = canonical(raw, message, excluded)
        if isinstance(message, Message) and not may_hold_any(message.DESCRIPTOR):
            if len(_PLAIN) >= _MOST_TYPES:
                _PLAIN.clear()
            _PLAIN.add(kind)
    else:
        form = message.SerializePartialToString(deterministic=True)  # type: ignore[attr-defined]  # it is a Message
    if form == raw:
        return Fingerprint(raw=digest, canonical=digest)
    return Fingerprint(raw=digest, canonical=sha256(form).digest() if secret is None else hashed(form, secret))


class StreamFingerprint:
    """Computes the fingerprint of a stream of requests (3.2) while they come, each one behind its length."""

    def __init__(self, secret: bytes | None) -> None:
        self._raw = self._canonical = digester(secret)
        """The same object, until a message's canonical form differs from its bytes."""

    def add(self, raw: bytes, canonical: bytes) -> None:
        """Adds one message."""
        if canonical != raw and self._canonical is self._raw:
            self._canonical = self._raw.copy()
        add_framed(self._raw, raw)
        if self._canonical is not self._raw:
            add_framed(self._canonical, canonical)

    def end(self) -> Fingerprint:
        """Returns the fingerprint of all messages."""
        return Fingerprint(raw=self._raw.digest(), canonical=self._canonical.digest())


class InvalidCount(ValueError):
    """The message count is missing or malformed. The error's text says how."""


def message_count(metadata: Metadata) -> int:
    """Returns how many messages a client-stream has announced (4.8).

    Raises:
        InvalidCount: The count is missing or malformed, or several different ones came.
    """
    values = {value for name, value in metadata if name == MESSAGE_COUNT}
    if not values:
        raise InvalidCount("it did not come")
    value = values.pop()
    if values:
        raise InvalidCount("several values came, and they differ")
    if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _LONGEST_COUNT):
        raise InvalidCount("it has to be a decimal number without a sign")
    return int(value)
