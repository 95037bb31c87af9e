"""Flights on asyncio: the executions of this process, each in a task of its own that calls only follow."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from grpc_idempotency._jitter import uniform
from grpc_idempotency._operation.aio import AsyncRunning
from grpc_idempotency._operation.running import Running
from grpc_idempotency._operation.sync import SyncRunning
from grpc_idempotency._protocol.effects import Boarded, Call, CutShort, Effect, Ended, Get, Landed, Landing, Pause, Ran
from grpc_idempotency._protocol.rules import no_room, operate, settle, shut_down, watch
from grpc_idempotency._server.aio.run import AioRun, run_until_left
from grpc_idempotency._server.drive import drive_async
from grpc_idempotency._server.flight import STOPPING, FlightBase
from grpc_idempotency._server.leases import Leases
from grpc_idempotency._server.replays import Replays
from grpc_idempotency._server.workers import Worker, Workers
from grpc_idempotency.store import AsyncStore

logger = logging.getLogger("grpc_idempotency")

Write = Callable[[bytes], Awaitable[None]]


class Flight(FlightBase):
    """A flight in a task."""

    run: AioRun

    def __init__(self, flights: "Flights", call: Call, run: AioRun) -> None:
        super().__init__(flights.store, flights.leases, flights.replays, call, run)
        self._flights = flights
        self.followers = 0
        self._loop = asyncio.get_running_loop()
        self._landing: asyncio.Future[Landing] = self._loop.create_future()
        self._waiters: set[asyncio.Future[None]] = set()
        self._limit: asyncio.TimerHandle
        self._overran = False
        self.over = False
        """Whether nothing of it runs any more."""
        self._work: Coroutine[Any, Any, None] | None = None
        """Its way, where tasks may be cancelled on it that it does not end with."""
        self._left = False
        """Whether no task is on its way, but only a thread."""
        run.orphaned = self._stop_renewing
        self._task = flights.spawn(self._fly() if run.cancellable else self._fly_on(), self._land_at_last)

    # For those who follow

    async def follow(self, until: float | None, write: Write | None) -> Landed:
        """Waits for the landing, at most until then, and hands on a stream's messages meanwhile.

        A caller that is cancelled leaves the flight alone.
        """
        self._flights.detached.discard(self)
        self.followers += 1
        try:
            if write is None or self.run.held_back:
                return Landed(await self._landed(until))
            ended, begun = await self.run.play(write, self._landing, until)
            return Landed(self._landing.result() if ended else None, begun)
        finally:
            self.followers -= 1
            if not self.followers and not self.over:
                self._flights.detached.add(self)

    async def _landed(self, until: float | None) -> Landing | None:
        if not self._landing.done():
            # Not asyncio.wait, which takes a turn of the loop more: this is on every call's way.
            waiter = self._loop.create_future()
            self._waiters.add(waiter)
            timer = None
            if until is not None:
                timer = self._loop.call_later(max(0.0, until - time.monotonic()), _wake, waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
                if timer is not None:
                    timer.cancel()
        return self._landing.result() if self._landing.done() else None

    # Its way

    async def _fly(self) -> None:
        landing = shut_down()
        try:
            landing = await self._operate()
        except asyncio.CancelledError:
            pass  # the server is being torn down; the record is left as that of a dead server (4.4)
        except Exception:
            logger.exception("an operation of %s could not be brought to its end", self.call.method)
        finally:
            self._stop_renewing()
            self._land(landing)

    async def _fly_on(self, *, again: bool = False) -> None:
        """The same, where the handler has a thread. A task that is cancelled ends, also while the thread runs.

        The operation goes on in another task when the thread has ended. Until then the lease is kept, and where the
        loop has ended meanwhile, the record is left as that of a dead server.
        """
        self._left = False
        if self._work is None:
            self._work = self._fly()
        if await run_until_left(self._work, self._waits_for_thread, again=again):
            return
        self._left = True
        assert self.run.in_thread is not None
        self.run.in_thread.add_done_callback(self._go_on)
        if self._flights.torn_down:
            self.give_up()

    def _waits_for_thread(self) -> bool:
        return self.run.in_thread is not None and not self.run.in_thread.done()

    def _go_on(self, _ended: object) -> None:
        if self._left and self._task.done():
            self._task = self._flights.spawn(self._fly_on(again=True), self._land_at_last)

    def _land_at_last(self) -> None:
        """Its task has ended, which may have been cancelled before its first step."""
        if not self._left:
            if not self.over:
                self._land(shut_down())
        elif not self._waits_for_thread() and not self._flights.torn_down:
            self._go_on(None)

    async def _operate(self) -> Landing:
        # Before the claim: what can't begin, or what nobody would renew the lease of, must not be claimed.
        if not self._flights.can_renew():
            return no_room()
        if not self.run.cancellable:
            self.run.worker = self._flights.worker()
            if self.run.worker is None:
                return no_room()
        try:
            return await drive_async(operate(self.call), self.perform, self._cut)
        finally:
            if self.run.worker is not None:
                self._flights.give_back(self.run.worker)

    def _cut(self) -> None:
        """The task is cancelled, but not in its handler: by somebody who cancels all. It goes on, unless torn down."""
        if self._flights.torn_down:
            raise asyncio.CancelledError

    def perform(self, effect: Effect[Any]) -> Any:
        """What the plans of a flight may ask for; of one that was given up nothing reaches the store any more."""
        self._cut()
        return super().perform(effect)

    def _land(self, landing: Landing, *, over: bool = True) -> None:
        # First out of the register: those who wait for it and find no outcome contend for a flight of their own.
        self.over = self.over or over
        self._keep(landing)
        self._flights.forget(self)
        if not self._landing.done():
            self._landing.set_result(landing)
            for waiter in self._waiters:
                _wake(waiter)

    def pause(self, seconds: float) -> Awaitable[None]:
        """Lets time pass."""
        return pause(seconds)

    async def execute(self, operation: Running | None) -> Ran:
        """Runs the handler in this task."""
        ended = await self._execute(operation)
        return Ran(ended, operation is not None and bool(operation.steps))

    async def unwind(self) -> str | None:
        """Undoes what the operation has finished, in the handler's own kind of thread."""
        self._limit_time()
        try:
            return await self._unwind()
        except asyncio.CancelledError:
            if self._flights.torn_down:
                raise
            return "it has failed and could not be undone: an undo was stopped before its end"
        finally:
            self._limit.cancel()

    async def _unwind(self) -> str | None:
        operation = self._operation
        if isinstance(operation, AsyncRunning):
            return await operation.unwind()
        assert isinstance(operation, SyncRunning)
        self.run.worker = self._flights.worker()
        if self.run.worker is None:
            return "it has failed and could not be undone: no thread could be started for that"
        trouble: str | None = await self.run.on_thread(operation.unwind)
        return trouble

    async def _execute(self, operation: Running | None) -> Ended:
        self._limit_time()
        try:
            return await self.run.to_end(operation)
        except asyncio.CancelledError:
            if self._flights.torn_down:
                raise
            return CutShort.OVERRAN if self._overran else CutShort.CANCELLED
        finally:
            self._limit.cancel()

    def _limit_time(self) -> None:
        """From now on the handler, or an undo, has as long as a handler may run."""
        self._limit = self._loop.call_later(self.call.policy.execution_limit.total_seconds(), self._overrun)

    def _overrun(self) -> None:
        logger.error("the handler of %s ran past its execution limit", self.call.method)
        if not self.run.cancellable:
            self._abandon()
            return
        self._overran = True
        self._task.cancel()
        self._limit = self._loop.call_later(STOPPING, self._abandon)

    def _abandon(self) -> None:
        """The handler can't be stopped: those who wait are answered now, its own task settles what may still come."""
        self._flights.spawn(self._land_early(), self.give_up)

    async def _land_early(self) -> None:
        if self._claim is not None:
            plan = settle(self.call, self._claim, Ran(CutShort.ABANDONED), 0)
            self._land(await drive_async(plan, self.perform, self._cut), over=False)

    def give_up(self) -> None:
        """Answers those who wait still, for a flight that does not let itself be ended; its record is left as it is."""
        if not self._landing.done():
            self._land(shut_down(), over=False)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class _Lookout:
    """One poller of a run in another process, for all calls of this process that wait for it."""

    def __init__(self, task: "asyncio.Task[None]") -> None:
        self.task = task
        self.followers = 0


