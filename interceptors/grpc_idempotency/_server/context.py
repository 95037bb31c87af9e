"""The recording context: what a handler sees in place of the live one.

A handler may outlive its call (4.4), and the live context then crashes the process or raises; and whatever it sets has
to be stored before it is sent (4.1). So all that a handler may ask was taken from the live context when the call came
in, and all that it says is only recorded. The interceptor's outermost coroutine alone touches the live context.

Getters, setters, exceptions and the order of effects are those of gRPC's own contexts, which differ between the kinds
of server: `aio.context` and `sync.context`.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import grpc
import grpc.aio

from grpc_idempotency.principals import Caller
from grpc_idempotency.records import Code, Outcome, Trailers

INTERNAL_ERROR = "internal error"
"""All that a client gets to read of an exception (4.7)."""


class Metadatum(NamedTuple):
    """An entry of invocation metadata, of the same shape as gRPC's own."""

    key: str
    value: str | bytes


class Snapshot:
    """What is taken from a live context before anything is awaited."""

    __slots__ = ("caller", "deadline")

    def __init__(self, method: str, context: "grpc.aio.ServicerContext[Any, Any] | grpc.ServicerContext") -> None:
        remaining: float | None = context.time_remaining()
        self.deadline = None if remaining is None else time.monotonic() + remaining
        """On the clock of ``time.monotonic``."""
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
        """For a run without a call (5.4): the metadata that was kept, no peer, no deadline."""
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
    """What all recording contexts share: what a handler may ask of its call, and the outcome of what it said."""

    # Of the class until they are set: each call makes a context, and few handlers set more than one thing.
    silent = False
    """True if the handler has set neither code nor details nor trailers; ``False``: it may have."""
    ended = False
    """True once the handler has ended."""
    callbacks: tuple[Callable[[], object], ...] = ()
    """What the handler has asked to be called at its end."""
    initial_metadata: Trailers | None = None
    """What the handler wants sent ahead; for the first call alone."""
    compression: grpc.Compression | None = None

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    # For the interceptor

    @property
    def succeeds(self) -> bool:
        """Whether the handler's answer, if it comes now, has the status OK."""
        raise NotImplementedError

    def answer(self, message: bytes | None, *, streams: bool = False) -> Outcome:
        """What the call's outcome is if the handler ends now, having sent ``message``."""
        status, details, trailers = self._said()
        message = message if streams or status is Code.OK else None
        return Outcome(status=status, message=message, details=details or "", trailers=trailers)

    def failure(self, message: bytes | None, *, unserializable: bool = False) -> Outcome:
        """What a client gets to see when the handler raised: as gRPC does it, less the exception's text.

        ``unserializable``: it was the serializer of the response that raised.
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
        """Whether the handler has aborted; an abort that it swallowed counts all the same."""
        raise NotImplementedError

    def sending(self) -> None:
        """Called before each message of a stream; raises where gRPC would send none any more."""
        raise NotImplementedError

    def end(self) -> None:
        """The handler has ended."""
        self.ended = True

    def _said(self) -> tuple[Code, str | None, Trailers]:
        """The status, message and trailers of the answer as of now; the message is ``None`` where none was set."""
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
