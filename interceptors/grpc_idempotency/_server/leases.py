"""The leases and execution limits of one interceptor's operations, and the one thread that watches them (4.4, 4.9).

The thread does nothing else and has an event loop of its own. So neither a handler that blocks the server's loop nor
anything else in the server delays a renewal, and a late answer to one renewal delays no other. Renewals that are due at
the same time are asked for at the same time, so that the store can write them together.

A call that ends before its first renewal or its limit is due costs only an entry in a dict. The thread sleeps until the
next one is due.
"""

import asyncio
import concurrent.futures
import contextvars
import logging
import math
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from grpc_idempotency._jitter import uniform
from grpc_idempotency._protocol.effects import Effect, Get, LeaseHolds, LoseLease, Pause, Renew, Tell, Told
from grpc_idempotency._protocol.rules import keep_lease
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.drive import drive_async
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Claim, Renewal

logger = logging.getLogger("grpc_idempotency")
T = TypeVar("T")

Ask = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Makes a call to the store and awaits its answer, in the thread of the leases."""

TICK = 0.001
"""How many seconds too early a store may find that a lease has run out, since it counts in milliseconds."""

_LONGEST_SLEEP = 30.0
"""Seconds after which a limit is read again, since it may have changed."""

MOST_UNANSWERED = 3
"""How many renewals of one lease may be under way. A lost one does not block the next, and they do not pile up."""


class Lease:
    """An operation's lease as its owner knows it, and the limit of the handler or undo that runs under it.

    Args:
        claim: The claim that has the lease; ``None`` while there is no claim, so that there is nothing to renew.
        every: The time between two renewals.
        asked_at: When the store was asked for it, in seconds of :func:`~grpc_idempotency._server.clock.now`. The lease
            began no earlier, so it ends no earlier than its owner assumes.
        tell: Called when the lease has ended while the operation runs, in the thread of the leases.
        overrun: Called in the thread of the leases when the limit is reached. It must not block.
    """

    __slots__ = ("_tell", "claim", "every", "limit", "lost", "overrun", "renew_at", "unanswered", "until")

    def __init__(
        self,
        claim: Claim | None,
        every: timedelta,
        asked_at: float,
        tell: Callable[[Told], object],
        overrun: Callable[[], object],
    ) -> None:
        self.claim: Claim | None = None
        self.every = every
        self.until = self.renew_at = math.inf
        """When it runs out, and when its first renewal is due, by the same clock."""
        self.limit = math.inf
        """When the handler or the undos reach their execution limit, by the same clock."""
        self.lost = False
        """True if the operation has another owner now, or is held."""
        self.unanswered: tuple[asyncio.Future[Renewal], ...] = ()
        """The renewals that the store has not answered yet. Used only in the thread of the leases."""
        self.overrun = overrun
        self._tell = tell
        if claim is not None:
            self.granted(claim, asked_at)

    def granted(self, claim: Claim, asked_at: float) -> None:
        """Notes that the store has granted the claim, which it was asked for at ``asked_at``."""
        self.claim = claim
        self.until = asked_at + claim.lease.total_seconds() - TICK
        self.renew_at = self.until - (claim.lease - self.every).total_seconds()

    def renewed(self, asked_at: float) -> None:
        """Notes that the store has granted a renewal that it was asked for at ``asked_at``."""
        assert self.claim is not None
        self.until = max(self.until, asked_at + self.claim.lease.total_seconds() - TICK)

    def holds(self) -> bool:
        """True if no other run of the operation can have begun. May be called in any thread."""
        return not self.lost and now() < self.until

    def tell(self, told: Told) -> None:
        """Tells that it has ended, and how."""
        self._tell(told)


class Leases:
    """Renews leases, and reports reached limits, until the leases are dropped.

    Args:
        store: The store that has the records.
        ask: Makes a call to the store.
    """

    def __init__(self, store: Any, ask: Ask) -> None:
        self._store = store
        self._ask = ask
        self._lock = threading.Lock()
        self._kept: dict[Lease, float | asyncio.Task[None]] = {}
        """For each lease, when its renewal or limit is first due, or the task that watches it from then on."""
        self._looks_at = math.inf
        """When the thread wakes next."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.started = False
        """True once its thread was started."""
        self._stop = asyncio.Event()  # used only in the thread
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._closed = False

    # Any thread

    def keep(self, lease: Lease) -> None:
        """Renews the lease from now on, and watches its limit. The thread must have been started before.

        Every keyed call that runs a handler comes here, so it does as little as possible.
        """
        due = min(lease.renew_at, lease.limit)
        with self._lock:
            self._kept[lease] = due
            if due >= self._looks_at or self._closed:
                return
            self._looks_at = due
        if self._loop is not None:  # there is none if this was closed before it was needed
            _post(self._loop, self._set_timer)

    def drop(self, lease: Lease) -> None:
        """Stops renewing the lease and watching its limit.

        A renewal that is under way may reach the store later. The record's fence refuses it then.
        """
        with self._lock:
            renewing = self._kept.pop(lease, None)
        if isinstance(renewing, asyncio.Task) and self._loop is not None:
            _post(self._loop, renewing.cancel)

    def start(self) -> None:
        """Starts the thread, unless there is one. Called before a claim, so that no claim has a lease without renewals.

        Raises:
            RuntimeError: No thread can be started.
        """
        if self._loop is None:
            with self._lock:
                self._start()

    def _start(self) -> None:
        if self._loop is not None or self._closed:
            return
        loop = asyncio.new_event_loop()
        # The thread has no reference to this object, so that it and its store can be collected if it is never closed.
        serve = partial(_serve, loop, self._stop, self._ended)
        thread = threading.Thread(target=serve, name="grpc-idempotency-leases", daemon=True)
        try:
            thread.start()
        except BaseException:
            loop.close()
            raise
        self._loop = loop  # set only now: if the thread could not be started, the next call tries again
        self.started = True
        weakref.finalize(self, _post, loop, self._stop.set).atexit = False

    def close(self) -> "concurrent.futures.Future[None]":
        """Stops all renewals, and ends the thread.

        Returns:
            A future that is done when the thread has ended.
        """
        with self._lock:
            loop, again, self._closed = self._loop, self._closed, True
            self._kept.clear()
        if again:
            return self._ended
        if loop is None:
            self._ended.set_result(None)
        else:
            _post(loop, self._stop.set)
        return self._ended

    # The thread

    def _set_timer(self) -> None:
        """Sets the timer to the time when the next lease is due. Leases that are dropped before then do not change it.

        So successive calls that end before their leases are due wake this thread once, and not once each.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looks_at < math.inf:
            delay = max(0.0, self._looks_at - now())
            self._timer = asyncio.get_running_loop().call_later(delay, _do, weakref.WeakMethod(self._look))

    def _look(self) -> None:
        """Starts a task for each lease that is due, and sets the timer for the next one."""
        loop, at = asyncio.get_running_loop(), now()
        with self._lock:
            due = [lease for lease, when in self._kept.items() if isinstance(when, float) and when <= at]
            for lease in due:
                self._kept[lease] = loop.create_task(self._mind(lease))
            later = (when for when in self._kept.values() if isinstance(when, float))
            self._looks_at = min(later, default=math.inf)
        self._set_timer()

    async def _mind(self, lease: Lease) -> None:
        """Renews a lease and reports its limit, until it is dropped, which cancels this task."""
        renewing: asyncio.Task[None] | None = None
        try:
            while True:
                at = now()
                if renewing is None and at >= lease.renew_at:
                    renewing = asyncio.get_running_loop().create_task(self._renew(lease))
                if at >= lease.limit:
                    lease.limit = math.inf
                    lease.overrun()
                due = min(lease.limit, math.inf if renewing is not None else lease.renew_at)
                await asyncio.sleep(min(max(0.0, due - at), _LONGEST_SLEEP))
        finally:
            if renewing is not None:
                renewing.cancel()

    async def _renew(self, lease: Lease) -> None:
        assert lease.claim is not None
        try:
            await drive_async(keep_lease(lease.claim, lease.every), partial(self._perform, lease))
        except Exception:
            logger.exception("a lease could not be kept")

    def _perform(self, lease: Lease, effect: Effect[Any]) -> Any:
        if lease not in self._kept:  # it was dropped, so the store's answer means nothing any more
            raise asyncio.CancelledError
        match effect:
            case Renew(patience=patience):
                return self._renewed(lease, patience)
            case Get(name):
                return self._answer(lease, partial(self._store.get, name))
            case LeaseHolds():
                return lease.holds()
            case LoseLease():
                lease.lost = True
                return None
            case Tell(told):
                return lease.tell(told)
            case Pause(seconds):
                # Earlier, never later. The jitter keeps processes out of step.
                return asyncio.sleep(seconds * uniform(0.8, 1.0))
            case _:
                raise AssertionError(f"no lease performs {effect!r}")

    async def _renewed(self, lease: Lease, patience: float | None) -> Renewal:
        if len(lease.unanswered) >= MOST_UNANSWERED:
            await asyncio.wait(lease.unanswered, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        lease.unanswered = tuple(asked for asked in lease.unanswered if not asked.done())
        if len(lease.unanswered) < MOST_UNANSWERED:
            asking = asyncio.ensure_future(self._extend(lease))
            asking.add_done_callback(_heard)
            lease.unanswered += (asking,)
            done, _ = await asyncio.wait((asking,), timeout=patience)
            if done:
                return asking.result()
        # If the answer comes later, it still counts.
        raise StoreUnavailable("the store did not answer in time", landed=None)

    async def _extend(self, lease: Lease) -> Renewal:
        claim, asked_at = lease.claim, now()
        assert claim is not None
        ask = partial(self._store.renew, claim.name, claim.fence, claim.lease)
        renewal: Renewal = await self._answer(lease, ask)
        if renewal is Renewal.RENEWED:
            lease.renewed(asked_at)
        return renewal

    async def _answer(self, lease: Lease, call: Callable[[], Any]) -> Any:
        """Returns the store's answer. Every error counts as one that may pass, since the lease may still hold.

        Raises:
            StoreUnavailable: The store did not answer, or its call failed.
        """
        try:
            return await self._ask(call)
        except StoreUnavailable:
            raise
        except BaseException as exc:
            if lease not in self._kept:  # this object has cancelled it
                raise
            # A cancellation comes from the store itself then. No error of the store may end the renewals.
            logger.warning("the store could not be asked for a lease", exc_info=exc)
            raise StoreUnavailable(str(exc), landed=None) from exc


def _serve(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, ended: "concurrent.futures.Future[None]") -> None:
    """Runs the loop until ``stop`` is set, then cancels its tasks."""

    async def main() -> None:
        await stop.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
        ended.set_result(None)


def _post(loop: asyncio.AbstractEventLoop, do: Callable[[], object]) -> None:
    """Schedules a function in the loop, with an empty context. Does nothing if the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(do, context=contextvars.Context())


def _do(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    """Calls the method if its object still exists."""
    do = method()
    if do is not None:
        do()


def _heard(asking: "asyncio.Future[Renewal]") -> None:
    """Reads the error of a late renewal, so that asyncio does not log it as never retrieved."""
    if not asking.cancelled():
        asking.exception()
