"""The operation of a plain ``def`` handler."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from grpc_idempotency._operation import ambient
from grpc_idempotency._operation.running import NOT_OURS, PATIENCE, Kept, Running, running_loop, trouble, undoing
from grpc_idempotency._operation.steps import Unwinding
from grpc_idempotency.errors import FenceRefused, StepMisuse, StoreUnavailable
from grpc_idempotency.records import Step


class SyncRunning(Running):
    """The operation of a plain ``def`` handler on a server of threads."""

    awaited = False

    _moved: threading.Condition | None = None

    def _asked(self, call: Callable[[], Any]) -> Any:
        """Makes a call to the store, and waits for its answer."""
        return call()

    @property
    def _turn(self) -> threading.Condition:
        """The condition on the lock that is notified when a step or transaction begins or ends, or the handler ends."""
        moved = self._moved
        return self.__dict__.setdefault("_moved", threading.Condition(self._lock)) if moved is None else moved  # atomic

    def _stir(self) -> None:
        if self._moved is not None:
            self._moved.notify_all()

    def step(self, name: str, fn: Callable[..., Any], undo: Callable[..., Any] | None, transaction: bool) -> Any:
        """See :meth:`grpc_idempotency.Operation.step`."""
        known = self._begin(name, undo, transaction)
        if known is not None:
            return self._finish(known)
        return self._run(name, fn, transaction)

    def _begin(self, name: str, undo: Callable[..., Any] | None, transaction: bool) -> Step | None:
        if self._loop is not None and running_loop() is self._loop:
            raise StepMisuse(f"step {name!r} of a plain def handler would block the server's event loop")
        beside = self._is_beside(name)
        if self.claim is not None and self.committed is None:
            self._claiming()
            self._won(self._asked(partial(self._calls.claim, self.claim)))
        with self._turn:
            try:
                return self._ask(name, undo, transaction, beside=beside)
            except Unwinding:
                # The handler's other threads may still come to their finished steps, and so give the undos.
                self._turn.wait_for(lambda: self.ended or not self.steps.missing(beside=beside), PATIENCE)
                raise
            finally:
                self._stir()

    def _run(self, name: str, fn: Callable[..., Any], transaction: bool) -> Any:
        try:
            with self.scope.child(name).opened(), ambient.holding(self, name):
                return self._transact(name, fn) if transaction else self._do(name, fn)
        finally:
            with self._turn:
                self.steps.ended(name)
                self._stir()

    def _do(self, name: str, fn: Callable[..., Any]) -> Any:
        return self._record(self.steps.made(name, fn()))

    def _record(self, step: Step) -> Any:
        try:
            kept = self._asked(partial(self._calls.record_step, self.name, self.fence, step))
        except BaseException:
            self._finish(step)  # it took effect, and is perhaps kept: it has to be undone in either case
            raise
        if not kept:
            raise FenceRefused(NOT_OURS)
        if self._recorded is not None:
            self._recorded(step.name)
        return self._finish(step)

    def _transact(self, name: str, fn: Callable[..., Any]) -> Any:
        kept = Kept(self.steps, name)
        answer = self._transacting()(fn, step=kept)  # called in this thread, since this one holds the operation
        self._asked(lambda: answer)
        if self._recorded is not None:
            self._recorded(name)
        return self._finish(kept.step)

    def _finish(self, step: Step) -> Any:
        with self._turn:
            return self.steps.finish(step)

    def end(self) -> bool:
        """See :meth:`Running.end`."""
        with self._lock:
            return super().end()

    def begin_transaction(self, transaction: object) -> None:
        """See :meth:`Running.begin_transaction`."""
        with self._lock:
            super().begin_transaction(transaction)

    def end_transaction(self, transaction: object) -> None:
        """See :meth:`Running.end_transaction`."""
        with self._lock:
            super().end_transaction(transaction)
            self._stir()

    def rest(self) -> None:
        """Ends the operation, and waits for its transactions and the steps of its other threads.

        For the interceptors, when the handler has ended.
        """
        self.end()
        with self._turn:
            self._turn.wait_for(lambda: not self.steps.running and not self._transactions)

    def unwind(self) -> str | None:
        """Undoes the finished steps in reverse order. For the interceptors.

        Returns:
            ``None``, or the cause for which an undo failed.

        Raises:
            FenceRefused: The lease was lost, or the operation has another owner.
        """
        try:
            self._check_undos()
            # If an undo fails, a later run has to know all steps that took effect.
            for step in self.steps.learn(self._asked(partial(self._calls.steps, self.name))):
                with suppress(StoreUnavailable):  # it is undone all the same
                    self._record(step)
            for name, undo, result in self.steps.to_undo():
                self._check_lease()
                self.steps.begin_undo(name)
                self._run(name, undoing(undo, result), undo.transaction)
        except FenceRefused:
            raise
        except BaseException as exc:  # no error of an undo may end the operation's own thread
            return trouble(self.method, exc)
        return None


class LoopRunning(SyncRunning):
    """The operation of a plain ``def`` handler on an asyncio server, in whose loop the store's calls are awaited."""

    _loop: asyncio.AbstractEventLoop

    def _asked(self, call: Callable[[], Any]) -> Any:
        """Makes the call in the loop, and waits for its answer in this thread."""
        return wait_in_thread(call, self._loop)


def wait_in_thread(call: Callable[[], Awaitable[Any]], loop: asyncio.AbstractEventLoop) -> Any:
    """Makes a call in the loop, and waits for its answer in the calling thread.

    Raises:
        StoreUnavailable: The loop has ended before the answer came.
    """

    async def ask() -> Any:
        return await call()

    work = ask()
    try:
        return wait_for_loop(asyncio.run_coroutine_threadsafe(work, loop), loop)
    except concurrent.futures.CancelledError as exc:
        raise StoreUnavailable(LOOP_ENDED, landed=None) from exc
    except RuntimeError as exc:
        if not loop.is_closed():
            raise
        work.close()
        raise StoreUnavailable(LOOP_ENDED) from exc


def wait_for_loop(answer: "concurrent.futures.Future[Any]", loop: asyncio.AbstractEventLoop) -> Any:
    """Waits in the calling thread for an answer from the loop, while the loop is there.

    Raises:
        StoreUnavailable: The loop has ended before the answer came.
    """
    while True:
        concurrent.futures.wait((answer,), _LOOK_EVERY)  # not result(): the answer may be a TimeoutError itself
        if answer.done():
            return answer.result()
        if loop.is_closed():
            raise StoreUnavailable(LOOP_ENDED, landed=None)


_LOOK_EVERY = 1.0
"""Seconds between two looks of a waiting thread whether the loop is still there."""
LOOP_ENDED = "the event loop ended before the store had answered"
"""The message for an answer that will never come."""
