"""The reply to a call, as its client sees it."""

import secrets
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2

KEY = "idempotency-key"
COUNT = "idempotency-message-count"
STATUS = "idempotency-status"
CREATED = "idempotency-created"
PUSH_BACK = "grpc-retry-pushback-ms"
STATUS_DETAILS = "grpc-status-details-bin"

Trailers = tuple[tuple[str, str | bytes], ...]

secrets_told: set[str] = set()
"""Keys and request bodies of the running test: no log line and no refusal may contain one."""


def new_key() -> str:
    """Returns a key that was never used."""
    key = f"key-{secrets.token_hex(8)}"
    secrets_told.add(key)
    return key


def text(value: str) -> StringValue:
    return StringValue(value=value)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """All that a client sees of a finished call, unary or streaming."""

    status: grpc.StatusCode
    messages: tuple[bytes, ...] = ()
    details: str
    trailers: Trailers
    initial: Trailers = ()

    def __post_init__(self) -> None:
        if self.mark == "refused":
            seen = f"{self.details}{self.trailers}"
            assert not [secret for secret in secrets_told if secret in seen], seen

    def trailer(self, name: str) -> str | bytes | None:
        """Returns the only value of a trailer, ``None`` where it is absent."""
        values = [value for key, value in self.trailers if key == name]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def mark(self) -> str | bytes | None:
        """The value of ``idempotency-status``."""
        return self.trailer(STATUS)

    @property
    def message(self) -> bytes | None:
        """The only message; ``None`` where there is none, or a stream of them."""
        return self.messages[0] if len(self.messages) == 1 else None

    @property
    def text(self) -> str:
        """The text of an OK reply's only message."""
        assert self.status is grpc.StatusCode.OK, self
        assert self.message is not None, self
        return StringValue.FromString(self.message).value

    @property
    def texts(self) -> list[str]:
        """The texts of all messages."""
        return [StringValue.FromString(message).value for message in self.messages]

    @property
    def plain(self) -> "Reply":
        """The handler's part: without our trailers, and without the initial metadata, which only a first call gets."""
        theirs = tuple(entry for entry in self.trailers if entry[0] not in (STATUS, CREATED))
        return replace(self, trailers=theirs, initial=())

    @property
    def reason(self) -> str | None:
        """The reason of a refusal; ``None`` where the call was not refused."""
        info = self.detail(error_details_pb2.ErrorInfo)
        return None if info is None else str(info.reason)

    def detail(self, kind: type[Message]) -> Any:
        """Returns the detail of this type in ``grpc-status-details-bin``, ``None`` where there is none."""
        packed = self.trailer(STATUS_DETAILS)
        if packed is None:
            return None
        assert isinstance(packed, bytes)
        for detail in status_pb2.Status.FromString(packed).details:
            found = kind()
            if detail.Unpack(found):
                return found
        return None


def refused(reply: Reply, reason: str, status: grpc.StatusCode) -> None:
    """Asserts that a call was refused for this reason."""
    assert (reply.reason, reply.status, reply.mark) == (reason, status, "refused"), reply
