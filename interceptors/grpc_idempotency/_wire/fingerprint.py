"""The fingerprint of a request (3.2), and the message count of a client-stream (4.8)."""

from grpc_idempotency._wire.digest import add_framed, digester, hashed
from grpc_idempotency._wire.key import Metadata
from grpc_idempotency.records import Fingerprint

MESSAGE_COUNT = "idempotency-message-count"

_LONGEST_COUNT = 18


def fingerprint(raw: bytes, canonical: bytes, secret: bytes | None, digest: bytes | None = None) -> Fingerprint:
    """Returns the fingerprint of a request (3.2).

    Args:
        raw: The request's bytes as they came.
        canonical: Its canonical form.
        secret: The key that makes the digests HMACs; ``None`` for plain digests.
        digest: The digest of ``raw``, if it is known already.
    """
    digest = digest or hashed(raw, secret)
    return Fingerprint(raw=digest, canonical=digest if canonical == raw else hashed(canonical, secret))


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
