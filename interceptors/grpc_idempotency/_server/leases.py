"""The leases and execution limits of one interceptor's operations, and the one thread that minds them (4.4, 4.9).

The thread does nothing else and has an event loop of its own. So neither a handler that blocks the server's loop nor
anything else that a server does delays a renewal, and one whose answer is late delays none of the others. Those that
are due at the same time are asked for at the same time, so that the store can write them together.

A call that ends before its first renewal is due, or its limit, costs an entry in a dict. The thread looks when the next
one is due.
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
from grpc_idempotency._protocol.effects import Effect, Event, Get, LeaseHolds, LoseLease, Pause, Renew, Tell
from grpc_idempotency._protocol.rules import keep_lease
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.drive import drive_async
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Claim

logger = logging.getLogger("grpc_idempotency")
T = TypeVar("T")

Ask = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Makes a call of the store and awaits its answer, in the thread of the leases."""

TICK = 0.001
"""How many seconds early a store may find a lease over, since it counts in milliseconds."""

_LONGEST_SLEEP = 30.0
"""Seconds after which the limit of what runs is looked at again, since it may have changed."""

MOST_UNANSWERED = 3
"""How many renewals of one lease may be under way: one that is lost holds up no other, and they do not pile up."""


class Lease:
    """An operation's lease as its owner knows it, and the limit of what runs under it.

    Args:
        claim: What it was asked for with; ``None`` while there is no claim, and nothing to renew.
        every: How often it is renewed.
        asked_at: When the store was asked for it, by :func:`~grpc_idempotency._server.clock.now`: it began no earlier,
            and so ends no earlier than we think.
        tell: Writes an event of its operation to the log.
        overrun: Called in the thread of the leases when the limit is reached; it does not block.
    """

    __slots__ = ("_tell", "claim", "every", "limit", "lost", "overrun", "renew_at", "unanswered", "until")

    def __init__(
        self,
        claim: Claim | None,
        every: timedelta,
        asked_at: float,
        tell: Callable[[Event], object],
        overrun: Callable[[], object],
    ) -> None:
        self.claim = claim
        self.every = every
        self.until = math.inf if claim is None else asked_at + claim.lease.total_seconds() - TICK
        self.limit = math.inf
        """When the handler, or an undo, has run for as long as it may, by the same clock."""
        self.lost = False
        """True if the operation has another owner by now, or is held."""
        self.unanswered: tuple[asyncio.Future[bool], ...] = ()
        """The renewals that the store has not answered yet. The thread of the leases alone knows them."""
        self.overrun = overrun
        self._tell = tell

        self.renew_at = math.inf if claim is None else self.until - (claim.lease - every).total_seconds()
        """When it is to be renewed for the first time."""

    def granted(self, claim: Claim, asked_at: float) -> None:
        """Notes that there is a claim after all, for which the store was asked then."""
        self.claim = claim
        self.until = asked_at + claim.lease.total_seconds() - TICK
        self.renew_at = self.until - (claim.lease - self.every).total_seconds()

    def renewed(self, asked_at: float) -> None:
        """Notes that the store was asked for it then, and has granted it."""
        assert self.claim is not None
        self.until = max(self.until, asked_at + self.claim.lease.total_seconds() - TICK)

    def holds(self) -> bool:
        """True if no other run of the operation can have begun. Any thread may ask."""
        return not self.lost and now() < self.until

    def tell(self, event: Event) -> None:
        """Writes an event of its operation to the log."""
        self._tell(event)


