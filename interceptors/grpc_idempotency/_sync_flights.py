"""Flights on threads: a unary operation runs in the thread of the call that founds it, a streaming one in its own."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from grpc_idempotency._drive import drive
from grpc_idempotency._effects import Boarded, Call, CutShort, Effect, Ended, Get, Landed, Landing, Ran
from grpc_idempotency._flight import FlightBase
from grpc_idempotency._protocol import keep_lease, operate, settle, shut_down, watch
from grpc_idempotency._sync_keeper import Keeper, Timer, jittered
from grpc_idempotency._sync_run import SyncRun
from grpc_idempotency.operation import Operation, OperationBase
from grpc_idempotency.store import Store

logger = logging.getLogger("grpc_idempotency")


class Flight(FlightBase):
    """A flight that other threads can wait for."""

    run: SyncRun

    def __init__(self, flights: "Flights", call: Call, run: SyncRun, give_up: Callable[[], object]) -> None:
        """``give_up`` ends the founding call at its client, for a handler that won't come to its end."""
        super().__init__(flights.store, call, run)
        self._flights = flights
        self._give_up = give_up
        self._landing: Landing | None = None
        self._runs = False
        """Whether its handler runs, or has run."""
        self._renewal: Timer | None = None
        self._ended = False
        self.followers = 0
        """How many calls follow it; guarded by the register."""

    def fly(self) -> None:
        """Brings the operation to its end, in this thread."""
        landing = shut_down()
        try:
            landing = drive(operate(self.call), self.perform)
        except Exception:
            logger.exception("an operation of %s could not be brought to its end", self.call.method)
        finally:
            self._stop_renewing()
            self._land(landing)

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
        """The same, yielding the stream's messages meanwhile; for the founder, in whose thread it does not run."""
        begin = (lambda: in_thread(self.fly)) if founded else None
        if self.run.held_back:
            if begin is not None:
                begin()
            return self.follow(until, gone)
        over, begun = yield from self.run.play(lambda: self.landed() or gone(), until, begin)
        return Landed(self._landing if over else None, begun)

    def stir(self) -> None:
        """Has those who wait look again whether they still want to."""
        with self.run.moved:
            self.run.moved.notify_all()

    def _land(self, landing: Landing) -> None:
        # First out of the register: those who wait for it and find no outcome contend for a flight of their own.
        self._flights.forget(self)
        with self.run.moved:
            if self._landing is None:
                self._landing = landing
            self.run.moved.notify_all()

    def pause(self, seconds: float) -> None:
        """Lets time pass."""
        time.sleep(jittered(seconds))

    def execute(self, operation: OperationBase | None) -> Ran:
        """Runs the handler in this thread."""
        with self.run.moved:
            self._runs = True
            self.run.moved.notify_all()
        ended = self._execute(operation)
        return Ran(ended, operation is not None and bool(operation.steps))

    def unwind(self) -> str | None:
        """Undoes what the operation has finished."""
        assert isinstance(self._operation, Operation)
        limit = self._limit_time()
        try:
            return self.run.unwind(self._operation)
        finally:
            limit.cancel()

    def _execute(self, operation: OperationBase | None) -> Ended:
        limit = self._limit_time()
        if operation is not None:
            every = self.call.policy.renew_every
            self._renewal = self._flights.keeper.later(every.total_seconds(), self._start_renewing)
        try:
            return self.run.to_end(operation)
        finally:
            limit.cancel()

    def _limit_time(self) -> Timer:
        """From now on the handler, or the undos, have as long as a handler may run."""
        return self._flights.keeper.later(self.call.policy.execution_limit.total_seconds(), self._overrun)

    def _start_renewing(self) -> None:
        assert self._claim is not None
        self._renewal = self._flights.keeper.carry(keep_lease(self._claim, self.call.policy.renew_every), self.perform)
        if self._ended:  # meanwhile, and it could not cancel what was not there yet
            self._renewal.cancel()

    def _stop_renewing(self) -> None:
        self._ended = True
        if self._renewal is not None:
            self._renewal.cancel()

    def _overrun(self) -> None:
        """No thread can be stopped: those who wait are answered now, its own thread settles what may still come."""
        logger.error("the handler of %s ran past its execution limit", self.call.method)
        self._stop_renewing()
        if self._claim is None:
            self._land_early(shut_down())
            return
        plan = settle(self.call, self._claim, Ran(CutShort.ABANDONED), 0)
        self._flights.keeper.carry(plan, self.perform, self._land_early)

    def _land_early(self, landing: Landing) -> None:
        self._land(landing)
        self._give_up()


