"""What a handler may ask of the operation that it runs in."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar, overload

from grpc_idempotency._operation.aio import AsyncRunning
from grpc_idempotency._operation.running import Running, current
from grpc_idempotency._operation.sync import SyncRunning
from grpc_idempotency.errors import StepMisuse
from grpc_idempotency.store import Database

T = TypeVar("T")


class _Operation:
    """What operations of both kinds of handlers have in common."""

    __slots__ = ("_running",)

    def __init__(self, running: Running) -> None:
        self._running = running

    @property
    def name(self) -> bytes:
        """16 bytes: the digest that names the operation."""
        return self._running.name

    @property
    def attempt(self) -> int:
        """1 in the first run, more when a run before it was cut short or has failed."""
        return self._running.attempt

    @property
    def principal(self) -> bytes:
        """Whose operation it is, as the scope function named it; the same in a run without its client (5.4)."""
        return self._running.principal


class AsyncOperation(_Operation):
    """The operation as an ``async def`` handler sees it: its name, attempt and principal, and its steps (5.2)."""

    __slots__ = ()
    _running: AsyncRunning

    @overload
    async def step(self, name: str, fn: Callable[[], Awaitable[T]], *, undo: Callable[[T], Any] | None = None) -> T: ...
    @overload
    async def step(self, name: str, fn: Callable[[], T], *, undo: Callable[[T], Any] | None = None) -> T: ...
    @overload
    async def step(
        self,
        name: str,
        fn: Callable[[Database], T],
        *,
        undo: Callable[[Database, T], Any] | None = None,
        transaction: Literal[True],
    ) -> T: ...
    async def step(
        self, name: str, fn: Callable[..., Any], *, undo: Callable[..., Any] | None = None, transaction: bool = False
    ) -> Any:
        """Runs ``fn()`` once in the life of the operation, and answers what it returned in this and every later run.

        The result is kept as bytes, a protobuf message or a JSON value (whose tuples become lists). The handler's own
        steps have to come in the same order in every run; those that it gathers, or leaves to other tasks, may come in
        any. A step ends when the store has answered, also where it is cancelled meanwhile.

        Args:
            name: Tells the step from the operation's others.
            fn: Called without arguments, and awaited where it is to be.
            undo: Called with the step's result, and awaited where it is to be, when the operation fails for good. It
                is tried again when it fails, and has to bear being run twice.
            transaction: Runs the plain function ``fn(db)`` in a transaction, which keeps its rows and the step's result
                together or not at all (5.2). So is it undone, by ``undo(db, result)``.

        Returns:
            What ``fn`` returned in the run in which it was called.

        Raises:
            Exception: Whatever ``fn`` raises.
            StepMisuse: There can't be such a step now, or its result can't be kept.
            FenceRefused: This run has lost its lease, so that ``fn`` is not called, or the result was not kept since
                the operation has another owner.
            StoreUnavailable: The result could not be kept.
        """
        return await self._running.step(name, fn, undo, transaction)


class Operation(_Operation):
    """The operation as a plain ``def`` handler sees it: its name, attempt and principal, and its steps (5.2)."""

    __slots__ = ()
    _running: SyncRunning

    @overload
    def step(self, name: str, fn: Callable[[], T], *, undo: Callable[[T], Any] | None = None) -> T: ...
    @overload
    def step(
        self,
        name: str,
        fn: Callable[[Database], T],
        *,
        undo: Callable[[Database, T], Any] | None = None,
        transaction: Literal[True],
    ) -> T: ...
    def step(
        self, name: str, fn: Callable[..., Any], *, undo: Callable[..., Any] | None = None, transaction: bool = False
    ) -> Any:
        """The same as :meth:`AsyncOperation.step`, blocking; what holds there for tasks holds here for threads."""
        return self._running.step(name, fn, undo, transaction)


def current_operation() -> Operation | None:
    """The operation of the calling ``def`` handler, or of its step.

    Returns:
        The operation; ``None`` in an un-keyed call, outside of handlers, and in a thread that a handler has started.

    Raises:
        StepMisuse: The handler is an ``async def`` one.
    """
    running = current()
    if isinstance(running, AsyncRunning):
        raise StepMisuse("an async def handler's operation is that of grpc_idempotency.aio.current_operation()")
    if not isinstance(running, SyncRunning):
        return None
    operation: Operation = running.handlers or Operation(running)
    running.handlers = operation
    return operation


def current_async_operation() -> AsyncOperation | None:
    """The operation of the calling ``async def`` handler, or of its step.

    Returns:
        The operation; ``None`` in an un-keyed call, outside of handlers, and in a task or thread that a handler has
        started.

    Raises:
        StepMisuse: The handler is a plain ``def`` one.
    """
    running = current()
    if isinstance(running, SyncRunning):
        raise StepMisuse("a plain def handler's operation is that of grpc_idempotency.current_operation()")
    if not isinstance(running, AsyncRunning):
        return None
    operation: AsyncOperation = running.handlers or AsyncOperation(running)
    running.handlers = operation
    return operation
