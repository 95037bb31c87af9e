"""What a handler, and a store's transaction, may ask of the operation that they run in."""

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Literal, TypeVar, overload

from grpc_idempotency._scope import enter_scope, scope_of
from grpc_idempotency._steps import Steps, Undo
from grpc_idempotency.errors import FenceRefused, PolicyError, StepMisuse, StoreUnavailable
from grpc_idempotency.records import Outcome, Step
from grpc_idempotency.store import Database

logger = logging.getLogger("grpc_idempotency")
T = TypeVar("T")

_current: contextvars.ContextVar["OperationBase | None"] = contextvars.ContextVar(
    "grpc_idempotency_operation", default=None
)


class OperationBase:
    """One run of a keyed call: claimed, under a fence, its outcome not yet stored."""

    def __init__(
        self,
        *,
        name: bytes,
        method: str,
        fence: bytes,
        attempt: int,
        principal: bytes,
        store: Any,
        ttl: timedelta,
        steps: Steps,
        seal: Callable[[object], Outcome],
    ) -> None:
        self.name = name
        """16 bytes: the digest that names the operation."""
        self.method = method
        """The full method name, ``/package.Service/Method``."""
        self.fence = fence
        """16 bytes: this run's own fence, given with every write about the operation."""
        self.attempt = attempt
        """1 in the first run, more when a run before it was cut short or has failed."""
        self.principal = principal
        """Whose operation it is, as the scope function named it; the same in a run without its client (5.4)."""
        self.store = store
        """The store that holds the operation's record."""
        self.ttl = ttl
        """How long its outcome will be kept."""
        self.committed: Outcome | None = None
        """The outcome that a transaction of this run has committed, if one has. Set by the store."""
        self.uncommitted: StoreUnavailable | None = None
        """The error with which a transaction of this run could not be committed, if so. Set by the store."""
        self.steps = steps
        """For the interceptors: the steps of this run."""
        self.scope = scope_of(name)
        """Where calls to other services get their keys from, outside of steps (5.3)."""
        self._seal = seal

    def seal(self, reply: object) -> Outcome:
        """The outcome that the call has if ``reply`` is its reply: serialized, with the status and trailers set so far.

        For a store's ``transaction``: an outcome whose status is not OK must be rolled back, not committed. In a run
        that only undoes there is none: this raises.
        """
        self.steps.check_reply()
        return self._seal(reply)

    def _ask(self, name: str, undo: Callable[..., Any] | None, transaction: bool) -> Step | None:
        if self.committed is not None:
            raise StepMisuse(f"step {name!r} comes too late: the handler's transaction has committed its reply")
        return self.steps.ask(name, None if undo is None else Undo(undo, transaction))

    def _transacting(self) -> Any:
        transaction = getattr(self.store, "transaction", None)
        if transaction is None:
            raise PolicyError(
                f"step(transaction=True) needs a store with transactions; {type(self.store).__name__} has none."
            )
        return transaction