class _Lookout:
    """One poller of a run in another process, for all calls of this process that wait for it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.timer: Timer | None = None
        self.followers = 0


class Flights:
    """The flights and lookouts of one interceptor."""

    def __init__(self, store: Store, *, max_waiters: int, max_detached: int) -> None:
        self.store = store
        self.keeper = Keeper()
        self._waiters = threading.BoundedSemaphore(max_waiters) if max_waiters else None
        self._max_detached = max_detached
        self._changed = threading.Condition()
        self._closed = False
        self._flights: dict[bytes, Flight] = {}
        self._lookouts: dict[tuple[bytes, bytes], _Lookout] = {}

    def board(self, call: Call, new_run: Callable[[], SyncRun], give_up: Callable[[], object]) -> Boarded | None:
        """Joins the flight of the call's name or founds one; ``None`` when no further one is taken on.

        Each flight has a run of its own: a call may found several, one after another, and a run is good for one time.
        """
        with self._changed:
            flight = self._flights.get(call.name)
            if flight is not None:
                return Boarded(flight.call.fingerprint, False, flight)
            if self._closed or self._detached() >= self._max_detached:
                return None
            flight = self._flights[call.name] = Flight(self, call, new_run(), give_up)
            return Boarded(call.fingerprint, True, flight)

    def launch(self, call: Call, new_run: Callable[[], SyncRun]) -> None:
        """Founds a flight that no call follows, in a thread of its own."""
        boarded = self.board(call, new_run, lambda: None)
        if boarded is not None and boarded.founded:
            assert isinstance(boarded.flight, Flight)
            in_thread(boarded.flight.fly)

    def _detached(self) -> int:
        """How many flights no call follows any more; they are only counted where they could be too many."""
        if len(self._flights) < self._max_detached:
            return 0
        return sum(not flight.followers for flight in self._flights.values())

    def has(self, name: bytes) -> bool:
        """Whether an operation is on its way here."""
        return name in self._flights

    def forget(self, flight: Flight) -> None:
        """The flight is over: the next call of its name founds another."""
        with self._changed:
            if self._flights.get(flight.call.name) is flight:
                del self._flights[flight.call.name]
            self._changed.notify_all()

    @contextmanager
    def following(self, flight: Flight) -> Iterator[None]:
        """Counts a call among those who follow the flight."""
        with self._changed:
            flight.followers += 1
        try:
            yield
        finally:
            with self._changed:
                flight.followers -= 1

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
                lookout.timer = self.keeper.carry(watch(name, fence), self._perform, lambda _: over.set())
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

        Answers how many operations could not be brought to their end.
        """
        with self._changed:
            self._closed = True
            if self._flights:
                logger.info("waiting for %d operations to end, at most %.0f s", len(self._flights), limit)
            self._changed.wait_for(lambda: not self._flights, limit)
            unfinished = len(self._flights)
        self.keeper.close()
        return unfinished


def in_thread(work: Callable[[], None]) -> None:
    """A thread of its own, in which the context variables that interceptors outside have set are seen."""
    here = contextvars.copy_context()
    threading.Thread(target=here.run, args=(work,), name="grpc-idempotency-stream", daemon=True).start()