class Flights:
    """The flights and lookouts of one interceptor."""

    def __init__(self, store: AsyncStore, replays: Replays, *, max_detached: int) -> None:
        self.store = store
        self.replays = replays
        self.leases = Leases(store, _awaited)
        self.torn_down = False
        """Whether what still runs is being cancelled, and its records left alone."""
        self.detached: set[Flight] = set()
        """The flights that run and that no call follows any more."""
        self._overdue: set[Flight] = set()
        """The flights that have landed, and whose handlers run all the same."""
        self._quiet: asyncio.Future[None] | None = None
        """Done when nothing runs any more, while that is waited for."""
        self._max_detached = max_detached
        self.workers = Workers()
        """Threads for ``def`` handlers."""
        self._closed = False
        self._flights: dict[bytes, Flight] = {}
        self._lookouts: dict[tuple[bytes, bytes], _Lookout] = {}
        self._tasks: dict[asyncio.Task[None], Callable[[], None] | None] = {}
        """The tasks that run, and what is called when they have ended."""

    def board(self, call: Call, new_run: Callable[[], AioRun]) -> Boarded | None:
        """Joins the flight of the call's name or founds one; ``None`` when no further one is taken on.

        Each flight has a run of its own: a call may found several, one after another, and a run is good for one time.
        """
        flight = self._flights.get(call.name)
        if flight is not None:
            return Boarded(flight.call.fingerprint, False, flight)
        if self._closed or len(self.detached) >= self._max_detached:
            return None
        flight = self._flights[call.name] = Flight(self, call, new_run())
        return Boarded(call.fingerprint, True, flight)

    def can_renew(self) -> bool:
        """Whether the thread is there that renews leases."""
        try:
            self.leases.start()
        except RuntimeError as exc:
            logger.error("an operation was refused, since no thread could be started to renew its lease: %s", exc)
            return False
        return True

    def worker(self) -> Worker | None:
        """A thread for a ``def`` handler, if one can be had."""
        try:
            return self.workers.take()
        except RuntimeError as exc:
            logger.error("an operation was refused, since no thread could be started for it: %s", exc)
            return None

    def give_back(self, worker: Worker) -> None:
        """The thread was not needed."""
        self.workers.give_back(worker)

    def has(self, name: bytes) -> bool:
        """Whether an operation is on its way here."""
        return name in self._flights

    def forget(self, flight: Flight) -> None:
        """The flight has landed: the next call of its name founds another."""
        if self._flights.get(flight.call.name) is flight:
            del self._flights[flight.call.name]
        if flight.over:
            self.detached.discard(flight)
            self._overdue.discard(flight)
            if self._quiet is not None and not self._runs() and not self._quiet.done():
                self._quiet.set_result(None)
        else:
            self._overdue.add(flight)

    def _runs(self) -> int:
        """How many operations run here."""
        return len(self._flights) + len(self._overdue)

    async def watch(self, name: bytes, fence: bytes, until: float) -> bool:
        """Waits until the run in another process is over; ``False`` when the time was."""
        lookout = self._lookouts.get((name, fence))
        if lookout is None or lookout.task.done():
            lookout = _Lookout(self.spawn(drive_async(watch(name, fence), self._perform)))
            self._lookouts[name, fence] = lookout
        lookout.followers += 1
        try:
            done, _ = await asyncio.wait((lookout.task,), timeout=max(0.0, until - time.monotonic()))
            return bool(done)
        finally:
            lookout.followers -= 1
            if not lookout.followers:
                lookout.task.cancel()
                if self._lookouts.get((name, fence)) is lookout:
                    del self._lookouts[name, fence]

    def _perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case Get(name):
                return self.store.get(name)
            case Pause(seconds):
                return pause(seconds)
            case _:
                raise AssertionError(f"no lookout performs {effect!r}")

    def spawn(self, work: Coroutine[Any, Any, None], then: Callable[[], None] | None = None) -> "asyncio.Task[None]":
        """Runs something in a task of its own, which is kept from being collected and waited for at the end.

        ``then`` is called when the task has ended, also where that was cancelled before its first step.
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
        """Takes on no further flight, lets those under way end within ``limit`` seconds, and cancels what is left.

        Answers how many operations could not be brought to their end.
        """
        self._closed = True
        try:
            if self._runs():
                logger.info("waiting for %d operations to end, at most %.0f s", self._runs(), limit)
                self._quiet = asyncio.get_running_loop().create_future()
                await asyncio.wait((self._quiet,), timeout=limit)
        finally:
            self.torn_down = True  # also where this is cancelled: the loop is about to end
        unfinished = self._runs()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOPPING)
        for flight in [*self._flights.values()]:
            flight.give_up()
        self.workers.close()
        await asyncio.wait((asyncio.wrap_future(self.leases.close()),), timeout=STOPPING)
        return unfinished


def _awaited(call: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
    """Calls an asyncio store, whatever loop it is that runs."""
    return call()


async def pause(seconds: float) -> None:
    """Sleeps about so long: jittered, so that processes do not move in step."""
    await asyncio.sleep(seconds * uniform(0.5, 1.5))
