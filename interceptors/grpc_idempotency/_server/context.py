"""The recording context, which a keyed handler gets in place of the live one.

A handler may outlive its call (4.4), and the live context then raises or crashes the process. And what the handler sets
must be stored before it is sent (4.1). So the values that a handler may ask for are taken from the live context when
the call comes in, and what it sets is only recorded. Only the exchange of the call touches the live context.

Getters, setters, exceptions and the order of effects are those of gRPC's own contexts, which differ between the kinds
of server: see `aio.context` and `sync.context`.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import grpc
import grpc.aio

from grpc_idempotency.principals import Caller
from grpc_idempotency.records import Code, Outcome, Trailers

INTERNAL_ERROR = "internal error"
"""The only text of an exception that a client sees (4.7)."""


class Metadatum(NamedTuple):
    """An entry of invocation metadata, with the same attributes as gRPC's own."""

    key: str
    value: str | bytes


class Snapshot:
    """The values taken from a live context before anything is awaited."""

    __slots__ = ("caller", "deadline")

    def __init__(self, method: str, context: "grpc.aio.ServicerContext[Any, Any] | grpc.ServicerContext") -> None:
        remaining: float | None = context.time_remaining()
        self.deadline = None if remaining is None else time.monotonic() + remaining
        """The call's deadline, in seconds of ``time.monotonic``; ``None``: it has none."""
        identities = context.peer_identities()
        self.caller = Caller(
            method=method,
            metadata=tuple(context.invocation_metadata() or ()),
            peer=context.peer(),
            peer_identity_key=context.peer_identity_key(),
            peer_identities=tuple(identities or ()),
            auth_context=dict[str, Any](context.auth_context()),
        )

    @classmethod
    def of_nobody(cls, method: str, metadata: Trailers) -> "Snapshot":
        """Returns the snapshot for a run without a call (5.4): with the stored metadata, no peer and no deadline."""
        snapshot = cls.__new__(cls)
        snapshot.deadline = None
        snapshot.caller = Caller(
            method=method,
            metadata=tuple(Metadatum(key, value) for key, value in metadata),
            peer="",
            peer_identity_key=None,
            peer_identities=(),
            auth_context={},
        )
        return snapshot


class Recorder:
    """Base class of recording contexts: the getters of the call's values, and the outcome of what the handler set."""

    # Class attributes until they are set: each call makes a context, and few handlers set more than one of these.
    silent = False
    """True if the handler has set neither code nor details nor trailers. False if it may have."""
    ended = False
    """True once the handler has ended."""
    callbacks: tuple[Callable[[], object], ...] = ()
    """The callbacks that the handler added, which are called at its end."""
    initial_metadata: Trailers | None = None
    """The initial metadata that the handler sent. Only the first call gets it."""
    compression: grpc.Compression | None = None

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    # For the interceptor

    @property
    def succeeds(self) -> bool:
        """True if the answer has the status OK if the handler returns now."""
        raise NotImplementedError

    def answer(self, message: bytes | None, *, streams: bool = False) -> Outcome:
        """Returns the outcome of the call if the handler returns now.

        Args:
            message: The serialized reply, or the framed messages of a stream.
            streams: True if the answer is a stream, whose messages are kept with any status.
        """
        status, details, trailers = self._said()
        message = message if streams or status is Code.OK else None
        return Outcome(status=status, message=message, details=details or "", trailers=trailers)

    def failure(self, message: bytes | None, *, unserializable: bool = False) -> Outcome:
        """Returns the outcome if the handler raised: the same as gRPC's, without the text of the exception.

        Args:
            message: The framed messages of a stream that were sent before.
            unserializable: True if the serializer of the response raised.
        """
        status, details, trailers = self._said()
        otherwise, reason = self._UNSERIALIZABLE if unserializable else (Code.UNKNOWN, INTERNAL_ERROR)
        if status is Code.OK:
            status = otherwise
        if details is None and not self.aborted:
            details = reason
        return Outcome(status=status, message=message, details=details or "", trailers=trailers)

    _UNSERIALIZABLE = Code.UNKNOWN, INTERNAL_ERROR
    """The answer to a call whose response could not be serialized."""

    @property
    def aborted(self) -> bool:
        """True if the handler has aborted, even if it caught the exception of the abort."""
        raise NotImplementedError

    def sending(self) -> None:
        """Checks that a message of a stream may be sent. Raises if gRPC would send no message any more."""
        raise NotImplementedError

    def _said(self) -> tuple[Code, str | None, Trailers]:
        """Returns the status, details and trailers that are set now. The details are ``None`` if none were set."""
        raise NotImplementedError

    # For the handler

    def set_compression(self, compression: Any) -> None:
        self.compression = None if compression is None else grpc.Compression(compression)

    def disable_next_message_compression(self) -> None:
        self.compression = grpc.Compression.NoCompression

    def invocation_metadata(self) -> Any:
        return self._snapshot.caller.metadata

    def peer(self) -> str:
        return self._snapshot.caller.peer

    def peer_identities(self) -> Iterable[bytes] | None:
        return list(self._snapshot.caller.peer_identities) or None

    def peer_identity_key(self) -> str | None:
        return self._snapshot.caller.peer_identity_key

    def auth_context(self) -> Mapping[str, Any]:
        return dict(self._snapshot.caller.auth_context)

    def time_remaining(self) -> Any:
        deadline = self._snapshot.deadline
        return None if deadline is None else max(0.0, deadline - time.monotonic())
