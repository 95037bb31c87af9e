"""Flights on asyncio: the executions of this process, each in a task of its own that calls only follow."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from grpc_idempotency._jitter import uniform
from grpc_idempotency._operation.aio import AsyncRunning
from grpc_idempotency._operation.running import Running
from grpc_idempotency._operation.sync import LoopRunning, SyncRunning
from grpc_idempotency._protocol.effects import (
    Boarded,
    Call,
    CutShort,
    Effect,
    Ended,
    Execute,
    Get,
    Landed,
    Landing,
    Pause,
    Ran,
)
from grpc_idempotency._protocol.rules import no_room, settle, shut_down, watch
from grpc_idempotency._server.aio.run import AioRun, run_until_left
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.drive import drive_async, lost
from grpc_idempotency._server.flight import STOPPING, FlightBase
from grpc_idempotency._server.leases import Leases
from grpc_idempotency._server.replays import Replays
from grpc_idempotency._server.target import Target
from grpc_idempotency._server.workers import Worker, Workers
from grpc_idempotency.errors import IdempotencyError
from grpc_idempotency.store import AsyncStore

T = TypeVar("T")
logger = logging.getLogger("grpc_idempotency")

Write = Callable[[bytes], Awaitable[None]]


class Flight(FlightBase):
    """A flight whose handler runs in a task."""

    run: AioRun | None
    _flights: "Flights"
    _loop: asyncio.AbstractEventLoop

    _task: asyncio.Task[None] | None = None
    """The task that it is in; ``None`` before its claim is won, and where that never was."""
    _work: Coroutine[Any, Any, None] | None = None
    """Its way, where tasks may be cancelled on it that it does not end with."""
    _left = False
    """True while no task is on its way, but only a thread."""
    _first: Effect[Any] | None = None
    """What its task is to begin with, until it has begun."""
    _limited = False
    """True while a handler or an undo runs, whose time is limited."""
    _overran = False
    _stopping: asyncio.TimerHandle | None = None
    """What gives up a handler that does not let itself be stopped."""

    def __init__(
        self, flights: "Flights", call: Call, target: Target, messages: Sequence[Any], snapshot: Snapshot
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: set[asyncio.Future[Landing | None]] = set()
        super().__init__(flights, call, target, messages, snapshot)

    def _kind(self) -> type[Running]:
        return AsyncRunning if self._target.awaited else LoopRunning

    def new_run(self) -> AioRun:
        """A run of its handler."""
        run = AioRun.of(self._target, self._messages, self._snapshot)
        run.orphaned = self._stop_renewing
        return run

    # For those who follow

    async def follow(self, until: float | None, write: Write | None) -> Landed:
        """Waits for the landing, at most until then, and hands on a stream's messages meanwhile.

        A caller that is cancelled leaves the flight alone.
        """
        self._flights.detached.discard(self)
        self.followers += 1
        try:
            if write is None or self.run is None or self.run.held_back:
                return Landed(self.landing or await self._wait(until))
            end = self.waiter()
            ended, begun = await self.run.play(write, end, until)
            return Landed(end.result() if ended else None, begun)
        finally:
            self.followers -= 1
            if not self.followers and not self.over:
                self._flights.detached.add(self)

    async def _wait(self, until: float | None) -> Landing | None:
        # Not asyncio.wait, which takes a turn of the loop more: this is on every call's way.
        waiter, timer = self.waiter(), None
        if until is not None:
            timer = self._loop.call_later(max(0.0, until - time.monotonic()), _wake, waiter, None)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()

    def waiter(self) -> asyncio.Future[Landing | None]:
        """What is done once it has landed, with what those hear who wait now."""
        waiter: asyncio.Future[Landing | None] = self._loop.create_future()
        if self.landing is None:
            self._waiters.add(waiter)
        else:
            waiter.set_result(self.landing)
        return waiter

    # Its way

    def begin(self) -> None:
        """Asks the store for the operation. Nothing else is made before it is known that the handler is to run."""
        flights = self._flights
        # Before the claim: what can't begin, or what nobody would renew the lease of, must not be claimed.
        can_renew = flights.leases.started or flights.can_renew()
        if not can_renew or not (self._target.awaited or self._take_worker()):
            self._land(no_room())
            return
        effect = next(self._plan)
        try:
            reply = self.perform(effect)
        except IdempotencyError:
            self._depart(effect)  # it is asked again there, and its plan told
        else:
            asked: asyncio.Future[Any] = reply if asyncio.isfuture(reply) else asyncio.ensure_future(_answer_of(reply))
            asked.add_done_callback(self._answered)

    def _take_worker(self) -> bool:
        self.worker = self._flights.worker()
        return self.worker is not None

    def _answered(self, asked: "asyncio.Future[Any]") -> None:
        """The store has answered: the operation is claimed, and gets a task, or its record stands in the way."""
        error = lost() if asked.cancelled() else asked.exception()
        if self._flights.torn_down:
            self._land(shut_down())
            return
        try:
            effect = self._plan.send(asked.result()) if error is None else self._plan.throw(error)
        except StopIteration as done:
            self._land(done.value)
        except Exception as exc:
            self._log_failure(exc)
            self._land(shut_down())
        else:
            self._depart(effect)

    def _depart(self, effect: Effect[Any]) -> None:
        self._first = effect
        work = self._fly(effect) if self._target.awaited else self._fly_on(effect)
        self._task = self._flights.spawn(work, self._land_at_last)

    async def _fly(self, effect: Effect[Any]) -> None:
        self._first = None
        landing: Landing | None = None
        try:
            landing = await drive_async(self._plan, self.perform, self._cut, effect)
        except asyncio.CancelledError:
            pass  # the server is being torn down; the record is left as that of a dead server (4.4)
        except Exception as exc:
            self._log_failure(exc)
        finally:
            self._land(landing or shut_down())

    def _log_failure(self, error: Exception) -> None:
        logger.error("an operation of %s could not be brought to its end", self.call.method, exc_info=error)

    async def _fly_on(self, effect: Effect[Any] | None) -> None:
        """The same, where the handler has a thread. A task that is cancelled ends, also while the thread runs.

        The operation goes on in another task when the thread has ended. Until then the lease is kept, and where the
        loop has ended meanwhile, the record is left as that of a dead server.
        """
        self._left = False
        if effect is not None:
            self._work = self._fly(effect)
        assert self._work is not None
        if await run_until_left(self._work, self._waits_for_thread, again=effect is None):
            return
        self._left = True
        assert self.run is not None
        assert self.run.in_thread is not None
        self.run.in_thread.add_done_callback(self._go_on)
        if self._flights.torn_down:
            self.give_up()

    def _waits_for_thread(self) -> bool:
        return self.run is not None and self.run.in_thread is not None and not self.run.in_thread.done()

    def _go_on(self, _ended: object) -> None:
        assert self._task is not None
        if self._left and self._task.done():
            self._task = self._flights.spawn(self._fly_on(None), self._land_at_last)

    def _land_at_last(self) -> None:
        """Its task has ended, which may have been cancelled before its first step."""
        if not self._left:
            if self._first is not None:
                self._never_begin(self._first)
        elif not self._waits_for_thread() and not self._flights.torn_down:
            self._go_on(None)

    def _never_begin(self, effect: Effect[Any]) -> None:
        """Its task was cancelled before its first step: what was claimed for it is given back, as no handler ran."""
        if isinstance(effect, Execute) and effect.claim is not None and effect.claimed and not self._flights.torn_down:
            reply = self._store.release(effect.claim.name, effect.claim.fence)
            given_back = reply if asyncio.isfuture(reply) else asyncio.ensure_future(_answer_of(reply))
            given_back.add_done_callback(self._given_back)
        else:
            self._land(shut_down())

    def _given_back(self, answered: "asyncio.Future[Any]") -> None:
        if not answered.cancelled() and answered.exception() is not None:
            logger.warning("a claim on an operation of %s could not be given back", self.call.method)
        self._land(shut_down())

    def _cut(self) -> None:
        """The task is cancelled, but not in its handler: by somebody who cancels all. It goes on, unless torn down."""
        if self._flights.torn_down:
            raise asyncio.CancelledError

    def _land(self, landing: Landing, *, over: bool = True) -> None:
        # First out of the register: those who wait for it and find no outcome contend for a flight of their own.
        if over:
            self.over = True
            if self.worker is not None:
                self._flights.give_back(self.worker)
                self.worker = None
        if not over and self._stays(landing):
            self.early = landing
        else:
            self._settled(landing, over=over)
            self._flights.forget(self)
            self.landing = self.landing or landing
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _wake(waiter, landing)

    def pause(self, seconds: float) -> Awaitable[None]:
        """Lets time pass."""
        return pause(seconds)

    async def execute(self, effect: Execute) -> Ran:
        """Runs the handler in this task."""
        operation = self._begin(effect)
        assert self.run is not None
        self.run.worker, self.worker = self.worker, None
        self._limited = True
        ended: Ended
        try:
            ended = await self.run.to_end(operation)
        except asyncio.CancelledError:
            if self._flights.torn_down:
                raise
            ended = CutShort.OVERRAN if self._overran else CutShort.CANCELLED
        finally:
            self._unlimit()
        return self._ran(ended, operation)

    async def unwind(self) -> str | None:
        """Undoes what the operation has finished, in the handler's own kind of thread."""
        self._limit_anew()
        self._limited = True
        try:
            return await self._unwind()
        except asyncio.CancelledError:
            if self._flights.torn_down:
                raise
            return "it has failed and could not be undone: an undo was stopped before its end"
        finally:
            self._unlimit()

    async def _unwind(self) -> str | None:
        operation = self._operation
        if isinstance(operation, AsyncRunning):
            return await operation.unwind()
        assert isinstance(operation, SyncRunning)
        assert self.run is not None
        self.run.worker = self._flights.worker()
        if self.run.worker is None:
            return "it has failed and could not be undone: no thread could be started for that"
        trouble: str | None = await self.run.on_thread(operation.unwind)
        return trouble

    def _unlimit(self) -> None:
        """What had a limit has ended."""
        self._limited = False
        if self._stopping is not None:
            self._stopping.cancel()
            self._stopping = None

    def overrun(self) -> None:
        """What runs has reached its limit."""
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
        """The handler can't be stopped: those who wait are answered now, its own task settles what may still come."""
        self._flights.spawn(self._land_early(), self._answer_at_least)

    async def _land_early(self) -> None:
        if self._claim is not None:
            plan = settle(self.call, self._claim, Ran(CutShort.ABANDONED), 0)
            self._land(await drive_async(plan, self.perform, self._cut), over=False)

    def _answer_at_least(self) -> None:
        """The task that was to answer at the limit has ended, which may have been cancelled."""
        if self.early is None:
            self.give_up()

    def give_up(self) -> None:
        """Answers those who wait still, for a flight that does not let itself be ended; its record is left as it is."""
        if self.landing is None:
            self._land(shut_down(), over=False)


async def _answer_of(reply: Awaitable[T]) -> T:
    return await reply


def _wake(waiter: "asyncio.Future[Landing | None]", landing: Landing | None) -> None:
    if not waiter.done():
        waiter.set_result(landing)


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

    def board(self, call: Call, target: Target, messages: Sequence[Any], snapshot: Snapshot) -> Boarded | None:
        """Joins the flight of the call's name or founds one; ``None`` when no further one is taken on."""
        flight = self._flights.get(call.name)
        if flight is not None:
            return Boarded(flight.call.fingerprint, False, flight)
        if self._closed or len(self.detached) >= self._max_detached:
            return None
        flight = self._flights[call.name] = Flight(self, call, target, messages, snapshot)
        flight.begin()
        return Boarded(call.fingerprint, True, flight)

    def can_renew(self) -> bool:
        """True if the thread is there that renews leases."""
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
