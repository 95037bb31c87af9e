"""The recording contexts of ``grpc.aio``: for a handler in the loop, and for a ``def`` handler on a thread.

gRPC's own context has an interface for each of the two. In ``grpc.aio`` an abort is final: it sends the status, and
what the handler sets after that has no effect.
"""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio

from grpc_idempotency._server.context import Recorder
from grpc_idempotency._wire.codes import CODES
from grpc_idempotency._wire.sendable import aio_trailers, sendable
from grpc_idempotency.records import Code, Trailers


def code_of(code: Any) -> Code:
    """Returns the status that grpc.aio sends for a code.

    A code may be a ``grpc.StatusCode``, or its number up to 15. Any other value becomes UNKNOWN.
    """
    if isinstance(code, int):
        return Code(code) if Code.OK <= code <= Code.DATA_LOSS else Code.UNKNOWN
    try:
        return CODES.get(code, Code.UNKNOWN)
    except TypeError:  # the value can't be hashed
        return Code.UNKNOWN


def failure_code(code: Any) -> Any:
    """Returns the code, if a handler may abort with it. With OK, grpc.aio would leave the client without an answer.

    Raises:
        ValueError: The code is OK.
    """
    if code_of(code) is Code.OK:
        raise ValueError("abort() with OK: return a message instead")
    return code


def _check_details(details: Any) -> None:
    """Checks that the details are text that can be sent, or ``None``.

    Raises:
        TypeError: They are neither text nor ``None``.
        UnicodeEncodeError: They can't be encoded.
    """
    if details is not None:
        if not isinstance(details, str):
            raise TypeError(f"a status message is a str, not {type(details).__name__}")
        details.encode()


class _AioRecorder(Recorder):
    """The part that the two recording contexts of grpc.aio share."""

    silent = True
    _code: Any = None
    _status = Code.OK
    _details: str | None = ""
    _trailing: tuple[Any, ...] = ()
    _trailers: Trailers = ()
    _abort_error: BaseException | None = None
    _final: tuple[Code, str | None, Trailers] | None = None
    _begun = False
    """True once initial metadata is sent, by the handler or with the first message."""

    # For the interceptor

    @property
    def succeeds(self) -> bool:
        return self._status is Code.OK and self._final is None

    @property
    def aborted(self) -> bool:
        return self._final is not None

    def sending(self) -> None:
        self._check_open()
        self._begun = True

    def _said(self) -> tuple[Code, str | None, Trailers]:
        return self._final or (self._status, self._details or None, self._trailers)

    def _check_open(self) -> None:
        """Raises the exception of the abort again, if there was one: nothing is sent after an abort.

        The handler may have caught the exception and gone on.
        """
        if self._abort_error is not None:
            raise self._abort_error

    def _abort(self, code: Any, details: str | None, trailing_metadata: Any) -> NoReturn:
        _check_details(details)
        if not isinstance(trailing_metadata, tuple):
            raise TypeError(f"abort() takes a tuple of metadata, not {type(trailing_metadata).__name__}")
        if self._abort_error is not None:
            raise grpc.aio.UsageError("Abort already called!")
        self.silent = False
        status = code_of(failure_code(code))
        if trailing_metadata or not self._trailing:
            self.set_trailing_metadata(trailing_metadata)
        if details != "" or not self._details:
            self.set_details(details)
        self._code, self._status = code, status
        self._final = self._said()
        self._abort_error = grpc.aio.AbortError("Locally aborted.")
        raise self._abort_error

    def _send_initial_metadata(self, initial_metadata: Any) -> None:
        self._check_open()
        if self._begun:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self.initial_metadata = sendable(tuple(initial_metadata))
        self._begun = True

    # For the handler

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self.silent = False
        entries = aio_trailers(trailing_metadata)
        self._trailers = sendable(entries)
        self._trailing = entries

    def set_code(self, code: Any) -> None:
        self.silent = False
        self._code, self._status = code, code_of(code)

    def set_details(self, details: Any) -> None:
        _check_details(details)
        self.silent = False
        self._details = details

    def set_compression(self, compression: Any) -> None:
        if self._begun:
            raise RuntimeError("Compression setting must be specified before sending initial metadata")
        super().set_compression(compression)

    def trailing_metadata(self) -> Any:
        return self._trailing

    def code(self) -> Any:
        return self._code

    def details(self) -> Any:
        return self._details


class AioContext(_AioRecorder, grpc.aio.ServicerContext[Any, Any]):
    """The recording context of an ``async def`` handler."""

    requests: Iterator[Any] | None = None
    """The request messages, for a handler that reads them from the context."""
    emit: Callable[[Any], Awaitable[None]] | None = None
    """Called with each message of a handler that writes them to the context."""

    async def abort(self, code: Any, details: Any = "", trailing_metadata: Any = ()) -> NoReturn:
        self._abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: Any) -> NoReturn:
        self._abort(status.code, status.details, status.trailing_metadata)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._send_initial_metadata(initial_metadata)

    async def read(self) -> Any:
        self._check_open()
        if self.requests is None:
            raise grpc.aio.UsageError("This call has no stream to read from.")
        return next(self.requests, grpc.aio.EOF)

    async def write(self, message: Any) -> None:
        if self.emit is None:
            raise grpc.aio.UsageError("This call has no stream to write to.")
        await self.emit(message)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks += (partial(callback, self),)

    def cancelled(self) -> bool:
        """True if the status is CANCELLED, as in gRPC's own. The end of the call does not cancel the execution."""
        return self._status is Code.CANCELLED

    def done(self) -> bool:
        return self.ended or self.aborted


class AioThreadContext(_AioRecorder, grpc.ServicerContext):
    """The recording context of a ``def`` handler on ``grpc.aio``.

    gRPC's own has no ``code``, ``details``, ``trailing_metadata``, ``abort_with_status``, ``is_active`` and ``cancel``.
    """

    def abort(self, code: Any, details: Any = "", trailing_metadata: Any = ()) -> NoReturn:
        self._abort(code, details, trailing_metadata)

    def abort_with_status(self, status: Any) -> NoReturn:
        self._abort(status.code, status.details, status.trailing_metadata)

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._send_initial_metadata(initial_metadata)

    def add_callback(self, callback: Callable[[], None]) -> Any:
        self.callbacks += (callback,)

    def is_active(self) -> bool:
        return not (self.ended or self.aborted)

    def cancel(self) -> bool:
        """Does nothing, and returns False: an execution can't be cancelled from inside. Use ``abort`` instead."""
        return False
