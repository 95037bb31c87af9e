"""The operation of a plain ``def`` handler."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from grpc_idempotency._operation import ambient
from grpc_idempotency._operation.running import NOT_OURS, PATIENCE, Kept, Running, running_loop, trouble, undoing
from grpc_idempotency._operation.steps import Unwinding
from grpc_idempotency.errors import FenceRefused, StepMisuse
from grpc_idempotency.records import Step


class SyncRunning(Running):
    """The operation of a plain ``def`` handler."""

    awaited = False

    def __init__(
        self,
        *,
        wait_for: Callable[[Callable[[], Any]], Any] = lambda call: call(),
        loop: asyncio.AbstractEventLoop | None = None,
        **known: Any,
    ) -> None:
        super().__init__(**known)
        self._wait_for = wait_for
        """Makes a call of the store and waits for its answer: on an asyncio server both in its ``loop``."""
        self._loop = loop
        self._moved = threading.Condition(threading.Lock())
        """Guards the steps; notified when one begins or ends, or the handler does."""

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
        with self._moved:
            try:
                return self._ask(name, undo, transaction, beside=beside)
            except Unwinding:
                # The handler's other threads may still make known how their finished steps are undone.
                self._moved.wait_for(lambda: self.over or not self.steps.missing(beside=beside), PATIENCE)
                raise
            finally:
                self._moved.notify_all()

    def _run(self, name: str, fn: Callable[..., Any], transaction: bool) -> Any:
        try:
            with self.scope.child(name).opened(), ambient.holding(self, name):
                return self._transact(name, fn) if transaction else self._do(name, fn)
        finally:
            with self._moved:
                self.steps.ended(name)
                self._moved.notify_all()

    def _do(self, name: str, fn: Callable[..., Any]) -> Any:
        step = self.steps.made(name, fn())
        try:
            kept = self._wait_for(lambda: self.store.record_step(self.name, self.fence, step))
        except BaseException:
            self._finish(step)  # it has been done, and perhaps kept: it is undone in either case
            raise
        if not kept:
            raise FenceRefused(NOT_OURS)
        return self._finish(step)

    def _transact(self, name: str, fn: Callable[..., Any]) -> Any:
        kept = Kept(self.steps, name)
        transaction = self._transacting()(fn, step=kept)  # called here: it is the caller's operation that it is about
        self._wait_for(lambda: transaction)
        return self._finish(kept.step)

    def _finish(self, step: Step) -> Any:
        with self._moved:
            return self.steps.finish(step)

    def end(self) -> None:
        """See :meth:`Running.end`."""
        with self._moved:
            super().end()
            self._moved.notify_all()

    def begin_transaction(self, transaction: object) -> None:
        """See :meth:`Running.begin_transaction`."""
        with self._moved:
            super().begin_transaction(transaction)

    def end_transaction(self, transaction: object) -> None:
        """See :meth:`Running.end_transaction`."""
        with self._moved:
            super().end_transaction(transaction)
            self._moved.notify_all()

    def rest(self) -> None:
        """For the interceptors: the handler has ended; waits for its other threads' steps, and its transactions."""
        self.end()
        with self._moved:
            self._moved.wait_for(lambda: not self.steps.running and not self._transactions)

    def unwind(self) -> str | None:
        """For the interceptors: undoes the finished steps, the last first; why it could not, or ``None``."""
        try:
            self.steps.learn(self._wait_for(lambda: self.store.steps(self.name)))
            for name, undo, result in self.steps.to_undo():
                self._check_lease()
                self.steps.begin_undo(name)
                self._run(name, undoing(undo, result), undo.transaction)
        except FenceRefused:
            raise
        except BaseException as exc:  # whatever it is, it must not end the operation's own thread
            return trouble(self.method, exc)
        return None
