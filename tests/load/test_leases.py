"""The thread that renews leases, driven without a server (4.9)."""

import asyncio
import gc
import secrets
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from grpc_idempotency import MemoryStore, StoreUnavailable
from grpc_idempotency._protocol.effects import Told
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.leases import MOST_UNANSWERED, Lease, Leases
from grpc_idempotency._server.workers import Workers
from grpc_idempotency.records import Claim, Effects, Fingerprint
from grpc_idempotency.stores.memory import AsyncMemoryStore

from ..harness.waiting import ms

SOON = 20.0
LONG, AT_ONCE = ms(600_000), ms(1)
FINGERPRINT = Fingerprint(raw=bytes(32), canonical=bytes(32))


class Store:
    """What is renewed in a memory store, by calls that a test can hold up or let fail."""

    def __init__(self, blocks: bool) -> None:
        self.records = MemoryStore()
        self.blocks = blocks
        self.renewing: Callable[[bytes], object] = lambda name: None
        """Called before each renewal, in the thread that asks for it."""
        self.asked: list[bytes] = []
        self.changed = threading.Condition()
        if not blocks:
            self.renew = self._renew_awaited  # type: ignore[method-assign]  # the store is of either kind
            self.get = self._get_awaited  # type: ignore[method-assign]

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> Any:
        with self.changed:
            self.asked.append(name)
            self.changed.notify_all()
        self.renewing(name)
        return self.records.renew(name, fence, lease)

    def get(self, name: bytes) -> Any:
        return self.records.get(name)

    async def _renew_awaited(self, name: bytes, fence: bytes, lease: timedelta) -> Any:
        return Store.renew(self, name, fence, lease)

    async def _get_awaited(self, name: bytes) -> Any:
        return Store.get(self, name)

    def wait(self, name: bytes, times: int) -> None:
        """Waits until a renewal was asked for so often."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.asked.count(name) >= times, SOON)


class Kept:
    """Leases, their thread, and what was told of them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.workers = Workers()
        self.leases = Leases(store, self.workers.asked if store.blocks else lambda call: call())
        self.told: list[Told] = []

    def lease(self, length: timedelta = LONG, every: timedelta = AT_ONCE) -> Lease:
        """A lease of an operation that runs here."""
        claim = Claim(
            name=secrets.token_bytes(16),
            method="/a.B/C",
            fence=secrets.token_bytes(16),
            fingerprint=FINGERPRINT,
            effects=Effects.REPEATABLE,
            lease=length,
        )
        asked_at = now()
        assert self.store.records.claim(claim) is None
        return Lease(claim, every, asked_at, self.told.append, lambda: None)

    def keep(self, **given: Any) -> Lease:
        lease = self.lease(**given)
        self.leases.keep(lease)
        return lease


def claim_of(lease: Lease) -> Claim:
    assert lease.claim is not None
    return lease.claim


@pytest.fixture(params=[False, True], ids=["awaited", "blocking"])
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    before = set(threading.enumerate())
    kept = Kept(Store(request.param))
    kept.leases.start()
    yield kept
    kept.leases.close().result(SOON)
    kept.workers.close()
    for thread in set(threading.enumerate()) - before:
        if thread.name == "grpc-idempotency-leases":
            thread.join(SOON)
            assert not thread.is_alive()


def test_a_lease_is_renewed_until_it_is_dropped(kept: Kept) -> None:
    """A lease is renewed again and again by one thread, whoever is busy elsewhere, until it is dropped (4.9)."""
    lease = kept.keep()
    until = lease.until
    kept.store.wait(claim_of(lease).name, 3)
    assert lease.until > until
    assert lease.holds()
    kept.leases.drop(lease)
    assert kept.leases._kept == {}
    assert kept.told == []


