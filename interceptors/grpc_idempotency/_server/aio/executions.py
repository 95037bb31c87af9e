"""The executions of this process on asyncio. Each has a task of its own, which calls only follow."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from grpc_idempotency._jitter import uniform
from grpc_idempotency._operation.aio import AsyncRunning
from grpc_idempotency._operation.sync import LoopRunning, SyncRunning
from grpc_idempotency._protocol.effects import (
    Call,
    Conclusion,
    CutShort,
    Effect,
    Ended,
    Execute,
    Followed,
    Joined,
    Ran,
)
from grpc_idempotency._protocol.rules import is_only_told, no_room, settle, shut_down
from grpc_idempotency._server.aio.poller import Poller
from grpc_idempotency._server.aio.run import AioRun, run_until_left
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.drive import drive_async, lost
from grpc_idempotency._server.execution import STOPPING, ExecutionBase, count_running
from grpc_idempotency._server.leases import Leases
from grpc_idempotency._server.observers import Observers
from grpc_idempotency._server.replays import Replays
from grpc_idempotency._server.target import Target
from grpc_idempotency._server.workers import Worker, Workers
from grpc_idempotency.errors import IdempotencyError
from grpc_idempotency.store import AsyncStore

T = TypeVar("T")
logger = logging.getLogger("grpc_idempotency")

Write = Callable[[bytes], Awaitable[None]]


class Execution(ExecutionBase):
    """An execution whose handler runs in a task."""

    run: AioRun | None
    _executions: "Executions"
    _loop: asyncio.AbstractEventLoop

    _task: asyncio.Task[None] | None = None
    """The task that runs it; ``None`` until the store has answered, or if the execution concluded at once then."""
    _work: Coroutine[Any, Any, None] | None = None
    """The coroutine of an execution on a thread, which outlives the cancellation of its task."""
    _left = False
    """True while only the handler's thread runs, since the task was cancelled."""
    _first: Effect[Any] | None = None
    """The first effect for its task, until the task has begun."""
    _limited = False
    """True while a handler or an undo runs, which has a limit."""
    _overran = False
    _stopping: asyncio.TimerHandle | None = None
    """The timer that gives up a handler which does not stop when it is cancelled."""

    def __init__(
        self, executions: "Executions", call: Call, target: Target, messages: Sequence[Any], snapshot: Snapshot
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: set[asyncio.Future[Conclusion | None]] = set()
        super().__init__(executions, call, target, messages, snapshot)

    def new_run(self) -> AioRun:
        """Returns a run of its handler."""
        run = AioRun.of(self._target, self._messages, self._snapshot)
        run.orphaned = self._stop_renewing
        return run

    # For followers

    async def follow(self, until: float | None, write: Write | None) -> Followed:
        """Waits for the conclusion, and writes the messages of a stream meanwhile.

        A cancellation of the caller does not cancel the execution.

        Args:
            until: When to give up, in seconds of ``time.monotonic``; ``None``: never.
            write: Sends a message of a stream; ``None`` if the method answers with one message.
        """
        self._executions.detached.discard(self)
        self.followers += 1
        try:
            if write is None or self.run is None or self.run.held_back:
                return Followed(self.conclusion or await self._wait(until))
            end = self.waiter()
            try:
                ended, begun = await self.run.play(write, end, until)
            finally:
                self._waiters.discard(end)
            return Followed(end.result() if ended else None, begun)
        finally:
            self.followers -= 1
            if not self.followers and not self.ended:
                self._executions.detached.add(self)

    async def _wait(self, until: float | None) -> Conclusion | None:
        # Not asyncio.wait, which takes one more turn of the loop: every call that follows comes here.
        waiter, timer = self.waiter(), None
        if until is not None:
            timer = self._loop.call_later(max(0.0, until - time.monotonic()), _wake, waiter, None)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()

    def waiter(self) -> asyncio.Future[Conclusion | None]:
        """Returns a future of the conclusion that is told to the calls waiting now."""
        waiter: asyncio.Future[Conclusion | None] = self._loop.create_future()
        if self.conclusion is None:
            self._waiters.add(waiter)
        else:
            waiter.set_result(self.conclusion)
        return waiter

    # From the claim to the conclusion

    def begin(self) -> None:
        """Asks the store for the claim or the record. A task is made only if the handler has to run."""
        executions = self._executions
        # Before the claim: an operation must not be claimed if it has no thread, or nothing would renew its lease.
        can_renew = executions.leases.started or executions.can_renew()
        if not can_renew or not (self._target.awaited or self._take_worker()):
            self._conclude(no_room())
            return
        effect = next(self._plan)
        try:
            reply = self.perform(effect)
        except IdempotencyError:
            self._start_task(effect)  # the task performs the effect again, and gives the error to the plan
        except Exception as exc:  # a store that breaks its contract must not leave callers waiting
            self._log_failure(exc)
            self._conclude(shut_down())
        else:
            asked: asyncio.Future[Any] = reply if asyncio.isfuture(reply) else asyncio.ensure_future(_answer_of(reply))
            asked.add_done_callback(self._answered)

    def _take_worker(self) -> bool:
        self.worker = self._executions.worker()
        return self.worker is not None

    def _answered(self, asked: "asyncio.Future[Any]") -> None:
        """Continues with the store's answer: starts a task if the handler has to run, else concludes."""
        error = lost() if asked.cancelled() else asked.exception()
        if self._executions.torn_down:
            self._conclude(shut_down())
            return
        try:
            effect = self._plan.send(asked.result()) if error is None else self._plan.throw(error)
        except StopIteration as done:
            self._conclude(done.value)
        except Exception as exc:
            self._log_failure(exc)
            self._conclude(shut_down())
        else:
            self._start_task(effect)

    def _start_task(self, effect: Effect[Any]) -> None:
        self._first = effect
        work = self._carry_out(effect) if self._target.awaited else self._carry_on(effect)
        self._task = self._executions.spawn(work, self._conclude_at_last)

    async def _carry_out(self, effect: Effect[Any]) -> None:
        self._first = None
        conclusion: Conclusion | None = None
        try:
            conclusion = await drive_async(self._plan, self.perform, self._cut, effect)
        except asyncio.CancelledError:
            pass  # the server is being torn down; the record is left as that of a dead server (4.4)
        except Exception as exc:
            self._log_failure(exc)
        finally:
            self._conclude(conclusion or shut_down())

    def _log_failure(self, error: Exception) -> None:
        logger.error("an operation of %s could not be brought to its end", self.call.method, exc_info=error)

    async def _carry_on(self, effect: Effect[Any] | None) -> None:
        """Runs an execution whose handler has a thread. If its task is cancelled, it ends even while the thread runs.

        The execution goes on in another task when the thread has ended. Until then the lease is renewed. If the loop
        has ended by then, the record is left as that of a dead server.

        Args:
            effect: The effect to begin with; ``None`` in a further task.
        """
        self._left = False
        if effect is not None:
            self._work = self._carry_out(effect)
        assert self._work is not None
        if await run_until_left(self._work, self._waits_for_thread, again=effect is None):
            return
        self._left = True
        assert self.run is not None
        assert self.run.in_thread is not None
        self.run.in_thread.add_done_callback(self._go_on)
        if self._executions.torn_down:
            self.give_up()

    def _waits_for_thread(self) -> bool:
        return self.run is not None and self.run.in_thread is not None and not self.run.in_thread.done()

    def _go_on(self, _ended: object) -> None:
        assert self._task is not None
        if self._left and self._task.done():
            self._task = self._executions.spawn(self._carry_on(None), self._conclude_at_last)

    def _conclude_at_last(self) -> None:
        """Concludes, or goes on in another task, when its task has ended.

        The task may have been cancelled before it began.
        """
        if not self._left:
            if self._first is not None:
                self._never_begin(self._first)
        elif not self._waits_for_thread() and not self._executions.torn_down:
            self._go_on(None)

    def _never_begin(self, effect: Effect[Any]) -> None:
        """Gives back the claim, since the task was cancelled before it began, so that no handler ran."""
        if (
            isinstance(effect, Execute)
            and effect.claim is not None
            and effect.claimed
            and not self._executions.torn_down
        ):
            try:
                reply = self._store.release(effect.claim.name, effect.claim.fence)
            except IdempotencyError:
                self._give_up_claim()
            else:
                given_back = reply if asyncio.isfuture(reply) else asyncio.ensure_future(_answer_of(reply))
                given_back.add_done_callback(self._given_back)
        else:
            self._conclude(shut_down())

    def _given_back(self, answered: "asyncio.Future[Any]") -> None:
        if not answered.cancelled() and answered.exception() is not None:
            self._give_up_claim()
        else:
            self._conclude(shut_down())

    def _give_up_claim(self) -> None:
        """Concludes without having given the claim back. Its lease runs out."""
        logger.warning("a claim on an operation of %s could not be given back", self.call.method)
        self._conclude(shut_down())

    def _cut(self) -> None:
        """Ignores a cancellation of the task outside of its handler, unless the executions are torn down.

        It comes from code that cancels all tasks.
        """
        if self._executions.torn_down:
            raise asyncio.CancelledError

    def _conclude(self, conclusion: Conclusion, *, ended: bool = True) -> None:
        # Out of the register first: waiting calls that get no outcome join or lead the next execution.
        if ended:
            self.ended = True
            if self.worker is not None:
                self._executions.give_back(self.worker)
                self.worker = None
        if not ended and is_only_told(conclusion, claimed=self._has_record):
            self.early = conclusion
        else:
            self._settled(conclusion, ended=ended)
            self._executions.forget(self)
            self.conclusion = self.conclusion or conclusion
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _wake(waiter, conclusion)

    def pause(self, seconds: float) -> Awaitable[None]:
        """Waits for about ``seconds``."""
        return pause(seconds)

    async def execute(self, effect: Execute) -> Ran:
        """Runs the handler in this task."""
        if self.run is None:
            self.run = self.new_run()
        operation = self._begin(effect, AsyncRunning if self._target.awaited else LoopRunning)
        self.run.worker, self.worker = self.worker, None
        self._limited = True
        ended: Ended
        try:
            ended = await self.run.to_end(operation)
        except asyncio.CancelledError:
            if self._executions.torn_down:
                self._stopped()
                raise
            ended = CutShort.OVERRAN if self._overran else CutShort.CANCELLED
        finally:
            self._limited = False
            if self._stopping is not None:
                self._stopping.cancel()
        return self._ran(ended, operation)

    async def unwind(self) -> str | None:
        """Undoes the finished steps: in the loop, or on a thread if the handler runs on one."""
        self._limit_anew()
        self._limited = True
        try:
            return await self._unwind()
        except asyncio.CancelledError:
            if self._executions.torn_down:
                raise
            return "it has failed and could not be undone: an undo was stopped before its end"
        finally:
            self._limited = False
            if self._stopping is not None:
                self._stopping.cancel()

    async def _unwind(self) -> str | None:
        operation = self._operation
        if isinstance(operation, AsyncRunning):
            return await operation.unwind()
        assert isinstance(operation, SyncRunning)
        assert self.run is not None
        self.run.worker = self._executions.worker()
        if self.run.worker is None:
            return "it has failed and could not be undone: no thread could be started for that"
        trouble: str | None = await self.run.on_thread(operation.unwind)
        return trouble

    def overrun(self) -> None:
        """Stops a handler or an undo that has reached its limit, or gives it up. Called in the thread of the leases."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._overrun)

    def _overrun(self) -> None:
        if not self._limited:
            return
        logger.error("the handler of %s ran past its execution limit", self.call.method)
        if not self._target.awaited:
            self._abandon()
            return
        self._overran = True
        assert self._task is not None
        self._task.cancel()
        self._stopping = self._loop.call_later(STOPPING, self._abandon)

    def _abandon(self) -> None:
        """Answers the waiting calls, since the handler can't be stopped. Its own task settles what comes later."""
        self._executions.spawn(self._conclude_early(), self._answer_at_least)

    async def _conclude_early(self) -> None:
        if self._claim is not None:
            plan = settle(self.call, self._claim, Ran(CutShort.ABANDONED), 0)
            self._conclude(await drive_async(plan, self.perform, self._cut), ended=False)

    def _answer_at_least(self) -> None:
        """Answers the waiting calls if the task that should have answered them was cancelled."""
        if self.early is None:
            self.give_up()

    def give_up(self) -> None:
        """Answers the waiting calls of an execution that can't be finished. Its record is left as it is."""
        if self.conclusion is None:
            self._conclude(shut_down(), ended=False)


async def _answer_of(reply: Awaitable[T]) -> T:
    return await reply


def _wake(waiter: "asyncio.Future[Conclusion | None]", conclusion: Conclusion | None) -> None:
    if not waiter.done():
        waiter.set_result(conclusion)


class Executions:
    """The executions of one interceptor, and the poller for runs in other processes."""

    def __init__(
        self,
        own_store: AsyncStore,
        store: AsyncStore,
        replays: Replays,
        observers: Observers,
        *,
        max_detached: int,
    ) -> None:
        self.own_store = own_store
        self.store = store
        self.replays = replays
        self.observers = observers
        self.leases = Leases(store, _awaited)
        self.torn_down = False
        """True once the remaining executions are being cancelled. Their records are left as they are."""
        self.detached: set[Execution] = set()
        """The running executions that no call follows any more."""
        self._overdue: set[Execution] = set()
        """The executions that have concluded, but whose handlers still run."""
        self._quiet: asyncio.Future[None] | None = None
        """Done when no execution runs any more; ``None`` until :meth:`close` waits for that."""
        self._max_detached = max_detached
        self.workers = Workers()
        """Threads for ``def`` handlers."""
        self._closed = False
        self._executions: dict[bytes, Execution] = {}
        self._tasks: dict[asyncio.Task[None], Callable[[], None] | None] = {}
        """The running tasks, each with the callback for its end."""
        self.poller = Poller(store, self.spawn)

    def join(self, call: Call, target: Target, messages: Sequence[Any], snapshot: Snapshot) -> Joined | None:
        """Joins the execution of the call's name, or leads one.

        Returns:
            The execution, and whether the call leads it; ``None`` if no further one is taken on.
        """
        execution = self._executions.get(call.name)
        if execution is not None:
            return Joined(execution.call.fingerprint, False, execution)
        if self._closed or len(self.detached) >= self._max_detached:
            return None
        execution = self._executions[call.name] = Execution(self, call, target, messages, snapshot)
        execution.begin()
        return Joined(call.fingerprint, True, execution)

    def can_renew(self) -> bool:
        """True if the thread that renews leases is running. Starts it if it is not."""
        try:
            self.leases.start()
        except RuntimeError as exc:
            logger.error("an operation was refused, since no thread could be started to renew its lease: %s", exc)
            return False
        return True

    def worker(self) -> Worker | None:
        """Returns a thread for a ``def`` handler; ``None`` if none can be started."""
        try:
            return self.workers.take()
        except RuntimeError as exc:
            logger.error("an operation was refused, since no thread could be started for it: %s", exc)
            return None

    def give_back(self, worker: Worker) -> None:
        """Takes back a thread that was not needed."""
        self.workers.give_back(worker)

    def has(self, name: bytes) -> bool:
        """True if an operation has an execution here."""
        return name in self._executions

    def running(self) -> Mapping[str, int]:
        """Returns how many handlers run, by their methods. It may be called in any thread."""
        return count_running(self._executions.copy().values(), self._overdue.copy())

    def forget(self, execution: Execution) -> None:
        """Removes an execution that has concluded, so that the next call of its name leads another."""
        if self._executions.get(execution.call.name) is execution:
            del self._executions[execution.call.name]
        if execution.ended:
            self.detached.discard(execution)
            self._overdue.discard(execution)
            if self._quiet is not None and not self._runs() and not self._quiet.done():
                self._quiet.set_result(None)
        else:
            self._overdue.add(execution)

    def _runs(self) -> int:
        """Returns how many operations run here."""
        return len(self._executions) + len(self._overdue)

    def spawn(self, work: Coroutine[Any, Any, None], then: Callable[[], None] | None = None) -> "asyncio.Task[None]":
        """Runs a coroutine in a task of its own, which is kept from being collected, and which :meth:`close` waits for.

        Args:
            work: The coroutine.
            then: Called when the task has ended, even if it was cancelled before it began.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = then
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        then = self._tasks.pop(task)
        if then is not None:
            then()
        if not task.cancelled() and task.exception() is not None:
            logger.error("a background task of the interceptor failed", exc_info=task.exception())

    async def close(self, limit: float) -> int:
        """Takes on no further execution, drains those under way within ``limit`` seconds, and cancels the rest.

        Returns:
            How many executions could not be brought to their end.
        """
        self._closed = True
        try:
            if self._runs():
                logger.info("waiting for %d operations to end, at most %.0f s", self._runs(), limit)
                self._quiet = asyncio.get_running_loop().create_future()
                await asyncio.wait((self._quiet,), timeout=limit)
        finally:
            self.torn_down = True  # also if this is cancelled, since the loop is about to end then
        unfinished = self._runs()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOPPING)
        for execution in [*self._executions.values()]:
            execution.give_up()
        self.workers.close()
        await asyncio.wait((asyncio.wrap_future(self.leases.close()),), timeout=STOPPING)
        return unfinished


def _awaited(call: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
    """Calls an asyncio store, in the running loop, whichever that is."""
    return call()


async def pause(seconds: float) -> None:
    """Sleeps for about ``seconds``, with jitter, so that processes do not act in step."""
    await asyncio.sleep(seconds * uniform(0.5, 1.5))