class Leases:
    """Renews leases, and tells of limits, until they are dropped.

    Args:
        store: Where they are.
        ask: How its calls are made.
    """

    def __init__(self, store: Any, ask: Ask) -> None:
        self._store = store
        self._ask = ask
        self._lock = threading.Lock()
        self._kept: dict[Lease, float | asyncio.Task[None]] = {}
        """When something of each is due for the first time, or the task that minds it from then on."""
        self._looks_at = math.inf
        """When the thread looks next."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.started = False
        """True once its thread was started."""
        self._stop = asyncio.Event()  # touched in the thread alone
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._closed = False

    # Any thread

    def keep(self, lease: Lease) -> None:
        """Renews the lease from now on, and minds its limit. The thread has been started before.

        Each call passes here, so it does as little as can be.
        """
        due = min(lease.renew_at, lease.limit)
        with self._lock:
            self._kept[lease] = due
            if due >= self._looks_at or self._closed:
                return
            self._looks_at = due
        if self._loop is not None:  # it may have been closed before it was needed
            _post(self._loop, self._set_timer)

    def drop(self, lease: Lease) -> None:
        """Minds it no more. A renewal that is under way is refused by the record's fence, if it comes too late."""
        with self._lock:
            renewing = self._kept.pop(lease, None)
        if isinstance(renewing, asyncio.Task) and self._loop is not None:
            _post(self._loop, renewing.cancel)

    def start(self) -> None:
        """Starts the thread, unless there is one: before an operation is claimed, whose lease nobody would renew else.

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
        # It knows the loop alone, so that leases which nobody has closed, and their store, can be collected.
        serve = partial(_serve, loop, self._stop, self._ended)
        thread = threading.Thread(target=serve, name="grpc-idempotency-leases", daemon=True)
        try:
            thread.start()
        except BaseException:
            loop.close()
            raise
        self._loop = loop  # not before: a thread that could not be started will be tried again
        self.started = True
        weakref.finalize(self, _post, loop, self._stop.set).atexit = False

    def close(self) -> "concurrent.futures.Future[None]":
        """Renews nothing any more. What it returns is done when the thread has ended."""
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
        """Looks when the next one is due. What has been dropped until then is no reason to look earlier or later.

        So calls that come one after another, and end before their leases are due, wake this thread once and not each.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looks_at < math.inf:
            delay = max(0.0, self._looks_at - now())
            self._timer = asyncio.get_running_loop().call_later(delay, _do, weakref.WeakMethod(self._look))

    def _look(self) -> None:
        """Begins to mind what is due, and looks again when the next one is."""
        loop, at = asyncio.get_running_loop(), now()
        with self._lock:
            due = [lease for lease, when in self._kept.items() if isinstance(when, float) and when <= at]
            for lease in due:
                self._kept[lease] = loop.create_task(self._mind(lease))
            later = (when for when in self._kept.values() if isinstance(when, float))
            self._looks_at = min(later, default=math.inf)
        self._set_timer()

    async def _mind(self, lease: Lease) -> None:
        """Renews a lease and tells of its limit, until it is dropped: this task is cancelled then."""
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
        if lease not in self._kept:  # it has been dropped: what the store says of it means nothing any more
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
            case Tell(event):
                return lease.tell(event)
            case Pause(seconds):
                # Earlier rather than later: a bit of jitter keeps processes out of step.
                return asyncio.sleep(seconds * uniform(0.8, 1.0))
            case _:
                raise AssertionError(f"no lease performs {effect!r}")

    async def _renewed(self, lease: Lease, patience: float | None) -> bool:
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
        # An answer that comes late counts all the same.
        raise StoreUnavailable("the store did not answer in time", landed=None)

    async def _extend(self, lease: Lease) -> bool:
        claim, asked_at = lease.claim, now()
        assert claim is not None
        renewed = bool(await self._answer(lease, partial(self._store.renew, claim.name, claim.fence, claim.lease)))
        if renewed:
            lease.renewed(asked_at)
        return renewed

    async def _answer(self, lease: Lease, call: Callable[[], Any]) -> Any:
        """What the store answers. Whatever goes wrong counts as a failure that may pass: the lease may still hold."""
        try:
            return await self._ask(call)
        except StoreUnavailable:
            raise
        except BaseException as exc:
            if lease not in self._kept:  # we have cancelled it ourselves
                raise
            # A cancellation too, which is the store's own then: no error of its may end the renewals.
            logger.warning("the store could not be asked for a lease", exc_info=exc)
            raise StoreUnavailable(str(exc), landed=None) from exc


def _serve(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, ended: "concurrent.futures.Future[None]") -> None:
    """Runs the loop until it is told to stop; what is under way then is cancelled."""

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
    """Does something in the loop, in no call's context; nothing if it is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(do, context=contextvars.Context())


def _do(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    """Calls the method if its object is still there."""
    do = method()
    if do is not None:
        do()


def _heard(asking: "asyncio.Future[bool]") -> None:
    """Sees to it that asyncio complains of no error that came too late."""
    if not asking.cancelled():
        asking.exception()