def test_one_that_ends_before_its_first_renewal(kept: Kept) -> None:
    """A lease that ends before its first renewal costs the store nothing, and is not kept (4.9)."""
    early = kept.keep(every=ms(20))
    kept.leases.drop(early)
    late = kept.keep(every=ms(20))
    kept.store.wait(claim_of(late).name, 1)
    assert claim_of(early).name not in kept.store.asked
    assert list(kept.leases._kept) == [late]


def test_an_earlier_one_is_not_waited_for(kept: Kept) -> None:
    """A lease that is due before all the others wakes the thread (4.9)."""
    kept.keep(every=ms(300_000))
    kept.store.wait(claim_of(kept.keep(every=ms(1))).name, 1)


def test_those_that_are_due_are_asked_for_together(kept: Kept) -> None:
    """Renewals at one time do not wait for each other, so that a store can write them in one go (6.2)."""
    if not kept.store.blocks:
        pytest.skip("a loop's calls are all begun before one of them ends")
    together = threading.Barrier(8)
    kept.store.renewing = lambda name: together.wait(SOON) if kept.store.asked.count(name) == 1 else None
    leases = [kept.keep() for _ in range(8)]
    for lease in leases:
        kept.store.wait(claim_of(lease).name, 2)


def test_one_that_gets_no_answer_delays_no_other(kept: Kept) -> None:
    """A renewal that gets no answer delays no other, and is asked for again in time before its lease ends (4.9)."""
    if not kept.store.blocks:
        pytest.skip("a call that blocks its thread is no awaited one")
    stuck, go = kept.lease(length=ms(200), every=ms(100)), threading.Event()
    kept.store.renewing = lambda name: go.wait(SOON) if name == claim_of(stuck).name else None
    kept.leases.keep(stuck)
    other = kept.keep()
    kept.store.wait(claim_of(stuck).name, 2)
    kept.store.wait(claim_of(other).name, 20)
    go.set()


def test_unanswered_renewals_do_not_pile_up(kept: Kept) -> None:
    """Unanswered renewals do not pile up; once the store answers, the lease holds again (4.9)."""
    if not kept.store.blocks:
        pytest.skip("a call that blocks its thread is no awaited one")
    go = threading.Event()
    kept.store.renewing = lambda _name: go.wait(SOON)
    lease = kept.keep(length=ms(40), every=ms(1))
    kept.store.wait(claim_of(lease).name, MOST_UNANSWERED)
    while not kept.told:
        go.wait(0.001)
    go.wait(0.1)  # time for many more
    assert kept.store.asked.count(claim_of(lease).name) == MOST_UNANSWERED
    go.set()
    kept.store.wait(claim_of(lease).name, MOST_UNANSWERED + 2)
    assert set(kept.told) == {Told.LAPSED}


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("locked"), ValueError("a mistake of the store's"), asyncio.CancelledError(), SystemExit(1)],
    ids=lambda error: type(error).__name__,
)
def test_one_that_fails_is_tried_again(kept: Kept, error: BaseException) -> None:
    """A renewal that fails is tried again, whatever the store raised, since the lease may still hold (4.9)."""

    def fail(name: bytes) -> None:
        if kept.store.asked.count(name) < 4:
            raise error

    kept.store.renewing = fail
    lease = kept.lease(every=ms(100))
    until = lease.until
    kept.leases.keep(lease)
    kept.store.wait(claim_of(lease).name, 5)
    assert lease.until > until
    assert kept.told == []


def test_one_that_another_has_taken_over(kept: Kept) -> None:
    """A run whose lease was taken over learns of it, and the lease is renewed no more (4.2, 4.9)."""
    lease, lost = kept.lease(length=ms(40), every=ms(20)), threading.Event()
    lease._tell = lambda event: lost.set() if event is Told.LOST else None
    while not (record := kept.store.records.get(claim_of(lease).name)) or not record.lapsed:
        threading.Event().wait(0.001)
    taker = replace(claim_of(lease), fence=secrets.token_bytes(16), lease=LONG)
    assert kept.store.records.claim(taker, over=claim_of(lease).fence) is None
    assert not lease.holds()  # by its own clock already
    kept.leases.keep(lease)
    assert lost.wait(SOON)
    assert lease.lost
    assert not lease.holds()
    kept.store.asked.clear()
    kept.store.wait(claim_of(kept.keep()).name, 3)
    assert claim_of(lease).name not in kept.store.asked


