"""Flights on threads: handlers run in threads of our own, and the server's threads only follow them.

So neither a client that goes away nor a handler that comes to no end keeps a thread of the server's, and a call whose
handler can't be stopped is answered all the same.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from grpc_idempotency._operation.running import Running
from grpc_idempotency._operation.sync import SyncRunning
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
    Plan,
    Ran,
)
from grpc_idempotency._protocol.rules import no_room, operate, settle, shut_down, watch
from grpc_idempotency._server.drive import advance, drive
from grpc_idempotency._server.flight import FlightBase
from grpc_idempotency._server.leases import Leases
from grpc_idempotency._server.replays import Replays
from grpc_idempotency._server.sync.keeper import Keeper, Timer, jittered
from grpc_idempotency._server.sync.run import SyncRun
from grpc_idempotency._server.workers import Worker, Workers
from grpc_idempotency.store import Store

logger = logging.getLogger("grpc_idempotency")


class Flight(FlightBase):
    """A flight that other threads can wait for."""

    run: SyncRun

    def __init__(self, flights: "Flights", call: Call, run: SyncRun) -> None:
        super().__init__(flights.store, flights.leases, flights.replays, call, run)
        self._flights = flights
        self._landing: Landing | None = None
        self._runs = False
        """Whether its handler runs, or has run."""
        self.followers = 0
        """How many calls follow it; guarded by the register."""
        self.over = False
        """Whether nothing of it runs any more; guarded by the register."""

    def depart(self) -> None:
        """Claims the operation in this thread, which the store alone can hold up; all that follows is a worker's.

        So what is found and not won, as a replay is, costs no hand-over to another thread.
        """
        worker = self._flights.worker()
        if worker is None:
            self._land(no_room())
            return
        plan = operate(self.call)
        landing = shut_down()
        try:
            effect = next(plan)
            while not isinstance(effect, Execute):
                effect = advance(plan, self.perform, effect)
        except StopIteration as done:
            landing = done.value
        except Exception as exc:
            self._log_failure(exc)
        else:
            worker.run(partial(contextvars.copy_context().run, self._fly, plan, effect))
            return
        self._flights.give_back(worker)
        self._land(landing)

    def launch(self) -> None:
        """Brings an operation to its end that no call follows, from its claim on in a worker's thread."""
        worker = self._flights.worker()
        if worker is None:
            self._land(no_room())
        else:
            worker.run(partial(contextvars.copy_context().run, self._fly, operate(self.call), None))

    def _fly(self, plan: Plan[Landing], effect: Effect[Any] | None) -> None:
        landing = shut_down()
        try:
            landing = drive(plan, self.perform, effect)
        except Exception as exc:
            self._log_failure(exc)
        finally:
            self._stop_renewing()
            self._land(landing)

    def _log_failure(self, error: Exception) -> None:
        logger.error("an operation of %s could not be brought to its end", self.call.method, exc_info=error)

    def landed(self) -> bool:
        """Whether it has landed."""
        return self._landing is not None

    def begun(self, until: float | None, gone: Callable[[], bool]) -> None:
        """Waits until the handler runs or the flight has landed: no longer than the store takes to answer."""
        with self.run.moved:
            timeout = None if until is None else max(0.0, until - time.monotonic())
            self.run.moved.wait_for(lambda: self._runs or self.landed() or gone(), timeout)

    def follow(self, until: float | None, gone: Callable[[], bool]) -> Landed:
        """Waits for the landing, at most until then, or until the caller has ``gone``."""
        with self.run.moved:
            timeout = None if until is None else max(0.0, until - time.monotonic())
            self.run.moved.wait_for(lambda: self.landed() or gone(), timeout)
            return Landed(self._landing)

    def play(self, until: float | None, gone: Callable[[], bool], founded: bool) -> Generator[bytes, None, Landed]:
        """The same, yielding the stream's messages meanwhile; where it was ``founded`` just now it departs before."""
        begin = self.depart if founded else None
        if self.run.held_back:
            if begin is not None:
                begin()
            return self.follow(until, gone)
        over, begun = yield from self.run.play(lambda: self.landed() or gone(), until, begin)
        return Landed(self._landing if over else None, begun)

    def stir(self) -> None:
        """Has those who wait look again whether they still want to."""
        if self._landing is None:  # else they are awake: this is called at the end of every call
            with self.run.moved:
                self.run.moved.notify_all()

    def _land(self, landing: Landing, *, over: bool = True) -> None:
        self._keep(landing)
        # First out of the register: those who wait for it and find no outcome contend for a flight of their own.
        self._flights.forget(self, over)
        with self.run.moved:
            if self._landing is None:
                self._landing = landing
            self.run.moved.notify_all()

    def pause(self, seconds: float) -> None:
        """Lets time pass."""
        time.sleep(jittered(seconds))

    def execute(self, operation: Running | None) -> Ran:
        """Runs the handler in this thread."""
        with self.run.moved:
            self._runs = True
            self.run.moved.notify_all()
        ended = self._execute(operation)
        return Ran(ended, operation is not None and bool(operation.steps))

    def unwind(self) -> str | None:
        """Undoes what the operation has finished."""
        assert isinstance(self._operation, SyncRunning)
        limit = self._limit_time()
        try:
            return self.run.unwind(self._operation)
        finally:
            limit.cancel()

    def _execute(self, operation: Running | None) -> Ended:
        limit = self._limit_time()
        try:
            return self.run.to_end(operation)
        finally:
            limit.cancel()

    def _limit_time(self) -> Timer:
        """From now on the handler, or the undos, have as long as a handler may run."""
        return self._flights.keeper.later(self.call.policy.execution_limit.total_seconds(), self._overrun)

    def _overrun(self) -> None:
        """No thread can be stopped: those who wait are answered now, its own thread settles what may still come."""
        logger.error("the handler of %s ran past its execution limit", self.call.method)
        if self._claim is None:
            self.abandon()
            return
        plan = settle(self.call, self._claim, Ran(CutShort.ABANDONED), 0)
        self._flights.asker.carry(plan, self.perform, partial(self._land, over=False))

    def abandon(self) -> None:
        """Leaves the operation as that of a dead server; those who wait are answered now."""
        self._stop_renewing()
        self._land(shut_down(), over=False)


