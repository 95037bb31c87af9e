"""What a handler, and a store's transaction, may ask of the operation that they run in."""

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any, ClassVar, Literal, TypeVar, overload

from grpc_idempotency._operation import ambient as _ambient
from grpc_idempotency._operation.scope import enter_scope, scope_of
from grpc_idempotency._operation.steps import Steps, Undo, Unwinding
from grpc_idempotency.errors import FenceRefused, PolicyError, StepMisuse, StoreUnavailable, TransactionMisuse
from grpc_idempotency.records import Outcome, Step
from grpc_idempotency.store import Database

logger = logging.getLogger("grpc_idempotency")
T = TypeVar("T")

_PATIENCE = 10.0
"""Seconds that a run which only unwinds waits for the handler's other tasks or threads to come to their steps."""
_LOOK_EVERY = 1.0
"""Seconds after which a thread that waits for the loop looks whether it is still there."""


class OperationBase:
    """One run of a keyed call: claimed, under a fence, its outcome not yet stored."""

    awaited: ClassVar[bool]
    """Whether it is an ``async def`` handler's."""

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
        answers: Callable[[object], bool] = lambda _: False,
        leased: Callable[[], bool] = lambda: True,
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
        self.answers = answers
        """For the stores: whether a value could be the call's reply."""
        self._leased = leased
        self._transactions: set[object] = set()
        """The handler's own transactions that the store has not answered yet."""

    @property
    def over(self) -> bool:
        """Whether the handler has ended."""
        return self.steps.over

    def end(self) -> None:
        """For the interceptors: the handler has ended. No further step begins; what it left behind has no operation."""
        self.steps.over = True
        self.scope.over = True

    def seal(self, reply: object) -> Outcome:
        """The outcome that the call has if ``reply`` is its reply: serialized, with the status and trailers set so far.

        For a store's ``transaction``: an outcome whose status is not OK must be rolled back, not committed. In a run
        that only undoes there is none: this raises.
        """
        self.steps.check_reply()
        return self._seal(reply)

    def begin_transaction(self, transaction: object) -> None:
        """For the stores: a transaction of the handler's own, no step's, is asked for.

        Nobody may be waiting for its answer when the handler ends: a cancelled one, or one that a task awaits. It may
        commit the outcome all the same, so the operation's end waits for :meth:`end_transaction`.

        Raises:
            TransactionMisuse: The handler has ended already.
        """
        if self.over:
            raise TransactionMisuse(
                "the transaction comes too late: its handler has ended. Await store.transaction before it does"
            )
        self._transactions.add(transaction)

    def end_transaction(self, transaction: object) -> None:
        """For the stores: this transaction is answered."""
        self._transactions.discard(transaction)

    def _ask(self, name: str, undo: Callable[..., Any] | None, transaction: bool, *, beside: bool) -> Step | None:
        if self.committed is not None:
            raise StepMisuse(f"step {name!r} comes too late: the handler's transaction has committed its reply")
        self._check_lease()
        return self.steps.begin(name, None if undo is None else Undo(undo, transaction), beside=beside)

    def _check_lease(self) -> None:
        """Sees to it that a run that another one may have replaced begins nothing any more (4.9)."""
        if not self._leased():
            raise FenceRefused("the operation's lease has run out, so that another run of it may have begun")

    def _is_beside(self, name: str) -> bool:
        """Whether the caller is not the handler itself. Raises :class:`StepMisuse` within a step."""
        holder = _ambient.inherited()
        if holder is None or holder.operation is not self:
            return True
        if holder.within is not None:
            raise StepMisuse(f"step {name!r} can't begin within {holder.within}: a later run would not come to it")
        return not holder.asks

    def _transacting(self) -> Any:
        transaction = getattr(self.store, "transaction", None)
        if transaction is None:
            raise PolicyError(
                f"step(transaction=True) needs a store with transactions; {type(self.store).__name__} has none."
            )
        return transaction