class AsyncOperation(OperationBase):
    """The operation as an ``async def`` handler sees it."""

    def __init__(self, **known: Any) -> None:
        super().__init__(**known)
        self._moved = asyncio.Event()

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

        The result is kept as bytes, a protobuf message or a JSON value (whose tuples become lists). Steps have to come
        in the same order in every run, unless they are concurrent, and each has a ``name`` of its own.

        Args:
            name: Tells the step from the operation's others.
            fn: Called without arguments, and awaited where it is to be.
            undo: Called with the step's result, and awaited where it is to be, when the operation fails for good. It
                is tried again when it fails, and has to bear being run twice.
            transaction: Runs the plain function ``fn(db)`` in a transaction, which keeps its rows and the step's result
                together or not at all (5.2). So is it undone, by ``undo(db, result)``.

        Raises whatever ``fn`` raises; :class:`~grpc_idempotency.errors.StepMisuse`; and, when the result could not be
        kept, :class:`~grpc_idempotency.errors.StoreUnavailable` or :class:`~grpc_idempotency.errors.FenceRefused`.
        """
        known = self._ask(name, undo, transaction)
        if known is not None:
            return self.steps.finish(known)
        return await self._run(name, fn, transaction)

    async def _run(self, name: str, fn: Callable[..., Any], transaction: bool) -> Any:
        try:
            step = await self._keep(name, fn, transaction)
            return self.steps.finish(step)
        finally:
            self._moved.set()

    async def _keep(self, name: str, fn: Callable[..., Any], transaction: bool) -> Step:
        with self.steps.running(name) as finished, self.scope.child(name).opened():
            if transaction:
                kept = _Kept(finished)
                await self._transacting()(fn, step=kept)
                return kept.step
            result = fn()
            step = finished(await result if inspect.isawaitable(result) else result)
            if not await self.store.record_step(self.name, self.fence, step):
                raise FenceRefused(_NOT_OURS)
            return step

    async def rest(self) -> None:
        """For the interceptors: the handler has ended; waits for the steps that it has left running.

        What comes of them decides about the operation: one that ends late has to be undone as the others.
        """
        while not self.steps.end():
            self._moved.clear()
            await self._moved.wait()

    async def unwind(self) -> str | None:
        """For the interceptors: undoes the finished steps, the last first; why it could not, or ``None``."""
        try:
            for name, undo, result in self.steps.to_undo():
                await self._run(name, _undoing(undo, result), undo.transaction)
        except (FenceRefused, asyncio.CancelledError):
            raise
        except BaseException as exc:  # whatever it is, it must not end the operation's own task
            return _trouble(self.method, exc)
        return None


class Operation(OperationBase):
    """The operation as a plain ``def`` handler sees it."""

    def __init__(self, *, wait: Callable[[Any], Any] = lambda reply: reply, **known: Any) -> None:
        super().__init__(**known)
        self._wait = wait
        """Waits for what the store answers: on an asyncio server its calls are awaited elsewhere."""

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
        """The same as :meth:`AsyncOperation.step`, blocking."""
        known = self._ask(name, undo, transaction)
        if known is not None:
            return self.steps.finish(known)
        return self._run(name, fn, transaction)

    def _run(self, name: str, fn: Callable[..., Any], transaction: bool) -> Any:
        with self.steps.running(name) as finished, self.scope.child(name).opened():
            if transaction:
                kept = _Kept(finished)
                self._wait(self._transacting()(fn, step=kept))
                step = kept.step
            else:
                step = finished(fn())
                if not self._wait(self.store.record_step(self.name, self.fence, step)):
                    raise FenceRefused(_NOT_OURS)
        return self.steps.finish(step)

    def unwind(self) -> str | None:
        """For the interceptors: undoes the finished steps, the last first; why it could not, or ``None``."""
        try:
            for name, undo, result in self.steps.to_undo():
                self._run(name, _undoing(undo, result), undo.transaction)
        except FenceRefused:
            raise
        except BaseException as exc:  # whatever it is, it must not end the operation's own thread
            return _trouble(self.method, exc)
        return None


def _undoing(undo: Undo, result: object) -> Callable[..., Any]:
    """What undoes a step, to be run as a step itself."""
    return (lambda db: undo.fn(db, result)) if undo.transaction else (lambda: undo.fn(result))


class _Kept:
    """Makes the step of what a transaction's function returned, and remembers it."""

    def __init__(self, finished: Callable[[object], Step]) -> None:
        self._finished = finished
        self.step: Step

    def __call__(self, result: object) -> Step:
        self.step = self._finished(result)
        return self.step


_NOT_OURS = "the operation has another owner by now, or has kept a step of this name: nothing was kept"


def _trouble(method: str, error: BaseException) -> str:
    logger.error("an undo of %s failed", method, exc_info=error)
    what = str(error) if isinstance(error, StepMisuse) else f"an undo failed with {type(error).__name__}"
    return f"it has failed and could not be undone: {what}"


def current() -> OperationBase | None:
    """The operation of whichever kind that the caller runs in (for the stores)."""
    return _current.get()


def current_operation() -> Operation | None:
    """The operation that the calling ``def`` handler runs in; ``None`` in an un-keyed call and outside of handlers."""
    operation = _current.get()
    if isinstance(operation, AsyncOperation):
        raise StepMisuse("an async def handler's operation is that of grpc_idempotency.aio.current_operation()")
    return operation if isinstance(operation, Operation) else None


def current_async_operation() -> AsyncOperation | None:
    """The operation that the calling ``async def`` handler runs in; ``None`` in an un-keyed call and elsewhere."""
    operation = _current.get()
    if isinstance(operation, Operation):
        raise StepMisuse("a plain def handler's operation is that of grpc_idempotency.current_operation()")
    return operation if isinstance(operation, AsyncOperation) else None


def enter(operation: OperationBase | None) -> "contextvars.Token[OperationBase | None]":
    """Makes ``operation`` the current one in this context, and its scope that of calls (for the interceptors)."""
    enter_scope(operation.scope if operation is not None else None)
    return _current.set(operation)