class _Lookout:
    """One poller of a run in another process, for all calls of this process that wait for it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.timer: Timer | None = None
        self.followers = 0


class Flights:
    """The flights and lookouts of one interceptor."""

    def __init__(self, store: Store, replays: Replays, *, max_waiters: int, max_detached: int) -> None:
        self.store = store
        self.replays = replays
        self.keeper = Keeper("limits")
        """Limits the time of handlers. It never waits for the store."""
        self.asker = Keeper("polls")
        """Asks the store of runs in other processes, and settles operations whose handlers can't be stopped."""
        self.detached: set[Flight] = set()
        """The flights that run and that no call follows any more."""
        self._workers = Workers()
        self.leases = Leases(store, self._workers.asked)
        self._waiters = threading.BoundedSemaphore(max_waiters) if max_waiters else None
        self._max_detached = max_detached
        self._changed = threading.Condition()
        self._closed = False
        self._flights: dict[bytes, Flight] = {}
        self._lookouts: dict[tuple[bytes, bytes], _Lookout] = {}

    def board(self, call: Call, new_run: Callable[[], SyncRun]) -> Boarded | None:
        """Joins the flight of the call's name or founds one; ``None`` when no further one is taken on.

        Each flight has a run of its own: a call may found several, one after another, and a run is good for one time.
        """
        with self._changed:
            flight = self._flights.get(call.name)
            if flight is not None:
                return Boarded(flight.call.fingerprint, False, flight)
            if self._closed or len(self.detached) >= self._max_detached:
                return None
            flight = self._flights[call.name] = Flight(self, call, new_run())
            return Boarded(call.fingerprint, True, flight)

    def launch(self, call: Call, new_run: Callable[[], SyncRun]) -> None:
        """Founds a flight that no call follows."""
        boarded = self.board(call, new_run)
        if boarded is not None and boarded.founded:
            assert isinstance(boarded.flight, Flight)
            with self.following(boarded.flight):
                boarded.flight.launch()

    def worker(self) -> Worker | None:
        """A thread for a handler, where those are there too that renew its lease and limit its time."""
        try:
            self.keeper.start()
            self.leases.start()
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

    def forget(self, flight: Flight, over: bool) -> None:
        """The flight has landed: the next call of its name founds another. ``over``: its handler has ended, too."""
        with self._changed:
            if self._flights.get(flight.call.name) is flight:
                del self._flights[flight.call.name]
            flight.over = flight.over or over
            self._count(flight)
            self._changed.notify_all()

    @contextmanager
    def following(self, flight: Flight) -> Iterator[None]:
        """Counts a call among those who follow the flight."""
        with self._changed:
            flight.followers += 1
            self._count(flight)
        try:
            yield
        finally:
            with self._changed:
                flight.followers -= 1
                self._count(flight)

    def _count(self, flight: Flight) -> None:
        if flight.over or flight.followers:
            self.detached.discard(flight)
        else:
            self.detached.add(flight)

    @contextmanager
    def waiting(self) -> Iterator[bool]:
        """Takes one of the places for those who wait, if one is free: each holds up a thread of the server (4.3)."""
        free = self._waiters is not None and self._waiters.acquire(blocking=False)
        try:
            yield free
        finally:
            if free and self._waiters is not None:
                self._waiters.release()

    def watch(self, name: bytes, fence: bytes, until: float) -> bool:
        """Waits until the run in another process is over; ``False`` when the time was."""
        with self._changed:
            lookout = self._lookouts.get((name, fence))
            if lookout is None or lookout.over.is_set():
                lookout = self._lookouts[name, fence] = _Lookout()
                over = lookout.over
                lookout.timer = self.asker.carry(watch(name, fence), self._perform, lambda _: over.set())
            lookout.followers += 1
        try:
            return lookout.over.wait(max(0.0, until - time.monotonic()))
        finally:
            with self._changed:
                lookout.followers -= 1
                if not lookout.followers:
                    assert lookout.timer is not None
                    lookout.timer.cancel()
                    if self._lookouts.get((name, fence)) is lookout:
                        del self._lookouts[name, fence]

    def _perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case Get(name):
                return self.store.get(name)
            case _:
                raise AssertionError(f"no lookout performs {effect!r}")

    def close(self, limit: float) -> int:
        """Takes on no further flight, and lets those under way land within ``limit`` seconds.

        Answers how many operations could not be brought to their end. What is to be done at its time is so until
        :meth:`end`.
        """
        with self._changed:
            self._closed = True
            if self._flights:
                logger.info("waiting for %d operations to end, at most %.0f s", len(self._flights), limit)
            self._changed.wait_for(lambda: not self._flights, limit)
            unfinished = list(self._flights.values())
        for flight in unfinished:
            flight.abandon()
        self._workers.close()
        return len(unfinished)

    def end(self) -> None:
        """Ends the threads that are no handlers', after what they are doing."""
        ended = self.leases.close()
        self.keeper.close()
        self.asker.close()
        ended.result()
