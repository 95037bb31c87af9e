"""A run of a handler on asyncio: an ``async def`` one in the loop, and a ``def`` one on a thread of its own."""

import asyncio
import concurrent.futures
import contextvars
import threading
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from grpc_idempotency._operation.aio import AsyncRunning
from grpc_idempotency._operation.running import Running, enter
from grpc_idempotency._operation.sync import LOOP_ENDED, SyncRunning, wait_for_loop
from grpc_idempotency._protocol.effects import Ended
from grpc_idempotency._server.aio.context import AioContext, AioThreadContext
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.run import Run
from grpc_idempotency._server.target import Target
from grpc_idempotency.errors import StoreUnavailable

if TYPE_CHECKING:
    from grpc_idempotency._server.workers import Worker


class AioRun(Run):
    """A run that can be awaited, with a stream buffer that can be followed."""

    context: AioContext | AioThreadContext
    worker: "Worker | None" = None
    """The thread for a ``def`` handler, until the handler has begun."""
    in_thread: asyncio.Future[tuple[Any, BaseException | None]] | None = None
    """The result or the error of its thread; ``None`` while nothing runs there."""
    orphaned: Callable[[], object]
    """Called in the thread, at its end, if the loop was closed before."""
    moved: asyncio.Future[None] | None = None
    """Done when the buffer gets a message, or room for one."""
    _taken: concurrent.futures.Future[None] | None = None
    """The future that a thread waits for after it has emitted a message, until there is room for another."""

    @classmethod
    def of(cls, target: Target, requests: Sequence[Any], snapshot: Snapshot) -> "AioRun":
        """Returns a run of a handler, with a recording context of the handler's kind."""
        context = AioContext(snapshot) if target.awaited else AioThreadContext(snapshot)
        run = cls(target, requests, context)
        if target.response_streams:
            run.moved = asyncio.get_running_loop().create_future()
        return run

    async def to_end(self, operation: Running | None) -> Ended:
        """Runs the handler to its end, and waits for the steps that it left running.

        Raises:
            asyncio.CancelledError: This task was cancelled, and no outcome was committed. The caller knows the cause.
        """
        try:
            try:
                reply = await (self._in_loop if self.target.awaited else self._on_thread)(operation)
            except asyncio.CancelledError:
                raise
            except BaseException as exc:  # any exception has to be answered to the waiting calls (4.7)
                if self.in_thread is not None:
                    raise  # the handler did not raise it: the loop is gone, and nothing continues this coroutine
                await _rest(operation)
                return self.raised(operation, exc)
            if operation is not None and operation.end():
                await _rest(operation)
            return self.returned(operation, reply)
        except asyncio.CancelledError:
            await _rest(operation, stop=True)
            if operation is None or operation.committed is None:
                raise
            return self.committed(operation, None)
        finally:
            if operation is not None and not operation.ended:
                operation.end()
            self.end()

    async def _in_loop(self, operation: Running | None) -> Any:
        enter(operation, asyncio.current_task())
        target = self.target
        if not target.request_streams and not target.response_streams:
            return await target.behaviour(self.requests[0], self.context)
        requests = iter(self.requests)
        assert isinstance(self.context, AioContext)
        self.context.requests, self.context.emit = requests, self._emit if target.response_streams else None
        request = _stream(requests) if target.request_streams else next(requests)
        if not target.generates:
            return await target.behaviour(request, self.context)
        async with aclosing(target.behaviour(request, self.context)) as messages:
            async for message in messages:
                await self._emit(message)
        return None

    async def _on_thread(self, operation: Running | None) -> Any:
        return await self.on_thread(partial(self._call, operation, asyncio.get_running_loop()))

    async def on_thread(self, call: Callable[[], Any]) -> Any:
        """Makes a call in this run's thread, and waits for its end.

        A thread can't be stopped, so a cancellation does not end the wait, and nothing counts as ended that still runs.
        The caller may leave this coroutine when its task is cancelled, and continue it later: see
        :func:`run_until_left`.
        """
        worker, self.worker = self.worker, None
        assert worker is not None
        loop = asyncio.get_running_loop()
        self.in_thread = ended = loop.create_future()

        def job() -> None:
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = call(), None
            except BaseException as exc:  # not set_exception, which does not take StopIteration: the future would hang
                outcome = None, exc
            try:
                loop.call_soon_threadsafe(ended.set_result, outcome)
            except RuntimeError:  # the loop is closed, and nothing waits any more
                self.orphaned()

        worker.run(partial(contextvars.copy_context().run, job))
        while not ended.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((ended,))
        self.in_thread = None
        reply, error = ended.result()
        if error is not None:
            raise error
        return reply

    def _call(self, operation: Running | None, loop: asyncio.AbstractEventLoop) -> Any:
        enter(operation, threading.get_ident())
        try:
            return self._reply(loop)
        finally:
            if isinstance(operation, SyncRunning):
                operation.rest()

    def _reply(self, loop: asyncio.AbstractEventLoop) -> Any:
        target = self.target
        request = iter(self.requests) if target.request_streams else self.requests[0]
        reply = target.behaviour(request, self.context)
        if self.buffer is None:
            return reply
        self.record_all(reply, partial(self._emit_in_thread, loop))
        return None

    def _emit_in_thread(self, loop: asyncio.AbstractEventLoop, message: Any) -> None:
        """The same as :meth:`_emit`, for a thread. It needs no task in the loop, since that could be cancelled."""
        taken: concurrent.futures.Future[None] = concurrent.futures.Future()
        try:
            loop.call_soon_threadsafe(self._take, message, taken)
        except RuntimeError as exc:
            raise StoreUnavailable(LOOP_ENDED) from exc
        wait_for_loop(taken, loop)

    def _take(self, message: Any, taken: "concurrent.futures.Future[None]") -> None:
        try:
            self.record(message)
        except BaseException as exc:
            taken.set_exception(exc)
            return
        self._taken = taken
        self._stir()

    async def _emit(self, message: Any) -> None:
        """Records a message of the stream. Waits while the followers are too far behind."""
        self.record(message)
        self._stir()
        await asyncio.sleep(0)  # so that messages leave even if the handler never waits
        assert self.buffer is not None
        while self.buffer.full:
            assert self.moved is not None
            await asyncio.wait((self.moved,))

    def _stir(self) -> None:
        """Wakes the handler and the followers that wait for a change of the buffer."""
        if self._taken is not None and self.buffer is not None and not self.buffer.full:
            self._taken.set_result(None)
            self._taken = None
        if self.moved is not None:
            self.moved.set_result(None)
            self.moved = asyncio.get_running_loop().create_future()

    async def play(
        self,
        write: Callable[[bytes], Awaitable[None]],
        end: "asyncio.Future[Any]",
        until: float | None,
    ) -> tuple[bool, bool]:
        """Writes the messages of the stream, from the first one on, until the run has ended.

        It gives up at once if the first message is gone already, and before the first message when the time is up.

        Args:
            write: Sends a message.
            end: Done when the run has ended.
            until: When to give up before the first message, in seconds of ``time.monotonic``; ``None``: never.

        Returns:
            Two booleans: the first is True if the end was reached, the second if a message was written.
        """
        follower, begun = object(), False
        assert self.buffer is not None
        if not self.buffer.join(follower):
            return False, False
        try:
            while True:
                message = self._next(follower)
                if message is not None:
                    begun = True
                    await write(message)
                elif end.done():
                    return True, begun
                elif not await self._moved(end, None if begun else until):
                    return False, begun
        finally:
            self.buffer.leave(follower)
            self._stir()

    async def _moved(self, end: "asyncio.Future[Any]", until: float | None) -> bool:
        """Waits for a message or the end. Returns False if the time was up first."""
        assert self.moved is not None
        timeout = None if until is None else max(0.0, until - time.monotonic())
        done, _ = await asyncio.wait((end, self.moved), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)

    def _next(self, follower: object) -> bytes | None:
        """Returns a follower's next message, if there is one."""
        assert self.buffer is not None
        held_up = self.buffer.full
        message = self.buffer.read(follower)
        if held_up and not self.buffer.full:
            self._stir()
        return message


@types.coroutine
def run_until_left(
    work: Coroutine[Any, Any, object], may_leave: Callable[[], bool], *, again: bool
) -> Generator[Any, Any, bool]:
    """Runs ``work`` in this task to its end, or until the task is cancelled while ``work`` may be left.

    Args:
        work: The coroutine to run. Another task may continue it.
        may_leave: Returns True if ``work`` waits for something that it checks again after a cancellation.
        again: True if ``work`` was left before.

    Returns:
        True if ``work`` has ended.
    """
    step: Callable[[], Any] = partial(work.throw, asyncio.CancelledError()) if again else partial(work.send, None)
    while True:
        try:
            wish = step()
        except StopIteration:
            return True
        try:
            step = partial(work.send, (yield wish))
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError) and may_leave():
                return False
            step = partial(work.throw, exc)


async def _rest(operation: Running | None, *, stop: bool = False) -> None:
    if isinstance(operation, AsyncRunning):
        await operation.rest(stop=stop)


async def _stream(messages: Iterator[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message
