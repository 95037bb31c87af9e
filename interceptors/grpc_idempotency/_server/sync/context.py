"""The recording context of ``grpc.server``.

In ``grpc.server`` an abort is not final: it sets code and details and raises. A handler that catches the exception may
set others.
"""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import grpc

from grpc_idempotency._server.context import Recorder, Snapshot
from grpc_idempotency._wire.codes import CODES
from grpc_idempotency._wire.sendable import sync_trailers, text_of
from grpc_idempotency.records import Code, Trailers

_NO_DEADLINE = float(1 << 63)
"""The seconds that gRPC gives as the remaining time of a call without a deadline."""


def code_of(code: Any) -> Code:
    """Returns the status that grpc.server sends for a code.

    ``None`` becomes OK. A value that is no ``grpc.StatusCode``, such as a number, becomes UNKNOWN.
    """
    if code is None:
        return Code.OK
    try:
        return CODES.get(code, Code.UNKNOWN)
    except TypeError:  # the value can't be hashed
        return Code.UNKNOWN


class _State:
    """The attributes of the ``_state`` in gRPC's own context that published wrappers read, and some of them set."""

    code: Any = None
    details: Any = None
    trailing_metadata: Any = None
    aborted = False
    client = "open"
    statused = False
    initial_metadata_allowed = True

    _condition: threading.Condition | None = None

    @property
    def condition(self) -> threading.Condition:
        """The lock that guards the other attributes; made when it is first asked for."""
        if self._condition is None:
            self._condition = threading.Condition()
        return self._condition


class _CallDetails(NamedTuple):
    method: bytes
    host: bytes
    deadline: float


class _RpcEvent(NamedTuple):
    call_details: _CallDetails
    invocation_metadata: Any


class ThreadContext(Recorder, grpc.ServicerContext):
    """The recording context of a handler on ``grpc.server``."""

    _UNSERIALIZABLE = Code.INTERNAL, "Failed to serialize response!"

    _checked: tuple[object, Trailers] = (None, ())
    """The trailing metadata that was set last, and the form in which it is sent."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self._state = _State()

    # For the interceptor

    @property
    def silent(self) -> bool:  # type: ignore[override]  # wrappers set the attributes of _state
        state = self._state
        return (
            state.code is None and state.details is None and state.trailing_metadata is None and state.client == "open"
        )

    @property
    def succeeds(self) -> bool:
        return code_of(self._state.code) is Code.OK and not self._cancelled

    @property
    def aborted(self) -> bool:
        return self._state.aborted or self._cancelled

    def sending(self) -> None:
        self._check_open()
        self._state.initial_metadata_allowed = False

    def answered(self) -> None:
        """Notes that nothing of what the handler sets counts any more."""
        self._state.statused = True

    def _said(self) -> tuple[Code, str | None, Trailers]:
        if self._cancelled:
            return Code.CANCELLED, Code.CANCELLED.name, ()
        state = self._state
        return code_of(state.code), None if state.details is None else text_of(state.details), self._trailers()

    def _trailers(self) -> Trailers:
        """Returns the trailing metadata as it is sent. Checks it again if it may have changed since it was set."""
        given = self._state.trailing_metadata
        seen, trailers = self._checked
        if given is seen and (given is None or type(given) is tuple):
            return trailers
        try:
            return sync_trailers(given)
        except (TypeError, ValueError):
            self._state.trailing_metadata = None  # so that the failure can be answered without it
            self._checked = (None, ())
            raise

    @property
    def _cancelled(self) -> bool:
        return self._state.client == "cancelled"

    def _check_open(self) -> None:
        if self._cancelled:
            raise grpc.RpcError

    # For the handler

    def abort(self, code: Any, details: Any) -> NoReturn:
        if code == grpc.StatusCode.OK:
            code, details = grpc.StatusCode.UNKNOWN, ""
        self.set_code(code)
        self.set_details(details)
        self._state.aborted = True
        raise Exception  # the same as gRPC's own, since wrappers recognise an abort by it

    def abort_with_status(self, status: Any) -> NoReturn:
        self.set_trailing_metadata(status.trailing_metadata)
        self.abort(status.code, status.details)

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._check_open()
        if not self._state.initial_metadata_allowed:
            raise ValueError("Initial metadata no longer allowed!")
        self.initial_metadata = sync_trailers(initial_metadata)
        self._state.initial_metadata_allowed = False

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._checked = (trailing_metadata, sync_trailers(trailing_metadata))
        self._state.trailing_metadata = trailing_metadata

    def set_code(self, code: Any) -> None:
        self._state.code = code

    def set_details(self, details: Any) -> None:
        self._state.details = details if isinstance(details, bytes) else details.encode()

    def trailing_metadata(self) -> Any:
        return self._state.trailing_metadata

    def code(self) -> Any:
        return self._state.code

    def details(self) -> Any:
        return self._state.details

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self.ended:
            return False
        self.callbacks += (callback,)
        return True

    def is_active(self) -> bool:
        return not (self.ended or self._cancelled)

    def cancel(self) -> Any:
        """Makes CANCELLED the status of the call, however its handler ends."""
        self._state.client = "cancelled"

    def time_remaining(self) -> float:
        remaining: float | None = super().time_remaining()
        return _NO_DEADLINE if remaining is None else remaining

    @property
    def _rpc_event(self) -> _RpcEvent:
        """The attribute of gRPC's own context in which published wrappers look up the call's method."""
        caller = self._snapshot.caller
        deadline = self._snapshot.deadline
        details = _CallDetails(caller.method.encode(), b"", _NO_DEADLINE if deadline is None else deadline)
        return _RpcEvent(details, caller.metadata)
