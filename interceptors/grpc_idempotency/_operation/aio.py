"""The operation of an ``async def`` handler."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from grpc_idempotency._operation import ambient
from grpc_idempotency._operation.running import NOT_OURS, PATIENCE, Kept, Running, trouble, undoing
from grpc_idempotency._operation.steps import Unwinding
from grpc_idempotency.errors import FenceRefused, StepMisuse, StoreUnavailable
from grpc_idempotency.records import Step

T = TypeVar("T")


class AsyncRunning(Running):
    """The operation of an ``async def`` handler."""

    awaited = True
    _loop: asyncio.AbstractEventLoop

    _tasks: dict[str, asyncio.Task[Any] | None] | None = None
    """The task of each running step."""
    _moved: asyncio.Future[None] | None = None
    """Done when the next step or transaction begins or ends, or when the handler ends."""

    async def step(self, name: str, fn: Callable[..., Any], undo: Callable[..., Any] | None, transaction: bool) -> Any:
        """See :meth:`grpc_idempotency.aio.Operation.step`."""
        known = await self._begin(name, undo, transaction)
        if known is not None:
            return self.steps.finish(known)
        return await self._run(name, fn, transaction)

    async def _begin(self, name: str, undo: Callable[..., Any] | None, transaction: bool) -> Step | None:
        if asyncio.get_running_loop() is not self._loop:
            raise StepMisuse(f"step {name!r} of an async def handler runs in the handler's own event loop alone")
        beside = self._is_beside(name)
        if self.claim is not None and self.committed is None:
            self._claiming()
            self._won(await self._calls.claim(self.claim))
        try:
            return self._ask(name, undo, transaction, beside=beside)
        except Unwinding:
            await self._let_others_come(beside)
            raise
        finally:
            self._stir()

    async def _let_others_come(self, beside: bool) -> None:
        """Waits until the handler's other tasks have asked for their finished steps, and so given the undos."""
        until = self._loop.time() + PATIENCE
        while not self.ended and self.steps.missing(beside=beside) and (left := until - self._loop.time()) > 0:
            await asyncio.wait((self._next_move(),), timeout=left)

    async def _run(self, name: str, fn: Callable[..., Any], transaction: bool) -> Any:
        if self._tasks is None:
            self._tasks = {}
        self._tasks[name] = asyncio.current_task()
        try:
            with self.scope.child(name).opened():
                return await (self._transact(name, fn) if transaction else self._do(name, fn))
        finally:
            del self._tasks[name]
            self.steps.ended(name)
            self._stir()

    async def _do(self, name: str, fn: Callable[..., Any]) -> Any:
        with ambient.holding(self, name):
            result = fn()
            step = self.steps.made(name, await result if inspect.isawaitable(result) else result)
        return await _uncut(self._record(step))

    async def _record(self, step: Step) -> Any:
        try:
            kept = await self._calls.record_step(self.name, self.fence, step)
        except BaseException:
            self.steps.finish(step)  # it took effect, and is perhaps kept: it has to be undone in either case
            raise
        if not kept:
            raise FenceRefused(NOT_OURS)
        if self._recorded is not None:
            self._recorded(step.name)
        return self.steps.finish(step)

    async def _transact(self, name: str, fn: Callable[..., Any]) -> Any:
        transaction, kept = self._transacting(), Kept(self.steps, name)

        async def transact() -> Any:
            with ambient.holding(self, name):
                await transaction(fn, step=kept)
            if self._recorded is not None:
                self._recorded(name)
            return self.steps.finish(kept.step)

        return await _uncut(transact())

    def end_transaction(self, transaction: object) -> None:
        """See :meth:`Running.end_transaction`. It may be called in any thread."""
        with self._lock:
            super().end_transaction(transaction)
            awaited = self._moved is not None
        if awaited:
            with suppress(RuntimeError):  # the handler's loop is closed, and nothing waits in it
                self._loop.call_soon_threadsafe(self._stir)

    async def rest(self, *, stop: bool = False) -> None:
        """Ends the operation, and waits for the steps and transactions that the handler left running.

        For the interceptors, when the handler has ended. The operation depends on their results: a step that ends late
        has to be undone like the others, and a transaction may commit the outcome. A cancellation of the caller cancels
        the steps too, and is raised again when they have ended.

        Args:
            stop: Cancels the steps.
        """
        self.end()
        cancelled: asyncio.CancelledError | None = None
        while (moved := self._next_end()) is not None:
            if stop:
                stop = False
                for task in (self._tasks or {}).values():
                    assert task is not None
                    task.cancel()
            try:
                await asyncio.wait((moved,))
            except asyncio.CancelledError as exc:
                cancelled, stop = exc, True
        if cancelled is not None:
            raise cancelled

    def _next_end(self) -> "asyncio.Future[None] | None":
        """Returns a future that is done at the next end of a step or transaction; ``None`` if none is running."""
        with self._lock:
            return self._next_move() if self._tasks or self._transactions else None

    def _next_move(self) -> "asyncio.Future[None]":
        if self._moved is None:
            self._moved = self._loop.create_future()
        return self._moved

    def _stir(self) -> None:
        if self._moved is not None:
            self._moved.set_result(None)
            self._moved = None

    async def unwind(self) -> str | None:
        """Undoes the finished steps in reverse order. For the interceptors.

        Returns:
            ``None``, or the cause for which an undo failed.

        Raises:
            FenceRefused: The lease was lost, or the operation has another owner.
        """
        try:
            self._check_undos()
            # If an undo fails, a later run has to know all steps that took effect.
            for step in self.steps.learn(await self._calls.steps(self.name)):
                with suppress(StoreUnavailable):  # it is undone all the same
                    await self._record(step)
            for name, undo, result in self.steps.to_undo():
                self._check_lease()
                self.steps.begin_undo(name)
                await self._run(name, undoing(undo, result), undo.transaction)
        except (FenceRefused, asyncio.CancelledError):
            raise
        except BaseException as exc:  # no error of an undo may end the operation's own task
            return trouble(self.method, exc)
        return None


async def _uncut(work: Coroutine[Any, Any, T]) -> T:
    """Awaits ``work`` to its end. A cancellation of the caller is raised only after that.

    ``work`` gets a task of its own, since cancelling a task cancels the future that it awaits.
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