def test_one_that_ran_out_while_its_process_was_stopped(kept: Kept) -> None:
    """A lease that ran out while its process was stopped does not hold until it has been renewed (4.9)."""
    lease = kept.lease(length=ms(1000), every=ms(500))
    assert lease.holds()
    lease.until -= 3600  # for an hour the process was stopped
    assert not lease.holds()
    kept.leases.keep(lease)
    kept.store.wait(claim_of(lease).name, 2)
    assert lease.holds()


def test_a_refusal_that_comes_too_late_is_not_told(kept: Kept) -> None:
    """A refused renewal of an operation that was settled meanwhile is not told (4.9)."""
    lease = kept.lease()

    def settle(name: bytes) -> None:
        if name == claim_of(lease).name:
            kept.store.records.release(name, claim_of(lease).fence)
            kept.leases.drop(lease)

    kept.store.renewing = settle
    kept.leases.keep(lease)
    kept.store.wait(claim_of(lease).name, 1)
    kept.store.wait(claim_of(kept.keep()).name, 3)
    assert (kept.told, lease.lost) == ([], False)


def test_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that can't be started is told before anything is claimed, and is tried again (4.9)."""
    kept = Kept(Store(blocks=True))
    with monkeypatch.context() as patched:

        def start(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError):
            kept.leases.start()
    kept.leases.start()
    kept.store.wait(claim_of(kept.keep()).name, 2)
    kept.leases.close().result(SOON)
    kept.workers.close()


def test_one_that_was_never_needed() -> None:
    """No thread is started for leases that never were, and what is closed keeps nothing (4.9)."""
    leases = Leases(AsyncMemoryStore(), lambda call: call())
    leases.close().result(SOON)
    leases.close().result(SOON)
    kept = Kept(Store(blocks=True))
    leases.keep(kept.lease())
    leases.start()
    leases.drop(kept.lease())
    assert leases._loop is None


def test_those_that_nobody_closes() -> None:
    """An interceptor that is forgotten keeps neither the thread nor its store (8)."""
    kept = Kept(Store(blocks=False))
    leases = weakref.ref(kept.leases)
    kept.leases.start()
    kept.leases.keep(kept.lease(every=ms(300_000)))
    ended = kept.leases._ended
    while kept.leases._timer is None:  # until then the thread is about to look
        threading.Event().wait(0.001)
    del kept
    gc.collect()
    assert leases() is None
    ended.result(SOON)


def test_a_close_ends_what_is_under_way(kept: Kept) -> None:
    """The thread does not wait for a store that does not answer (4.4)."""
    if not kept.store.blocks:
        pytest.skip("a call that blocks its thread is no awaited one")
    go = threading.Event()
    kept.store.renewing = lambda _name: go.wait(SOON)
    lease = kept.keep()
    kept.store.wait(claim_of(lease).name, 1)
    kept.leases.close().result(SOON)
    go.set()
    assert not lease.lost


async def test_a_memory_store_bears_both(kept: Kept) -> None:
    """A loop's own calls and those of the thread come at the same time, to whatever store (6.1)."""
    if kept.store.blocks:
        pytest.skip("the same for both")
    store = AsyncMemoryStore()
    leases = Leases(store, lambda call: call())
    leases.start()
    claims = [claim_of(kept.lease()) for _ in range(20)]
    for claim in claims:
        assert await store.claim(claim) is None
        leases.keep(Lease(claim, ms(1), now(), kept.told.append, lambda: None))
    for _ in range(20):
        assert len(await store.list()) == 20
        await asyncio.sleep(0.001)
    leases.close().result(SOON)
    assert kept.told == []