class AsyncOperation(OperationBase):
    """The operation as an ``async def`` handler sees it."""

    awaited = True

    def __init__(self, **known: Any) -> None:
        super().__init__(**known)
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[str, asyncio.Task[Any] | None] = {}
        """The task of each step that runs."""
        self._moved: asyncio.Future[None] | None = None
        """What those wait for who want to hear of a step's beginning or end, or the handler's."""

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

        Raises whatever ``fn`` raises; :class:`~grpc_idempotency.errors.StepMisuse`;
        :class:`~grpc_idempotency.errors.FenceRefused` when this run has lost its lease, before ``fn`` is called; and,
        when the result could not be kept, that or :class:`~grpc_idempotency.errors.StoreUnavailable`.
        """
        known = await self._begin(name, undo, transaction)
        if known is not None:
            return self.steps.finish(known)
        return await self._run(name, fn, transaction)

    async def _begin(self, name: str, undo: Callable[..., Any] | None, transaction: bool) -> Step | None:
        if asyncio.get_running_loop() is not self._loop:
            raise StepMisuse(f"step {name!r} of an async def handler runs in the handler's own event loop alone")
        beside = self._is_beside(name)
        try:
            return self._ask(name, undo, transaction, beside=beside)
        except Unwinding:
            await self._let_others_come(beside)
            raise
        finally:
            self._stir()

    async def _let_others_come(self, beside: bool) -> None:
        """Waits until the handler's other tasks have made known how their finished steps are undone."""
        until = self._loop.time() + _PATIENCE
        while not self.over and self.steps.missing(beside=beside) and (left := until - self._loop.time()) > 0:
            await asyncio.wait((self._next_move(),), timeout=left)

    async def _run(self, name: str, fn: Callable[..., Any], transaction: bool) -> Any:
        self._tasks[name] = asyncio.current_task()
        try:
            with self.scope.child(name).opened():
                return await (self._transact(name, fn) if transaction else self._do(name, fn))
        finally:
            del self._tasks[name]
            self.steps.ended(name)
            self._stir()

    async def _do(self, name: str, fn: Callable[..., Any]) -> Any:
        with _ambient.holding(self, name):
            result = fn()
            step = self.steps.made(name, await result if inspect.isawaitable(result) else result)
        return await _uncut(self._record(step))

    async def _record(self, step: Step) -> Any:
        try:
            kept = await self.store.record_step(self.name, self.fence, step)
        except BaseException:
            self.steps.finish(step)  # it has been done, and perhaps kept: it is undone in either case
            raise
        if not kept:
            raise FenceRefused(_NOT_OURS)
        return self.steps.finish(step)

    async def _transact(self, name: str, fn: Callable[..., Any]) -> Any:
        transaction, kept = self._transacting(), _Kept(self.steps, name)

        async def transact() -> Any:
            with _ambient.holding(self, name):
                await transaction(fn, step=kept)
            return self.steps.finish(kept.step)

        return await _uncut(transact())

    def end(self) -> None:
        """See :meth:`OperationBase.end`."""
        super().end()
        self._stir()

    def end_transaction(self, transaction: object) -> None:
        """See :meth:`OperationBase.end_transaction`; in whatever loop the transaction was awaited."""
        super().end_transaction(transaction)
        if _running_loop() is self._loop:
            self._stir()
        else:
            with suppress(RuntimeError):  # the handler's loop is closed, and nobody waits there
                self._loop.call_soon_threadsafe(self._stir)

    async def rest(self, *, stop: bool = False) -> None:
        """For the interceptors: the handler has ended; waits for the steps and transactions that it has left running.

        What comes of them decides about the operation: a step that ends late has to be undone as the others, and a
        transaction may commit the outcome. ``stop`` cancels the steps, and so does a cancellation of the caller, which
        goes on once they have ended.
        """
        self.end()
        cancelled: asyncio.CancelledError | None = None
        while self._tasks or self._transactions:
            if stop:
                stop = False
                for task in self._tasks.values():
                    assert task is not None
                    task.cancel()
            try:
                await asyncio.wait((self._next_move(),))
            except asyncio.CancelledError as exc:
                cancelled, stop = exc, True
        if cancelled is not None:
            raise cancelled

    def _next_move(self) -> "asyncio.Future[None]":
        if self._moved is None:
            self._moved = self._loop.create_future()
        return self._moved

    def _stir(self) -> None:
        if self._moved is not None:
            self._moved.set_result(None)
            self._moved = None

    async def unwind(self) -> str | None:
        """For the interceptors: undoes the finished steps, the last first; why it could not, or ``None``."""
        try:
            self.steps.learn(await self.store.steps(self.name))
            for name, undo, result in self.steps.to_undo():
                self._check_lease()
                self.steps.begin_undo(name)
                await self._run(name, _undoing(undo, result), undo.transaction)
        except (FenceRefused, asyncio.CancelledError):
            raise
        except BaseException as exc:  # whatever it is, it must not end the operation's own task
            return _trouble(self.method, exc)
        return None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # this thread has none
        return None


