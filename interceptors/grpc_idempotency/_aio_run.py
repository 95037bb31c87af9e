"""The handler of a keyed call, run detached from its call: on a recording context, in its own kind of thread."""

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable
from typing import Any

from grpc_idempotency._context import AioContext, Snapshot, ThreadContext
from grpc_idempotency._effects import Answered, CutShort, Ended, Raised, RolledBack
from grpc_idempotency._methods import Method
from grpc_idempotency._protocol import retained
from grpc_idempotency._wire import cap
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.operation import Operation, enter
from grpc_idempotency.records import Outcome

logger = logging.getLogger("grpc_idempotency")


class Run:
    """The handler of one call, ready to run: with its request, on a recording context, detached from the call."""

    def __init__(
        self,
        method: Method,
        behaviour: Callable[[Any, Any], Any],
        serialize: Callable[[Any], bytes] | None,
        request: Any,
        snapshot: Snapshot,
    ) -> None:
        self._method = method
        self._behaviour = behaviour
        self._serialize = serialize
        self._request = request
        self.cancellable = inspect.iscoroutinefunction(behaviour)
        """Whether it can be stopped: a ``def`` handler can't."""
        self.context: AioContext | ThreadContext = AioContext(snapshot) if self.cancellable else ThreadContext(snapshot)
        self._sealed: tuple[object, Outcome] | None = None

    async def to_end(self, operation: Operation | None) -> Ended:
        """Runs it to its end; a cancellation of this task is the caller's to explain."""
        enter(operation)
        reply: object = None
        try:
            reply = await self._reply()
            ended: Ended = Answered(self._capped(self.context.outcome(reply, self._serialize)))
        except asyncio.CancelledError:
            if operation is None or operation.committed is None:
                raise
            ended = CutShort.CANCELLED
        except BaseException as exc:  # whatever it is, those who wait must hear of it (4.7)
            ended = self._raised(exc)
        finally:
            self._tell_callbacks()
        if operation is None or operation.committed is None:
            return ended
        assert self._sealed is not None
        sealed_reply, outcome = self._sealed
        if reply is not sealed_reply:
            logger.warning(
                "%s answered otherwise than its transaction committed; what was committed counts", self._method.name
            )
        return Answered(outcome, committed=True)

    def seal(self, reply: object) -> Outcome:
        """For a transaction: the outcome that is to be stored if this is the reply (5.1)."""
        outcome = self._capped(self.context.outcome(reply, self._serialize))
        self._sealed = (reply, outcome)
        return retained(outcome, self._method.policy)

    async def _reply(self) -> Any:
        if self.cancellable:
            return await self._behaviour(self._request, self.context)
        here = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, here.run, self._behaviour, self._request, self.context)

    def _raised(self, error: BaseException) -> Ended:
        outcome = self._capped(self.context.failure())
        if self.context.aborted:
            return Answered(outcome)
        logger.error("the handler of %s raised", self._method.name, exc_info=error)
        return RolledBack(outcome) if isinstance(error, StoreUnavailable) else Raised(outcome)

    def _capped(self, outcome: Outcome) -> Outcome:
        outcome, dropped = cap(outcome, self._method.policy.max_trailer_bytes)
        if dropped:
            logger.warning(
                "the status message and trailing metadata of %s exceed %d bytes; %d bytes of them were dropped",
                self._method.name,
                self._method.policy.max_trailer_bytes,
                dropped,
            )
        return outcome

    def _tell_callbacks(self) -> None:
        for callback in self.context.finish():
            try:
                callback(self.context)
            except Exception:
                logger.exception("a done callback of a handler raised")
