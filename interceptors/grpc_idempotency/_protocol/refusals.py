"""The table of refusals (2.3): every reason with its status, its message and its details.

The reasons are in the order in which they are checked. A message's variables are also the metadata of its
``google.rpc.ErrorInfo``. The raw key is never among them.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from grpc_idempotency.records import Code

DOMAIN = "grpc-idempotency"
"""The domain of every ErrorInfo."""


class _Row(NamedTuple):
    status: Code
    message: str
    bad_request: bool = False
    """True if a BadRequest names the field, which is in the variable ``field``."""


class Reason(enum.Enum):
    """Why a keyed call was refused: the reasons of the table in 2.3, in its order."""

    KEY_INVALID = _Row(
        Code.INVALID_ARGUMENT,
        "The idempotency key in '{field}' can't be used: {problem}. Send one key of 1 to 255 printable ASCII "
        "characters with no space at its ends.",
        bad_request=True,
    )
    KEY_REQUIRED = _Row(
        Code.INVALID_ARGUMENT,
        "{method} asks for an idempotency key, and none came. Send one in the metadata '{field}': a new key for each "
        "operation, the same key with each retry of it.",
        bad_request=True,
    )
    PRINCIPAL_REQUIRED = _Row(
        Code.UNAUTHENTICATED,
        "{method} was called with an idempotency key by a caller who could not be identified, and a key belongs to "
        "its caller. Authenticate, then send the call again with the same key.",
    )
    STREAMING_UNSUPPORTED = _Row(
        Code.UNIMPLEMENTED,
        "{method} is a bidirectional stream, which can't be called with an idempotency key here. Call it without one.",
    )
    STREAM_LENGTH_REQUIRED = _Row(
        Code.INVALID_ARGUMENT,
        "{method} takes a stream of messages, and with an idempotency key their number has to be announced, since a "
        "stream that was cut off looks like one that has ended. Send it in the metadata '{field}': {problem}.",
        bad_request=True,
    )
    STREAM_TRUNCATED = _Row(
        Code.CANCELLED,
        "Only {received} of the {announced} messages that were announced to {method} have come, so nothing was "
        "executed. Send the whole stream again with the same key.",
    )
    STORE_UNAVAILABLE = _Row(
        Code.UNAVAILABLE,
        "The store of idempotency records can't be used just now. {effect}. Retry with the same key.",
    )
    KEY_REUSED = _Row(
        Code.FAILED_PRECONDITION,
        "This idempotency key belongs to another request to {method}. Use a new key for a new request; a retry "
        "repeats its first request unchanged.",
    )
    OUTCOME_UNKNOWN = _Row(
        Code.FAILED_PRECONDITION,
        "Nobody can know whether the operation of this idempotency key took effect: {cause}. It is held and will not "
        "run again by itself. An operator can find out what it did and then say that it completed, or that it never "
        "happened, with 'grpc-idempotency resolve STORE {operation}'.",
    )
    RESPONSE_NOT_RETAINED = _Row(
        Code.FAILED_PRECONDITION,
        "The operation of this idempotency key ended with {status} at {created}. {cause}, so that its answer can't be "
        "replayed. Read its result another way; do not repeat it under a new key.",
    )
    IN_FLIGHT = _Row(
        Code.UNAVAILABLE,
        "The operation of this idempotency key is still running, and this call has waited as long as it may. Retry "
        "with the same key in {retry_after_ms} ms.",
    )

    def __repr__(self) -> str:
        return f"<Reason.{self.name}>"

    @property
    def status(self) -> Code:
        """The status of a refusal for this reason."""
        return self.value.status


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer by the interceptor, and not by the handler."""

    reason: Reason
    """Why the call was refused."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The variables of the message, which are also the metadata of the ErrorInfo."""
    retry_after: timedelta | None = None
    """The delay after which to retry, sent as RetryInfo; ``None`` if there is none."""
    push_back: bool = False
    """True if ``retry_after`` is also sent to gRPC's own retries (``grpc-retry-pushback-ms``)."""

    @property
    def message(self) -> str:
        """The status message: what happened, and what to do."""
        return str(self.reason.value.message.format_map(self.variables))
