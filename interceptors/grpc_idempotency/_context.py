"""The recording context: what a handler sees in place of the live one.

A handler may outlive its call (4.4), and the live context then crashes the process or raises; and whatever it sets has
to be stored before it is sent (4.1). So all that a handler may ask was taken from the live context when the call came
in, and all that it says is only recorded. The interceptor's outermost coroutine alone touches the live context.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio

from grpc_idempotency.principals import Caller
from grpc_idempotency.records import Code, Outcome, Trailers

_CODES: Mapping[Any, Code] = {code: Code(code.value[0]) for code in grpc.StatusCode} | {int(c): c for c in Code}
GRPC_CODES: Mapping[Code, grpc.StatusCode] = {Code(code.value[0]): code for code in grpc.StatusCode}

INTERNAL_ERROR = "internal error"
"""All that a client gets to read of an exception (4.7)."""


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
            method=method, metadata=metadata, peer="", peer_identity_key=None, peer_identities=(), auth_context={}
        )
        return snapshot


class Recorder:
    """What both kinds of recording context share: everything but ``abort`` and the reading and writing of streams."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._code: Code = Code.OK
        self._details = ""
        self._trailers: Trailers = ()
        self._aborted: BaseException | None = None
        self._callbacks: list[Callable[[Any], None]] = []
        self._done = False
        self.initial_metadata: Sequence[tuple[str, str | bytes]] | None = None
        """What the handler wants sent ahead; for the first call alone."""
        self.compression: grpc.Compression | None = None

    # For the interceptor

    @property
    def succeeds(self) -> bool:
        """Whether the handler's answer, if it comes now, has the status OK."""
        return self._code is Code.OK

    def answer(self, message: bytes | None, *, streams: bool = False) -> Outcome:
        """What the call's outcome is if the handler ends now, having sent ``message``."""
        return self._outcome(self._code, message if streams or self.succeeds else None)

    def failure(self, message: bytes | None) -> Outcome:
        """What a client gets to see when the handler raised: as gRPC does it, less the exception's text."""
        if self._aborted is not None:
            return self._outcome(self._code, message)
        self._details = INTERNAL_ERROR
        return self._outcome(Code.UNKNOWN if self.succeeds else self._code, message)

    @property
    def aborted(self) -> bool:
        """Whether the handler has aborted; an abort that it swallowed counts all the same."""
        return self._aborted is not None

    def raise_aborted(self) -> None:
        """Nothing is sent behind an abort, also where the handler has swallowed it and goes on."""
        if self._aborted is not None:
            raise self._aborted

    def finish(self) -> list[Callable[[Any], None]]:
        """The handler has ended: the callbacks that wait for that, once."""
        self._done = True
        callbacks, self._callbacks = self._callbacks, []
        return callbacks

    def _outcome(self, status: Code, message: bytes | None) -> Outcome:
        return Outcome(status=status, message=message, details=self._details, trailers=self._trailers)

    def _abort(self, error: BaseException, code: Any, details: str, trailing_metadata: Any) -> NoReturn:
        if self._aborted is not None:
            raise grpc.aio.UsageError("Abort already called!")
        self._code = code_of(failure_code(code))
        self._details = _text(details) or self._details
        self._trailers = _trailers_of(trailing_metadata) or self._trailers
        self._aborted = error
        raise error

    # For the handler: what it may set

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailers = _trailers_of(trailing_metadata)

    def set_code(self, code: Any) -> None:
        self._code = code_of(code)

    def set_details(self, details: Any) -> None:
        self._details = _text(details)

    def set_compression(self, compression: grpc.Compression) -> None:
        self.compression = compression

    def disable_next_message_compression(self) -> None:
        self.compression = grpc.Compression.NoCompression

    # For the handler: what it may ask

    def trailing_metadata(self) -> Any:
        return self._trailers

    def code(self) -> Any:
        return GRPC_CODES[self._code]

    def invocation_metadata(self) -> Any:
        return self._snapshot.caller.metadata

    def peer(self) -> str:
        return self._snapshot.caller.peer

    def peer_identities(self) -> Iterable[bytes] | None:
        return self._snapshot.caller.peer_identities or None

    def peer_identity_key(self) -> str | None:
        return self._snapshot.caller.peer_identity_key

    def auth_context(self) -> Mapping[str, Any]:
        return self._snapshot.caller.auth_context

    def time_remaining(self) -> Any:
        deadline = self._snapshot.deadline
        return None if deadline is None else max(0.0, deadline - time.monotonic())


class AioContext(Recorder, grpc.aio.ServicerContext[Any, Any]):
    """The recording context of an ``async def`` handler.

    ``requests`` is the stream of requests for a handler that reads it, ``write`` what takes the messages of one that
    writes.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        requests: Iterator[Any] | None = None,
        write: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(snapshot)
        self._requests = requests
        self._write = write

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        self._abort(grpc.aio.AbortError("Locally aborted."), code, details, trailing_metadata)

    async def abort_with_status(self, status: Any) -> NoReturn:
        self._abort(grpc.aio.AbortError("Locally aborted."), status.code, status.details, status.trailing_metadata)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        self.initial_metadata = tuple(initial_metadata)

    async def read(self) -> Any:
        if self._requests is None:
            raise grpc.aio.UsageError("This call has no stream to read from.")
        return next(self._requests, grpc.aio.EOF)

    async def write(self, message: Any) -> None:
        if self._write is None:
            raise grpc.aio.UsageError("This call has no stream to write to.")
        await self._write(message)

    def details(self) -> str:
        return self._details

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        return False  # its execution goes on whatever becomes of the call

    def done(self) -> bool:
        return self._done


class ThreadContext(Recorder, grpc.ServicerContext):
    """The recording context of a plain ``def`` handler."""

    def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any = ()) -> NoReturn:
        self._abort(grpc.aio.AbortError("Locally aborted."), code, details, trailing_metadata)

    def abort_with_status(self, status: Any) -> NoReturn:
        self._abort(grpc.aio.AbortError("Locally aborted."), status.code, status.details, status.trailing_metadata)

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        self.initial_metadata = tuple(initial_metadata)

    def details(self) -> Any:
        return self._details.encode()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self._done:
            return False
        self._callbacks.append(lambda _context: callback())
        return True

    def is_active(self) -> bool:
        return not self._done

    def cancel(self) -> bool:
        """Does nothing, and says so: an execution is not cancelled from inside; use ``abort``."""
        return False

    @property
    def _state(self) -> "_State":
        """What py-grpc-prometheus, inside of ours, looks up in grpc's own context to count calls by their status."""
        return _State(code=None if self.succeeds else self.code())


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    code: grpc.StatusCode | None
    client: str = "open"


def code_of(code: Any) -> Code:
    """A status code as gRPC's functions take it, a ``grpc.StatusCode`` or its number."""
    try:
        return _CODES[code]
    except (KeyError, TypeError):
        raise ValueError(f"{code!r} is not a status code of gRPC") from None


def failure_code(code: Any) -> Any:
    """The code, if it is one that a handler may abort with."""
    if code_of(code) is Code.OK:
        raise ValueError("abort() with OK: return a message instead")
    return code


def _text(details: Any) -> str:
    """A status message that can be sent: what is no text in UTF-8 must not cost an operation its outcome."""
    return (
        details.decode(errors="replace")
        if isinstance(details, bytes)
        else str(details).encode(errors="replace").decode()
    )


def _trailers_of(metadata: Any) -> Trailers:
    return tuple((str(name), value) for name, value in metadata or ())