async def _uncut(work: Coroutine[Any, Any, T]) -> T:
    """Awaits it to its end, also where the caller is cancelled meanwhile: the cancellation goes on after that.

    It has a task of its own, since a cancellation goes down to whatever future a task waits for.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()


class Operation(OperationBase):
    """The operation as a plain ``def`` handler sees it."""

    awaited = False

    def __init__(
        self,
        *,
        wait: Callable[[Any], Any] = lambda reply: reply,
        loop: asyncio.AbstractEventLoop | None = None,
        **known: Any,
    ) -> None:
        super().__init__(**known)
        self._wait = wait
        """Waits for what the store answers: on an asyncio server its calls are awaited in its ``loop``."""
        self._loop = loop
        self._moved = threading.Condition(threading.Lock())
        """Guards the steps; notified when one begins or ends, or the handler does."""

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
        known = self._begin(name, undo, transaction)
        if known is not None:
            return self._finish(known)
        return self._run(name, fn, transaction)

    def _begin(self, name: str, undo: Callable[..., Any] | None, transaction: bool) -> Step | None:
        if self._loop is not None and _running_loop() is self._loop:
            raise StepMisuse(f"step {name!r} of a plain def handler would block the server's event loop")
        beside = self._is_beside(name)
        with self._moved:
            try:
                return self._ask(name, undo, transaction, beside=beside)
            except Unwinding:
                # The handler's other threads may still make known how their finished steps are undone.
                self._moved.wait_for(lambda: self.over or not self.steps.missing(beside=beside), _PATIENCE)
                raise
            finally:
                self._moved.notify_all()

    def _run(self, name: str, fn: Callable[..., Any], transaction: bool) -> Any:
        try:
            with self.scope.child(name).opened(), _ambient.holding(self, name):
                return self._transact(name, fn) if transaction else self._do(name, fn)
        finally:
            with self._moved:
                self.steps.ended(name)
                self._moved.notify_all()

    def _do(self, name: str, fn: Callable[..., Any]) -> Any:
        step = self.steps.made(name, fn())
        try:
            kept = self._wait(self.store.record_step(self.name, self.fence, step))
        except BaseException:
            self._finish(step)  # it has been done, and perhaps kept: it is undone in either case
            raise
        if not kept:
            raise FenceRefused(_NOT_OURS)
        return self._finish(step)

    def _transact(self, name: str, fn: Callable[..., Any]) -> Any:
        kept = _Kept(self.steps, name)
        self._wait(self._transacting()(fn, step=kept))
        return self._finish(kept.step)

    def _finish(self, step: Step) -> Any:
        with self._moved:
            return self.steps.finish(step)

    def end(self) -> None:
        """See :meth:`OperationBase.end`."""
        with self._moved:
            super().end()
            self._moved.notify_all()

    def begin_transaction(self, transaction: object) -> None:
        """See :meth:`OperationBase.begin_transaction`."""
        with self._moved:
            super().begin_transaction(transaction)

    def end_transaction(self, transaction: object) -> None:
        """See :meth:`OperationBase.end_transaction`."""
        with self._moved:
            super().end_transaction(transaction)
            self._moved.notify_all()

    def rest(self) -> None:
        """For the interceptors: the handler has ended; waits for its other threads' steps, and its transactions."""
        self.end()
        with self._moved:
            self._moved.wait_for(lambda: not self.steps.running)
            while self._transactions and not (self._loop is not None and self._loop.is_closed()):
                self._moved.wait(_LOOK_EVERY)

    def unwind(self) -> str | None:
        """For the interceptors: undoes the finished steps, the last first; why it could not, or ``None``."""
        try:
            self.steps.learn(self._wait(self.store.steps(self.name)))
            for name, undo, result in self.steps.to_undo():
                self._check_lease()
                self.steps.begin_undo(name)
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

    def __init__(self, steps: Steps, name: str) -> None:
        self._steps = steps
        self._name = name
        self.step: Step

    def __call__(self, result: object) -> Step:
        self.step = self._steps.made(self._name, result)
        return self.step


_NOT_OURS = "the operation has another owner by now, or has kept a step of this name: nothing was kept"


def _trouble(method: str, error: BaseException) -> str:
    logger.error("an undo of %s failed", method, exc_info=error)
    what = str(error) if isinstance(error, StepMisuse) else f"an undo failed with {type(error).__name__}"
    return f"it has failed and could not be undone: {what}"


def current() -> OperationBase | None:
    """The operation of whichever kind that the caller has: a handler itself or one of its steps (for the stores)."""
    holder = _ambient.held()
    return holder.operation if holder is not None else None


def behind() -> OperationBase | None:
    """The operation of the handler that has started the calling task or thread, while it runs (for the stores)."""
    holder = _ambient.inherited()
    return None if holder is None or holder.operation.over else holder.operation


lend = _ambient.lend


def current_operation() -> Operation | None:
    """The operation of the calling ``def`` handler, or of its step.

    ``None`` in an un-keyed call, outside of handlers, and in a thread that a handler has started.
    """
    operation = current()
    if isinstance(operation, AsyncOperation):
        raise StepMisuse("an async def handler's operation is that of grpc_idempotency.aio.current_operation()")
    return operation if isinstance(operation, Operation) else None


def current_async_operation() -> AsyncOperation | None:
    """The operation of the calling ``async def`` handler, or of its step.

    ``None`` in an un-keyed call, outside of handlers, and in a task or thread that a handler has started.
    """
    operation = current()
    if isinstance(operation, Operation):
        raise StepMisuse("a plain def handler's operation is that of grpc_idempotency.current_operation()")
    return operation if isinstance(operation, AsyncOperation) else None


def enter(operation: OperationBase | None) -> None:
    """Makes the calling task or thread the operation's handler, and its scope that of calls (for the interceptors)."""
    enter_scope(operation.scope if operation is not None else None)
    _ambient.enter(operation)
