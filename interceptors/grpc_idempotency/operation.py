"""The operation as its handler sees it: name, attempt, principal and steps."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar, overload

from grpc_idempotency._operation.aio import AsyncRunning
from grpc_idempotency._operation.running import Running
from grpc_idempotency._operation.sync import SyncRunning
from grpc_idempotency.errors import StepMisuse
from grpc_idempotency.transactions import Database, running_operation

T = TypeVar("T")


class _Operation:
    """The part of an operation that is the same for both kinds of handlers."""

    __slots__ = ("_running",)

    def __init__(self, running: Running) -> None:
        self._running = running

    @property
    def name(self) -> bytes:
        """The digest that names the operation: 16 bytes."""
        return self._running.name

    @property
    def attempt(self) -> int:
        """The number of this run's claim: 1 in the first run, more after a run that was cut short or failed."""
        return self._running.attempt

    @property
    def principal(self) -> bytes:
        """The principal, as the principal function named it. It is the same in a run without the client (5.4)."""
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
        """Runs ``fn()`` once in the life of the operation, and returns its result in this and every later run.

        The result is kept as bytes, a protobuf message or a JSON value (whose tuples become lists). The handler's own
        steps must come in the same order in every run. Steps that it gathers, or runs in other tasks, may come in any
        order. A step ends when the store has answered, even if it is cancelled meanwhile.

        Args:
            name: The step's name, unique within the operation.
            fn: Called without arguments. An awaitable result is awaited.
            undo: Called with the step's result when the operation fails for good. An awaitable result is awaited. If
                it fails, it is tried again, so it may run twice.
            transaction: ``True`` runs the plain function ``fn(db)`` in a transaction, which commits its rows and the
                step's result together (5.2). Its undo is ``undo(db, result)``, in a transaction too.

        Returns:
            The result of ``fn`` in the run in which it was called.

        Raises:
            Exception: ``fn`` raised it.
            StepMisuse: Such a step is not allowed now, or its result can't be kept.
            FenceRefused: This run has lost its lease, so that ``fn`` was not called; or the result was not kept, since
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
        """Runs ``fn()`` once in the life of the operation, and returns its result in this and every later run.

        It blocks until the store has answered. Otherwise it is the same as :meth:`AsyncOperation.step`, with threads in
        place of tasks.

        Args:
            name: The step's name, unique within the operation.
            fn: Called without arguments.
            undo: Called with the step's result when the operation fails for good. If it fails, it is tried again, so it
                may run twice.
            transaction: ``True`` runs ``fn(db)`` in a transaction, which commits its rows and the step's result
                together (5.2). Its undo is ``undo(db, result)``, in a transaction too.

        Returns:
            The result of ``fn`` in the run in which it was called.

        Raises:
            Exception: ``fn`` raised it.
            StepMisuse: Such a step is not allowed now, or its result can't be kept.
            FenceRefused: This run has lost its lease, or the operation has another owner.
            StoreUnavailable: The result could not be kept.
        """
        return self._running.step(name, fn, undo, transaction)


def current_operation() -> Operation | None:
    """Returns the operation of the calling ``def`` handler, or of its step.

    Returns:
        The operation; ``None`` in an un-keyed call, outside of handlers, and in a thread that a handler has started.

    Raises:
        StepMisuse: The handler is an ``async def`` one.
    """
    running = running_operation()
    if isinstance(running, AsyncRunning):
        raise StepMisuse("an async def handler's operation is that of grpc_idempotency.aio.current_operation()")
    if not isinstance(running, SyncRunning):
        return None
    operation: Operation = running.handlers or Operation(running)
    running.handlers = operation
    return operation


def current_async_operation() -> AsyncOperation | None:
    """Returns the operation of the calling ``async def`` handler, or of its step.

    Returns:
        The operation; ``None`` in an un-keyed call, outside of handlers, and in a task or thread that a handler has
        started.

    Raises:
        StepMisuse: The handler is a plain ``def`` one.
    """
    running = running_operation()
    if isinstance(running, SyncRunning):
        raise StepMisuse("a plain def handler's operation is that of grpc_idempotency.current_operation()")
    if not isinstance(running, AsyncRunning):
        return None
    operation: AsyncOperation = running.handlers or AsyncOperation(running)
    running.handlers = operation
    return operation
