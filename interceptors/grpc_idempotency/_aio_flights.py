"""Flights on asyncio: the executions of this process, each in a task of its own that calls only follow."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from grpc_idempotency._aio_run import AioRun
from grpc_idempotency._drive import drive_async
from grpc_idempotency._effects import Boarded, Call, CutShort, Effect, Ended, Get, Landed, Landing, Pause, Ran
from grpc_idempotency._flight import STOPPING, FlightBase
from grpc_idempotency._leases import Leases
from grpc_idempotency._protocol import no_room, operate, settle, shut_down, watch
from grpc_idempotency._workers import Worker, Workers
from grpc_idempotency.operation import AsyncOperation, Operation, OperationBase
from grpc_idempotency.store import AsyncStore

logger = logging.getLogger("grpc_idempotency")

Write = Callable[[bytes], Awaitable[None]]


class Flight(FlightBase):
    """A flight in a task."""

    run: AioRun

    def __init__(self, flights: "Flights", call: Call, run: AioRun) -> None:
        super().__init__(flights.store, flights.leases, call, run)
        self._flights = flights
        self.followers = 0
        self._loop = asyncio.get_running_loop()
        self._landing: asyncio.Future[Landing] = self._loop.create_future()
        self._waiters: set[asyncio.Future[None]] = set()
        self._limit: asyncio.TimerHandle
        self._overran = False
        self._task = flights.spawn(self._fly())
        run.torn_down = flights.is_torn_down

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
            if not self.followers and not self._landing.done():
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

    async def _operate(self) -> Landing:
        if not self.run.cancellable:
            # Before the claim: what can't begin must not be claimed.
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

    def _land(self, landing: Landing) -> None:
        # First out of the register: those who wait for it and find no outcome contend for a flight of their own.
        self._flights.forget(self)
        if not self._landing.done():
            self._landing.set_result(landing)
            for waiter in self._waiters:
                _wake(waiter)

    def pause(self, seconds: float) -> Awaitable[None]:
        """Lets time pass."""
        return pause(seconds)

    async def execute(self, operation: OperationBase | None) -> Ran:
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
        if isinstance(operation, AsyncOperation):
            return await operation.unwind()
        assert isinstance(operation, Operation)
        self.run.worker = self._flights.worker()
        if self.run.worker is None:
            return "it has failed and could not be undone: no thread could be started for that"
        trouble: str | None = await self.run.on_thread(operation.unwind)
        return trouble

    async def _execute(self, operation: OperationBase | None) -> Ended:
        self._limit_time()
        try:
            return await self.run.to_end(operation)
        except asyncio.CancelledError:
            if self._flights.torn_down or self.run.given_up:
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
        self._flights.spawn(self._land_early())

    async def _land_early(self) -> None:
        landing = shut_down()
        if self._claim is not None:
            plan = settle(self.call, self._claim, Ran(CutShort.ABANDONED), 0)
            landing = await drive_async(plan, self.perform, self._cut)
        self._land(landing)
        self.run.given_up = True
        if self.run.cancelled:
            self._task.cancel()

    def give_up(self) -> None:
        """Answers those who wait, for a flight that does not let itself be ended; its record is left as it is."""
        self._land(shut_down())


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

    def __init__(self, store: AsyncStore, *, max_detached: int) -> None:
        self.store = store
        self.leases = Leases(store, _awaited)
        self.torn_down = False
        """Whether what still runs is being cancelled, and its records left alone."""
        self.detached: set[Flight] = set()
        """The flights that no call follows any more."""
        self._max_detached = max_detached
        self._workers = Workers()
        self._closed = False
        self._flights: dict[bytes, Flight] = {}
        self._lookouts: dict[tuple[bytes, bytes], _Lookout] = {}
        self._tasks: set[asyncio.Task[None]] = set()

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

    def is_torn_down(self) -> bool:
        """Whether what still runs is being cancelled."""
        return self.torn_down

    def worker(self) -> Worker | None:
        """A thread for a ``def`` handler, if one can be had."""
        try:
            return self._workers.take()
        except RuntimeError as exc:
            logger.error("an operation was refused, since no thread could be started for it: %s", exc)
            return None

    def give_back(self, worker: Worker) -> None:
        """The thread was not needed."""
        self._workers.give_back(worker)

    def has(self, name: bytes) -> bool:
        """Whether an operation is on its way here."""
        return name in self._flights

    def forget(self, flight: Flight) -> None:
        """The flight is over: the next call of its name founds another."""
        self.detached.discard(flight)
        if self._flights.get(flight.call.name) is flight:
            del self._flights[flight.call.name]

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

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Runs something in a task of its own, which is kept from being collected and waited for at the end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a background task of the interceptor failed", exc_info=task.exception())

    async def close(self, limit: float) -> int:
        """Takes on no further flight, lets those under way land within ``limit`` seconds, and cancels what is left.

        Answers how many operations could not be brought to their end.
        """
        self._closed = True
        if self._flights:
            logger.info("waiting for %d operations to end, at most %.0f s", len(self._flights), limit)
        deadline = time.monotonic() + limit
        while self._flights and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        unfinished = len(self._flights)
        self.torn_down = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOPPING)
        for flight in [*self._flights.values()]:
            flight.give_up()
        self._workers.close()
        await asyncio.wait((asyncio.wrap_future(self.leases.close()),), timeout=STOPPING)
        return unfinished


def _awaited(call: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
    """Calls an asyncio store, whatever loop it is that runs."""
    return call()


async def pause(seconds: float) -> None:
    """Sleeps about so long: jittered, so that processes do not move in step."""
    await asyncio.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load, guards nothing
