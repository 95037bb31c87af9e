"""The leases of one interceptor's running operations, and the one thread that renews them (4.9).

The thread does nothing else and has an event loop of its own. So neither a handler that blocks the server's loop nor
anything else that a server does delays a renewal, and one whose answer is late delays none of the others. Those that
are due at the same time are asked for at the same time, so that the store can write them together.

A call that ends before its first renewal is due costs an entry in a dict. The thread looks when the next one is due.
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

MOST_UNANSWERED = 3
"""How many renewals of one lease may be under way: one that is lost holds up no other, and they do not pile up."""


class Lease:
    """A lease as its owner knows it."""

    __slots__ = ("_tell", "claim", "every", "lost", "unanswered", "until")

    def __init__(self, claim: Claim, every: timedelta, asked_at: float, tell: Callable[[Event], object]) -> None:
        """``asked_at`` is when the store was asked for it: it began no earlier, and so ends no earlier than we think.

        ``tell`` writes an event of its operation to the log.
        """
        self.claim = claim
        self.every = every
        self.until = 0.0
        self.renewed(asked_at)
        self.lost = False
        """Whether the operation has another owner by now, or is held."""
        self.unanswered: tuple[asyncio.Future[bool], ...] = ()
        """The renewals that the store has not answered yet. The thread of the leases alone knows them."""
        self._tell = tell

    def renewed(self, asked_at: float) -> None:
        """Notes that the store was asked for it then, and has granted it."""
        self.until = max(self.until, asked_at + self.claim.lease.total_seconds() - TICK)

    def holds(self) -> bool:
        """Whether no other run of the operation can have begun. Any thread may ask."""
        return not self.lost and now() < self.until

    def tell(self, event: Event) -> None:
        """Writes an event of its operation to the log."""
        self._tell(event)


class Leases:
    """Keeps leases until they are dropped.

    Args:
        store: Where they are.
        ask: How its calls are made.
    """

    def __init__(self, store: Any, ask: Ask) -> None:
        self._store = store
        self._ask = ask
        self._lock = threading.Lock()
        self._kept: dict[Lease, float | asyncio.Task[None]] = {}
        """When the first renewal of each is due, or the task that renews it from then on."""
        self._looks_at = math.inf
        """When the thread looks next."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()  # touched in the thread alone
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._closed = False

    # Any thread

    def keep(self, lease: Lease) -> None:
        """Renews the lease from now on; the thread has been started before. It is on every call's way."""
        due = lease.until - (lease.claim.lease - lease.every).total_seconds()
        with self._lock:
            self._kept[lease] = due
            if due >= self._looks_at or self._closed:
                return
            self._looks_at = due
        if self._loop is not None:  # it may have been closed before it was needed
            _post(self._loop, self._look)

    def drop(self, lease: Lease) -> None:
        """Renews it no more. A renewal that is under way is refused by the record's fence, if it comes too late."""
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

    def _look(self) -> None:
        """Begins to renew what is due, and looks again when the next one is."""
        loop, at = asyncio.get_running_loop(), now()
        with self._lock:
            due = [lease for lease, when in self._kept.items() if isinstance(when, float) and when <= at]
            for lease in due:
                self._kept[lease] = loop.create_task(self._renew(lease))
            later = (when for when in self._kept.values() if isinstance(when, float))
            self._looks_at = min(later, default=math.inf)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looks_at < math.inf:
            self._timer = loop.call_later(self._looks_at - at, _do, weakref.WeakMethod(self._look))

    async def _renew(self, lease: Lease) -> None:
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
