"""The contract suite: every promise of ``grpc_idempotency.store`` as a test, for the authors of other stores.

It needs pytest with pytest-asyncio in its auto mode, or any runner that runs coroutine methods named ``test_…``. A
store's author writes a harness and one class::

    class TestMyStore(AsyncStoreContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]: ...

and each test gets the harness by the fixture's name. A store that blocks is tested by the same suite through
:func:`in_threads`.
"""

import asyncio
import functools
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any, Protocol, cast

from grpc_idempotency.records import (
    Claim,
    Code,
    Effects,
    Fingerprint,
    Outcome,
    Record,
    State,
    Step,
    StoredRequest,
    Swept,
)
from grpc_idempotency.store import AsyncStore, Store

LEASE = timedelta(seconds=30)
TTL = timedelta(hours=1)
TICK = timedelta(milliseconds=1)
"""The smallest step of time that a store must tell apart."""
METHOD = "/shop.orders.v1.OrderService/CreateOrder"
OUTCOME = Outcome(status=Code.OK, message=b"\x0a\x05first")
OTHER_OUTCOME = Outcome(status=Code.NOT_FOUND, details="no such user")


class AsyncStoreHarness(Protocol):
    """What the suite needs beyond the contract. The database is empty at first, and time stands still."""

    async def store(self) -> AsyncStore:
        """One more store on the same database, not opened yet. The harness closes it at the end."""

    async def elapse(self, duration: timedelta) -> None:
        """Lets time pass for the database's clock, by exactly so much."""


class _InThreads:
    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return functools.partial(_in_thread, getattr(self._store, name))


async def _in_thread(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A thread can't be cancelled: a caller that is has to see the call's end first."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args, **options))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def in_threads(store: Store) -> AsyncStore:
    """A store that blocks, as the suite wants it: each call runs in a thread of its own."""
    return cast(AsyncStore, _InThreads(store))


def a_claim(
    name: bytes | None = None,
    *,
    lease: timedelta = LEASE,
    method: str = METHOD,
    effects: Effects = Effects.OPAQUE,
    streams: bool = False,
    request: StoredRequest | None = None,
) -> Claim:
    """A claim under a fresh fence, with another fingerprint each time."""
    return Claim(
        name=name or os.urandom(16),
        method=method,
        fence=os.urandom(16),
        fingerprint=Fingerprint(raw=os.urandom(32), canonical=os.urandom(32)),
        effects=effects,
        lease=lease,
        streams=streams,
        request=request,
    )


def a_step(name: str, *, position: int = 0, result: bytes = b"done", undoable: bool = False) -> Step:
    """A finished step."""
    return Step(name=name, position=position, result=result, undoable=undoable)


def a_request(*messages: bytes) -> StoredRequest:
    """A request of somebody's, with metadata of both kinds."""
    metadata = (("tenant", "t, ünïcode"), ("trace-bin", bytes(range(256))), ("tenant", ""))
    return StoredRequest(principal=os.urandom(16), metadata=metadata, messages=messages)


async def _running(store: AsyncStore, *, lease: timedelta = LEASE) -> Claim:
    claim = a_claim(lease=lease)
    assert await store.claim(claim) is None
    return claim


async def _held(store: AsyncStore) -> Claim:
    claim = await _running(store)
    assert await store.hold(claim.name, claim.fence, "its server died")
    return claim


async def _waiting(store: AsyncStore, *, delay: timedelta = LEASE, tries: int = 1) -> Claim:
    claim = await _running(store)
    assert await store.wait(claim.name, claim.fence, delay, tries) is True
    return claim


async def _completed(store: AsyncStore, *, ttl: timedelta = TTL) -> Claim:
    claim = await _running(store)
    assert await store.complete(claim.name, claim.fence, OUTCOME, ttl)
    return claim


async def _record(store: AsyncStore, claim: Claim) -> Record:
    record = await store.get(claim.name)
    assert record is not None
    return record


async def _refuses(store: AsyncStore, name: bytes, fence: bytes) -> None:
    """Asserts that every fenced call under the fence answers False and leaves what is there."""
    before, steps = await store.get(name), await store.steps(name)
    assert await store.renew(name, fence, LEASE * 2) is False
    assert await store.complete(name, fence, OTHER_OUTCOME, TTL) is False
    assert await store.release(name, fence) is False
    assert await store.wait(name, fence, TICK, 99) is False
    assert await store.record_step(name, fence, a_step(os.urandom(8).hex())) is False
    assert await store.hold(name, fence, "no") is False
    assert await store.hold(name, fence, "no", lapsed_only=True) is False
    assert await store.resolve(name, fence, OTHER_OUTCOME, TTL) is False
    assert await store.resolve(name, fence, None, TTL) is False
    assert await store.get(name) == before
    assert await store.steps(name) == steps


class ClaimContract:
    """Claims, leases and take-overs."""

    async def test_a_claim_of_an_absent_operation_is_won(self, harness: AsyncStoreHarness) -> None:
        """It answers ``None``, and the record holds what was claimed, running under the claim's fence."""
        store = await harness.store()
        claim = a_claim()
        assert await store.claim(claim) is None
        record = await _record(store, claim)
        assert (record.name, record.method, record.fence) == (claim.name, claim.method, claim.fence)
        assert (record.fingerprint, record.effects) == (claim.fingerprint, claim.effects)
        assert (record.state, record.attempts, record.lapsed, record.reason) == (State.RUNNING, 1, False, "")
        assert (record.completed_at, record.expires_at, record.outcome) == (None, None, None)
        assert record.created_at.tzinfo is timezone.utc

    async def test_every_kind_of_effects_is_kept(self, harness: AsyncStoreHarness) -> None:
        """``effects`` is as it was in the claim."""
        store = await harness.store()
        for effects in Effects:
            claim = replace(a_claim(), effects=effects)
            await store.claim(claim)
            assert (await _record(store, claim)).effects is effects

    async def test_a_claim_is_lost_to_a_record_in_any_state(self, harness: AsyncStoreHarness) -> None:
        """It answers the record that stands in its way, and changes nothing."""
        store = await harness.store()
        for prepare in (_running, _held, _waiting, _completed):
            first = await prepare(store)
            record = await _record(store, first)
            assert await store.claim(a_claim(first.name)) == record
            assert await _record(store, first) == record

    async def test_a_lapsed_lease_alone_gives_nothing_away(self, harness: AsyncStoreHarness) -> None:
        """A claim that does not say whom it takes over is lost to a lapsed record, too."""
        store = await harness.store()
        first = await _running(store)
        await harness.elapse(LEASE)
        lost_to = await store.claim(a_claim(first.name))
        assert lost_to is not None
        assert lost_to.lapsed
        assert lost_to.fence == first.fence

    async def test_a_lease_lapses_at_its_instant(self, harness: AsyncStoreHarness) -> None:
        """It is live until just before ``lease`` has passed, and has run out from then on."""
        store = await harness.store()
        claim = await _running(store)
        await harness.elapse(LEASE - TICK)
        assert not (await _record(store, claim)).lapsed
        await harness.elapse(TICK)
        assert (await _record(store, claim)).lapsed
        assert (await _record(store, claim)).state is State.RUNNING

    async def test_a_lapsed_record_is_taken_over(self, harness: AsyncStoreHarness) -> None:
        """The record is the new claim's: one attempt more, under a new lease, created when it first was."""
        store = await harness.store()
        first = await _running(store)
        created_at = (await _record(store, first)).created_at
        await harness.elapse(LEASE)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        record = await _record(store, second)
        assert (record.fence, record.fingerprint, record.attempts) == (second.fence, second.fingerprint, 2)
        assert (record.created_at, record.lapsed, record.state) == (created_at, False, State.RUNNING)
        await _refuses(store, first.name, first.fence)

    async def test_the_kind_of_call_is_kept(self, harness: AsyncStoreHarness) -> None:
        """Whether the method answers with a stream is as of the last claim, in every state."""
        store = await harness.store()
        for streams in (False, True):
            first = a_claim(streams=not streams)
            assert await store.claim(first) is None
            assert (await _record(store, first)).streams is not streams
            await harness.elapse(LEASE)
            second = a_claim(first.name, streams=streams)
            assert await store.claim(second, over=first.fence) is None
            assert (await _record(store, second)).streams is streams
            assert await store.hold(second.name, second.fence, "its server died")
            assert (await _record(store, second)).streams is streams
            assert await store.resolve(second.name, second.fence, OTHER_OUTCOME, TTL)
            assert (await _record(store, second)).streams is streams
            await harness.elapse(TTL)
            third = a_claim(first.name, streams=not streams)
            assert await store.claim(third) is None
            record = await _record(store, third)
            assert (record.streams, record.resolved) == (not streams, False)

    async def test_a_live_record_is_not_taken_over(self, harness: AsyncStoreHarness) -> None:
        """Not one tick before its lease has run out."""
        store = await harness.store()
        first = await _running(store)
        await harness.elapse(LEASE - TICK)
        assert await store.claim(a_claim(first.name), over=first.fence) == await _record(store, first)

    async def test_a_record_of_another_fence_is_not_taken_over(self, harness: AsyncStoreHarness) -> None:
        """Of two that saw the same lapsed record, one takes it over."""
        store = await harness.store()
        first = await _running(store)
        await harness.elapse(LEASE)
        second, third = a_claim(first.name, lease=TICK), a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        await harness.elapse(LEASE)
        lost_to = await store.claim(third, over=first.fence)
        assert lost_to is not None
        assert lost_to.fence == second.fence

    async def test_held_and_completed_records_are_not_taken_over(self, harness: AsyncStoreHarness) -> None:
        """``over`` is for running and waiting records alone."""
        store = await harness.store()
        for prepare in (_held, _completed):
            first = await prepare(store)
            await harness.elapse(LEASE)
            assert await store.claim(a_claim(first.name), over=first.fence) == await _record(store, first)

    async def test_a_take_over_of_an_absent_record_is_a_claim(self, harness: AsyncStoreHarness) -> None:
        """A record that was released in the meantime stands in nobody's way; the attempts count from 1 again."""
        store = await harness.store()
        claim = a_claim()
        assert await store.claim(claim, over=os.urandom(16)) is None
        assert (await _record(store, claim)).attempts == 1

    async def test_a_renewed_lease_ends_so_long_from_now(self, harness: AsyncStoreHarness) -> None:
        """From now, not from the end that it had."""
        store = await harness.store()
        claim = await _running(store)
        await harness.elapse(LEASE / 2)
        assert await store.renew(claim.name, claim.fence, LEASE) is True
        await harness.elapse(LEASE - TICK)
        assert not (await _record(store, claim)).lapsed
        await harness.elapse(TICK)
        assert (await _record(store, claim)).lapsed

    async def test_a_lapsed_lease_can_be_renewed(self, harness: AsyncStoreHarness) -> None:
        """As long as nobody took over, and with the effect that nobody can."""
        store = await harness.store()
        claim = await _running(store)
        await harness.elapse(LEASE * 2)
        assert await store.renew(claim.name, claim.fence, LEASE) is True
        assert not (await _record(store, claim)).lapsed
        assert await store.claim(a_claim(claim.name), over=claim.fence) is not None

    async def test_a_renewal_may_shorten_a_lease(self, harness: AsyncStoreHarness) -> None:
        """The lease ends so long from now, whatever it was before."""
        store = await harness.store()
        claim = await _running(store)
        assert await store.renew(claim.name, claim.fence, TICK)
        await harness.elapse(TICK)
        assert (await _record(store, claim)).lapsed

    async def test_only_running_records_are_renewed(self, harness: AsyncStoreHarness) -> None:
        """``False`` for held, waiting, completed and absent ones."""
        store = await harness.store()
        for prepare in (_held, _waiting, _completed):
            claim = await prepare(store)
            record = await _record(store, claim)
            assert await store.renew(claim.name, claim.fence, LEASE) is False
            assert await _record(store, claim) == record
        assert await store.renew(os.urandom(16), os.urandom(16), LEASE) is False


class OutcomeContract:
    """Completions, releases, held records, and fences."""

    async def test_a_completion_stores_the_outcome(self, harness: AsyncStoreHarness) -> None:
        """The record is completed, with all of the outcome, and expires ``ttl`` from now."""
        store = await harness.store()
        claim = await _running(store)
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL) is True
        record = await _record(store, claim)
        assert (record.state, record.outcome, record.fence) == (State.COMPLETED, OUTCOME, claim.fence)
        assert record.completed_at is not None
        assert record.expires_at == record.completed_at + TTL
        assert not record.lapsed

    async def test_outcomes_are_kept_to_the_byte(self, harness: AsyncStoreHarness) -> None:
        """Status, message (none, empty, or large), details and trailers in their order, text and binary."""
        store = await harness.store()
        trailers = (
            ("b", "1"),
            ("a", ""),
            ("b", "2"),
            ("grpc-status-details-bin", bytes(range(256))),
            ("empty-bin", b""),
            ("text", "white \t space, ünïcode"),
        )
        outcomes = [
            Outcome(status=Code.OK, message=None),
            Outcome(status=Code.OK, message=b""),
            Outcome(status=Code.OK, message=os.urandom(4 << 20)),
            Outcome(status=Code.OK, message=b"\x00\xff", trailers=trailers),
            Outcome(status=Code.OK, retained=False),
            Outcome(status=Code.NOT_FOUND, details="late", retained=False),
            *(Outcome(status=code, details="bad\n\x00 ünïcode", trailers=trailers) for code in Code if code),
        ]
        claims = [await _running(store) for _ in outcomes]
        fresh = await harness.store()
        for claim, outcome in zip(claims, outcomes, strict=True):
            assert await store.complete(claim.name, claim.fence, outcome, TTL)
            assert (await _record(fresh, claim)).outcome == outcome

    async def test_a_completion_can_be_tried_again(self, harness: AsyncStoreHarness) -> None:
        """Under the fence that completed it already, with the same outcome: ``True``; with another: ``False``.

        The first outcome and its expiry stay.
        """
        store = await harness.store()
        claim = await _completed(store)
        record = await _record(store, claim)
        await harness.elapse(TICK)
        assert record.outcome is not None
        assert await store.complete(claim.name, claim.fence, record.outcome, TTL * 2) is True
        assert await store.complete(claim.name, claim.fence, OTHER_OUTCOME, TTL * 2) is False
        assert await _record(store, claim) == record

    async def test_a_lapsed_owner_may_still_complete(self, harness: AsyncStoreHarness) -> None:
        """As long as nobody took over."""
        store = await harness.store()
        claim = await _running(store)
        await harness.elapse(LEASE * 2)
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        assert (await _record(store, claim)).outcome == OUTCOME

    async def test_expiry_is_exact(self, harness: AsyncStoreHarness) -> None:
        """There until just before ``ttl`` has passed, absent from then on, with no sweep."""
        store = await harness.store()
        claim = await _completed(store)
        await harness.elapse(TTL - TICK)
        assert (await _record(store, claim)).outcome == OUTCOME
        assert len(await store.list()) == 1
        await harness.elapse(TICK)
        assert await store.get(claim.name) is None
        assert list(await store.list()) == []

    async def test_an_expired_operation_is_absent_to_every_call(self, harness: AsyncStoreHarness) -> None:
        """No fenced call finds it, not even the repeated completion; a claim begins anew."""
        store = await harness.store()
        first = await _completed(store)
        before = await _record(store, first)
        await harness.elapse(TTL)
        await _refuses(store, first.name, first.fence)
        second = a_claim(first.name)
        assert await store.claim(second) is None
        record = await _record(store, second)
        assert (record.state, record.fence, record.attempts) == (State.RUNNING, second.fence, 1)
        assert record.created_at >= before.created_at + TTL
        assert (record.outcome, record.completed_at, record.expires_at) == (None, None, None)
        await _refuses(store, first.name, first.fence)

    async def test_running_and_held_records_do_not_expire(self, harness: AsyncStoreHarness) -> None:
        """However long it takes."""
        store = await harness.store()
        running, held = await _running(store), await _held(store)
        await harness.elapse(timedelta(days=400))
        assert (await store.sweep()).deleted == 0
        assert (await _record(store, running)).state is State.RUNNING
        assert (await _record(store, held)).state is State.HELD

    async def test_another_fence_is_refused_in_every_state(self, harness: AsyncStoreHarness) -> None:
        """Running, held, waiting, completed or absent: ``False``, and nothing changes."""
        store = await harness.store()
        for prepare in (_running, _held, _waiting, _completed):
            claim = await prepare(store)
            await _refuses(store, claim.name, os.urandom(16))
        await _refuses(store, os.urandom(16), os.urandom(16))

    async def test_a_fence_is_refused_under_another_name(self, harness: AsyncStoreHarness) -> None:
        """A fence is good for the operation that it was claimed for, and for no other."""
        store = await harness.store()
        one, other = await _running(store), await _running(store)
        await _refuses(store, one.name, other.fence)

    async def test_a_release_makes_the_operation_absent(self, harness: AsyncStoreHarness) -> None:
        """Of a running or held record; its fence is spent, also when the operation is claimed anew."""
        store = await harness.store()
        for prepare in (_running, _held):
            first = await prepare(store)
            assert await store.release(first.name, first.fence) is True
            assert await store.get(first.name) is None
            await _refuses(store, first.name, first.fence)
            second = a_claim(first.name)
            assert await store.claim(second) is None
            assert (await _record(store, second)).attempts == 1
            await _refuses(store, first.name, first.fence)

    async def test_a_completed_record_is_not_released(self, harness: AsyncStoreHarness) -> None:
        """Not by its own fence either."""
        store = await harness.store()
        claim = await _completed(store)
        assert await store.release(claim.name, claim.fence) is False
        assert (await _record(store, claim)).outcome == OUTCOME

    async def test_a_held_record_keeps_its_fence(self, harness: AsyncStoreHarness) -> None:
        """It has a reason, no lease and no expiry."""
        store = await harness.store()
        claim = await _running(store)
        assert await store.hold(claim.name, claim.fence, "its server died") is True
        record = await _record(store, claim)
        assert (record.state, record.fence, record.reason) == (State.HELD, claim.fence, "its server died")
        assert (record.outcome, record.completed_at, record.expires_at) == (None, None, None)
        await harness.elapse(LEASE * 2)
        assert await _record(store, claim) == record
        assert not record.lapsed

    async def test_a_held_record_is_resolved_by_its_owners_completion(self, harness: AsyncStoreHarness) -> None:
        """The owner was only slow, and what it says is the truth."""
        store = await harness.store()
        claim = await _held(store)
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL) is True
        record = await _record(store, claim)
        assert (record.state, record.outcome, record.reason) == (State.COMPLETED, OUTCOME, "")
        assert not record.resolved

    async def test_only_running_records_are_held(self, harness: AsyncStoreHarness) -> None:
        """``False`` for held, waiting and completed ones."""
        store = await harness.store()
        for prepare in (_held, _waiting, _completed):
            claim = await prepare(store)
            record = await _record(store, claim)
            assert await store.hold(claim.name, claim.fence, "another reason") is False
            assert await _record(store, claim) == record

    async def test_lapsed_only_spares_a_live_lease(self, harness: AsyncStoreHarness) -> None:
        """``False`` until the lease has run out, ``True`` from that instant on."""
        store = await harness.store()
        claim = await _running(store)
        await harness.elapse(LEASE - TICK)
        assert await store.hold(claim.name, claim.fence, "it seems dead", lapsed_only=True) is False
        assert (await _record(store, claim)).state is State.RUNNING
        await harness.elapse(TICK)
        assert await store.hold(claim.name, claim.fence, "it seems dead", lapsed_only=True) is True
        assert (await _record(store, claim)).state is State.HELD

    async def test_an_operator_can_complete_a_held_record(self, harness: AsyncStoreHarness) -> None:
        """It is completed with the operator's outcome, and expires ``ttl`` from now."""
        store = await harness.store()
        claim = await _held(store)
        await harness.elapse(timedelta(days=2))
        assert await store.resolve(claim.name, claim.fence, OTHER_OUTCOME, TTL) is True
        record = await _record(store, claim)
        assert (record.state, record.outcome, record.reason) == (State.COMPLETED, OTHER_OUTCOME, "")
        assert record.resolved
        await harness.elapse(TTL - TICK)
        assert await store.get(claim.name) == record
        await harness.elapse(TICK)
        assert await store.get(claim.name) is None

    async def test_an_operator_can_say_that_it_never_happened(self, harness: AsyncStoreHarness) -> None:
        """The operation is absent again, and its fence is spent."""
        store = await harness.store()
        claim = await _held(store)
        assert await store.resolve(claim.name, claim.fence, None, TTL) is True
        assert await store.get(claim.name) is None
        await _refuses(store, claim.name, claim.fence)

    async def test_only_held_records_are_resolved(self, harness: AsyncStoreHarness) -> None:
        """``False`` for running, lapsed, waiting and completed ones."""
        store = await harness.store()
        for prepare in (_running, _waiting, _completed):
            claim = await prepare(store)
            await harness.elapse(LEASE * 2)
            record = await _record(store, claim)
            assert await store.resolve(claim.name, claim.fence, OTHER_OUTCOME, TTL) is False
            assert await store.resolve(claim.name, claim.fence, None, TTL) is False
            assert await _record(store, claim) == record


class WaitContract:
    """Waiting records: those that will be run again."""

    async def test_a_waiting_record_is_due_at_its_instant(self, harness: AsyncStoreHarness) -> None:
        """It keeps its fence, has no lease, and is due when ``delay`` has passed, not a tick earlier."""
        store = await harness.store()
        claim = await _running(store)
        assert await store.wait(claim.name, claim.fence, LEASE * 2, 3) is True
        record = await _record(store, claim)
        assert (record.state, record.fence, record.tries, record.attempts) == (State.WAITING, claim.fence, 3, 1)
        assert (record.lapsed, record.outcome, record.expires_at) == (False, None, None)
        await harness.elapse(LEASE * 2 - TICK)
        assert await _record(store, claim) == record
        await harness.elapse(TICK)
        assert await _record(store, claim) == replace(record, lapsed=True)

    async def test_no_delay_means_now(self, harness: AsyncStoreHarness) -> None:
        """The record is due at once."""
        store = await harness.store()
        claim = await _waiting(store, delay=timedelta(0))
        assert (await _record(store, claim)).lapsed

    async def test_a_waiting_record_does_not_expire(self, harness: AsyncStoreHarness) -> None:
        """However long it is due."""
        store = await harness.store()
        claim = await _waiting(store)
        await harness.elapse(timedelta(days=400))
        assert (await store.sweep()).deleted == 0
        assert (await _record(store, claim)).state is State.WAITING

    async def test_only_running_records_wait(self, harness: AsyncStoreHarness) -> None:
        """Lapsed ones too, as long as nobody took over; ``False`` for held, waiting and completed ones."""
        store = await harness.store()
        claim = await _running(store)
        await harness.elapse(LEASE)
        assert await store.wait(claim.name, claim.fence, LEASE, 1) is True
        for prepare in (_held, _waiting, _completed):
            claim = await prepare(store)
            record = await _record(store, claim)
            assert await store.wait(claim.name, claim.fence, TICK, 9) is False
            assert await _record(store, claim) == record

    async def test_nobody_has_a_say_over_a_waiting_record(self, harness: AsyncStoreHarness) -> None:
        """Its fence neither: whoever would go on with it claims it, once it is due."""
        store = await harness.store()
        claim = await _waiting(store)
        await _refuses(store, claim.name, claim.fence)
        await harness.elapse(LEASE)
        await _refuses(store, claim.name, claim.fence)

    async def test_a_due_record_is_taken_over(self, harness: AsyncStoreHarness) -> None:
        """One attempt more, under a new lease, with its tries; the fence that waited is spent."""
        store = await harness.store()
        first = await _waiting(store, tries=4)
        created_at = (await _record(store, first)).created_at
        await harness.elapse(LEASE)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        record = await _record(store, second)
        assert (record.state, record.fence, record.fingerprint) == (State.RUNNING, second.fence, second.fingerprint)
        assert (record.attempts, record.tries, record.created_at, record.lapsed) == (2, 4, created_at, False)
        await _refuses(store, first.name, first.fence)
        await harness.elapse(LEASE)
        assert (await _record(store, second)).lapsed
        assert await store.complete(second.name, second.fence, OUTCOME, TTL)

    async def test_a_record_that_is_not_due_is_not_taken_over(self, harness: AsyncStoreHarness) -> None:
        """Not one tick before, and under no other fence."""
        store = await harness.store()
        first = await _waiting(store)
        await harness.elapse(LEASE - TICK)
        assert await store.claim(a_claim(first.name), over=first.fence) == await _record(store, first)
        await harness.elapse(TICK)
        assert await store.claim(a_claim(first.name), over=os.urandom(16)) == await _record(store, first)
        assert await store.claim(a_claim(first.name)) == await _record(store, first)

    async def test_tries_are_as_of_the_last_wait(self, harness: AsyncStoreHarness) -> None:
        """They stay with the record to its end, and a claim that begins anew has none."""
        store = await harness.store()
        first = await _waiting(store, delay=TICK, tries=1)
        await harness.elapse(TICK)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        assert await store.wait(second.name, second.fence, TICK, 2) is True
        await harness.elapse(TICK)
        third = a_claim(first.name)
        assert await store.claim(third, over=second.fence) is None
        assert await store.complete(third.name, third.fence, OUTCOME, TTL)
        record = await _record(store, third)
        assert (record.attempts, record.tries) == (3, 2)
        await harness.elapse(TTL)
        assert await store.claim(a_claim(first.name)) is None
        record = await _record(store, first)
        assert (record.attempts, record.tries) == (1, 0)

    async def test_of_many_that_run_a_due_record_again_one_wins(self, harness: AsyncStoreHarness) -> None:
        """50 at once."""
        store = await harness.store()
        first = await _waiting(store)
        await harness.elapse(LEASE)
        answers = await asyncio.gather(*(store.claim(a_claim(first.name), over=first.fence) for _ in range(50)))
        assert answers.count(None) == 1
        assert (await _record(store, first)).attempts == 2


class StepContract:
    """Finished steps."""

    async def test_steps_are_kept_to_the_byte_in_their_order(self, harness: AsyncStoreHarness) -> None:
        """That in which they were recorded, whatever their positions say; another operation has its own."""
        store = await harness.store()
        one, other = await _running(store), await _running(store)
        steps = [
            a_step("second", position=1, result=b""),
            a_step("first", result=bytes(range(256)), undoable=True),
            a_step("ünïcode 'and; \n\x00", position=2, result=os.urandom(1 << 20)),
            a_step("again", position=2, undoable=True),
        ]
        for step in steps:
            assert await store.record_step(one.name, one.fence, step) is True
        assert await store.record_step(other.name, other.fence, a_step("first", result=b"other"))
        assert list(await store.steps(one.name)) == steps
        assert list(await (await harness.store()).steps(one.name)) == steps
        assert list(await store.steps(other.name)) == [a_step("first", result=b"other")]
        assert list(await store.steps(os.urandom(16))) == []

    async def test_a_name_is_kept_once(self, harness: AsyncStoreHarness) -> None:
        """A second step of it is refused, be it the same, and the first stays."""
        store = await harness.store()
        claim = await _running(store)
        assert await store.record_step(claim.name, claim.fence, a_step("charge")) is True
        assert await store.record_step(claim.name, claim.fence, a_step("charge")) is False
        assert await store.record_step(claim.name, claim.fence, a_step("charge", result=b"other")) is False
        assert list(await store.steps(claim.name)) == [a_step("charge")]

    async def test_of_many_steps_of_one_name_one_is_kept(self, harness: AsyncStoreHarness) -> None:
        """Whoever was told so; steps of other names beside it are kept all."""
        store = await harness.store()
        claims = [await _running(store) for _ in range(5)]
        steps = [a_step(f"step {n % 4}", position=n, result=str(n).encode()) for n in range(20)]
        calls = [(claim, step) for step in steps for claim in claims]
        answers = await asyncio.gather(*(store.record_step(claim.name, claim.fence, step) for claim, step in calls))
        kept = [call for call, answer in zip(calls, answers, strict=True) if answer]
        for claim in claims:
            found = await store.steps(claim.name)
            assert {step.name for step in found} == {step.name for step in steps}
            assert {step.position for step in found} == {step.position for other, step in kept if other is claim}

    async def test_running_and_held_operations_have_steps(self, harness: AsyncStoreHarness) -> None:
        """Lapsed ones too. Waiting and completed ones get no more of them."""
        store = await harness.store()
        for prepare in (_running, _held):
            claim = await prepare(store)
            await harness.elapse(LEASE)
            assert await store.record_step(claim.name, claim.fence, a_step("late")) is True
        for prepare in (_waiting, _completed):
            claim = await prepare(store)
            assert await store.record_step(claim.name, claim.fence, a_step("late")) is False
            assert list(await store.steps(claim.name)) == []

    async def test_a_spent_fence_keeps_no_step(self, harness: AsyncStoreHarness) -> None:
        """After a take-over only the successor adds to the steps, which are still there."""
        store = await harness.store()
        first = await _running(store)
        assert await store.record_step(first.name, first.fence, a_step("reserve"))
        await harness.elapse(LEASE)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        assert await store.record_step(first.name, first.fence, a_step("confirm", result=b"zombie")) is False
        assert await store.record_step(second.name, second.fence, a_step("confirm")) is True
        assert list(await store.steps(first.name)) == [a_step("reserve"), a_step("confirm")]

    async def test_steps_stay_as_long_as_their_record(self, harness: AsyncStoreHarness) -> None:
        """While it waits, is run again, is held and is completed; until the instant of its expiry."""
        store = await harness.store()
        first, steps = await _running(store), [a_step("charge", undoable=True)]
        assert await store.record_step(first.name, first.fence, steps[0])
        assert await store.wait(first.name, first.fence, TICK, 1)
        assert list(await store.steps(first.name)) == steps
        await harness.elapse(TICK)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        assert await store.hold(second.name, second.fence, "an undo failed")
        assert list(await store.steps(first.name)) == steps
        assert await store.complete(second.name, second.fence, OUTCOME, TTL)
        await harness.elapse(TTL - TICK)
        assert list(await store.steps(first.name)) == steps
        await harness.elapse(TICK)
        assert list(await store.steps(first.name)) == []

    async def test_steps_go_with_their_record(self, harness: AsyncStoreHarness) -> None:
        """Released, or said never to have happened: a new claim begins without them, with all names free."""
        store = await harness.store()
        for settle in (_release, _never_happened):
            first = await _running(store)
            assert await store.record_step(first.name, first.fence, a_step("charge"))
            await settle(store, first)
            assert list(await store.steps(first.name)) == []
            await _begins_without_steps(store, first.name)

    async def test_a_claim_of_an_expired_operation_has_none_of_its_steps(self, harness: AsyncStoreHarness) -> None:
        """Swept or not; those of others are left alone."""
        store = await harness.store()
        other = await _running(store)
        assert await store.record_step(other.name, other.fence, a_step("charge"))
        claims = [await _running(store) for _ in range(2)]
        for claim in claims:
            assert await store.record_step(claim.name, claim.fence, a_step("charge"))
            assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        await harness.elapse(TTL)
        await _begins_without_steps(store, claims[0].name)
        assert (await store.sweep()).deleted == 1
        await _begins_without_steps(store, claims[1].name)
        assert list(await store.steps(other.name)) == [a_step("charge")]


class RecoveryContract:
    """What is pending, and the requests that it takes to finish it."""

    async def test_what_can_be_run_again_is_pending(self, harness: AsyncStoreHarness) -> None:
        """Lapsed and due records, whole, with their requests; not one tick earlier."""
        store = await harness.store()
        running, waiting = _recoverable(b"a"), _recoverable(b"b", b"", os.urandom(1 << 20))
        assert await store.claim(running) is None
        await harness.elapse(TICK)
        assert await store.claim(waiting) is None
        assert await store.wait(waiting.name, waiting.fence, LEASE, 2)
        await harness.elapse(LEASE - TICK * 2)
        assert list(await store.pending([METHOD])) == []
        await harness.elapse(TICK)
        assert await _names(store.pending([METHOD])) == {running.name}
        await harness.elapse(TICK)
        expected = [replace(await _record(store, one), request=one.request) for one in (running, waiting)]
        assert list(await store.pending([METHOD, "/a.B/Other"])) == expected
        assert [one.lapsed for one in expected] == [True, True]

    async def test_nothing_else_is_pending(self, harness: AsyncStoreHarness) -> None:
        """Neither what could be run again and has no request, nor what is held or completed; nor other methods."""
        store = await harness.store()
        claims = [_recoverable() for _ in range(4)]
        claims.append(replace(claims[0], name=os.urandom(16), request=None))
        claims.append(replace(claims[0], name=os.urandom(16), request=None))
        claims.append(replace(claims[0], name=os.urandom(16), method="/a.B/Other"))
        for claim in claims:
            assert await store.claim(claim) is None
        assert await store.wait(claims[5].name, claims[5].fence, TICK, 1)
        assert await store.hold(claims[1].name, claims[1].fence, "held")
        assert await store.complete(claims[2].name, claims[2].fence, OUTCOME, LEASE * 2)
        assert await store.release(claims[3].name, claims[3].fence)
        await harness.elapse(LEASE)
        assert await _names(store.pending([METHOD])) == {claims[0].name}
        assert await _names(store.pending(["/a.B/Other"])) == {claims[6].name}
        assert list(await store.pending([])) == []

    async def test_what_is_in_doubt_is_pending_first(self, harness: AsyncStoreHarness) -> None:
        """Opaque and running, with a request and without: not one tick early, and until it is held."""
        store = await harness.store()
        older, doubtful = _recoverable(), [a_claim(), a_claim(request=a_request(b"a"))]
        for claim in (older, *doubtful):
            assert await store.claim(claim) is None
            await harness.elapse(TICK)
        await harness.elapse(LEASE - TICK * 3)
        assert await _names(store.pending([METHOD])) == {older.name}
        await harness.elapse(TICK * 2)
        expected = [replace(await _record(store, one), request=one.request) for one in (*doubtful, older)]
        assert list(await store.pending([METHOD])) == expected
        assert list(await store.pending([METHOD], limit=1)) == expected[:1]
        assert await store.hold(doubtful[0].name, doubtful[0].fence, "in doubt", lapsed_only=True)
        assert list(await store.pending([METHOD])) == expected[1:]

    async def test_an_opaque_operation_that_waits_is_pending(self, harness: AsyncStoreHarness) -> None:
        """It is known how its last run ended."""
        store = await harness.store()
        claim = a_claim(request=a_request(b"a"))
        assert await store.claim(claim) is None
        assert await store.wait(claim.name, claim.fence, TICK, 1)
        await harness.elapse(TICK)
        assert await _names(store.pending([METHOD])) == {claim.name}

    async def test_the_oldest_are_pending_first(self, harness: AsyncStoreHarness) -> None:
        """In the order of their first claims, and no more than asked for."""
        store = await harness.store()
        claims = [replace(_recoverable(), method=f"/a.B/{n % 2}") for n in range(5)]
        for claim in claims:
            assert await store.claim(claim) is None
            await harness.elapse(TICK)
        await harness.elapse(LEASE)
        again = replace(claims[0], fence=os.urandom(16), lease=TICK)
        assert await store.claim(again, over=claims[0].fence) is None
        await harness.elapse(TICK)
        methods = {"/a.B/0", "/a.B/1"}
        assert [one.name for one in await store.pending(methods)] == [one.name for one in claims]
        assert [one.name for one in await store.pending(methods, limit=2)] == [one.name for one in claims[:2]]

    async def test_a_take_over_keeps_the_first_request(self, harness: AsyncStoreHarness) -> None:
        """What the retry brought along is not kept; a claim that begins anew has its own."""
        store = await harness.store()
        first = _recoverable(b"first")
        assert await store.claim(first) is None
        await harness.elapse(LEASE)
        second = replace(first, fence=os.urandom(16), request=a_request(b"second"))
        assert await store.claim(second, over=first.fence) is None
        await harness.elapse(LEASE)
        assert [one.request for one in await store.pending([METHOD])] == [first.request]
        assert await store.complete(second.name, second.fence, OUTCOME, TTL)
        await harness.elapse(TTL)
        third = replace(first, fence=os.urandom(16), request=a_request(b"third"))
        assert await store.claim(third) is None
        await harness.elapse(LEASE)
        assert [one.request for one in await store.pending([METHOD])] == [third.request]

    async def test_requests_are_for_recovery_alone(self, harness: AsyncStoreHarness) -> None:
        """No other answer has them."""
        store = await harness.store()
        claim = _recoverable(b"secret")
        assert await store.claim(claim) is None
        lost_to = await store.claim(a_claim(claim.name))
        assert lost_to == await _record(store, claim)
        assert [lost_to.request, *(one.request for one in await store.list())] == [None, None]


class ListContract:
    """Lists and sweeps."""

    async def test_a_list_is_in_the_order_of_claims(self, harness: AsyncStoreHarness) -> None:
        """Oldest first, whole records, at most ``limit``."""
        store = await harness.store()
        claims = []
        for _ in range(5):
            claims.append(await _running(store))
            await harness.elapse(TICK)
        records = await store.list()
        assert [one.name for one in records] == [one.name for one in claims]
        assert list(records) == [await _record(store, one) for one in claims]
        assert [one.name for one in await store.list(limit=2)] == [one.name for one in claims[:2]]

    async def test_a_list_goes_on_behind_a_record(self, harness: AsyncStoreHarness) -> None:
        """Page after page, each record once, also where many were claimed at one instant or one is gone by now."""
        store = await harness.store()
        claims = [await _running(store) for _ in range(7)]
        await harness.elapse(TICK)
        claims += [await _running(store) for _ in range(4)]
        found: list[Record] = []
        while page := await store.list(after=found[-1] if found else None, limit=3):
            assert len(page) <= 3
            found += page
            await store.release(page[-1].name, page[-1].fence)
        assert sorted(one.name for one in found) == sorted(one.name for one in claims)
        assert [one.created_at for one in found] == sorted(one.created_at for one in found)

    async def test_a_list_can_be_narrowed(self, harness: AsyncStoreHarness) -> None:
        """By state, by method, by both; ``limit`` counts those that are answered."""
        store = await harness.store()
        other = a_claim(method="/a.B/Other")
        await store.claim(other)
        running = [await _running(store) for _ in range(2)]
        held, waiting, completed = await _held(store), await _waiting(store), await _completed(store)
        assert await _names(store.list(state=State.HELD)) == {held.name}
        assert await _names(store.list(state=State.WAITING)) == {waiting.name}
        assert await _names(store.list(state=State.COMPLETED, limit=1)) == {completed.name}
        assert await _names(store.list(method="/a.B/Other")) == {other.name}
        assert await _names(store.list(state=State.RUNNING, method=METHOD)) == {one.name for one in running}
        assert await _names(store.list(method="/a.B/None")) == set()

    async def test_a_list_leaves_expired_records_out(self, harness: AsyncStoreHarness) -> None:
        """They are absent, and take no place in a page either."""
        store = await harness.store()
        for _ in range(5):
            await _completed(store)
        await harness.elapse(TTL)
        kept = await _completed(store)
        assert await _names(store.list(limit=2)) == {kept.name}

    async def test_a_sweep_deletes_what_is_expired_and_nothing_else(self, harness: AsyncStoreHarness) -> None:
        """And says how many."""
        store = await harness.store()
        for _ in range(3):
            await _completed(store)
        await harness.elapse(TTL - TICK)
        assert await store.sweep() == Swept(deleted=0, more=False)
        kept = [await prepare(store) for prepare in (_completed, _running, _held, _waiting)]
        await harness.elapse(TICK)
        swept = await store.sweep()
        assert (swept.deleted, swept.more) == (3, False)
        assert await _names(store.list()) == {one.name for one in kept}

    async def test_a_sweep_is_one_batch(self, harness: AsyncStoreHarness) -> None:
        """At most ``limit`` records, and it says whether there are more."""
        store = await harness.store()
        for _ in range(7):
            await _completed(store)
        await harness.elapse(TTL)
        batches = [await store.sweep(limit=3) for _ in range(4)]
        assert [one.deleted for one in batches] == [3, 3, 1, 0]
        assert [one.more for one in batches] == [True, True, False, False]

    async def test_a_swept_operation_is_as_absent_as_an_expired_one(self, harness: AsyncStoreHarness) -> None:
        """Its fence stays spent."""
        store = await harness.store()
        claim = await _completed(store)
        await harness.elapse(TTL)
        assert (await store.sweep()).deleted == 1
        await _refuses(store, claim.name, claim.fence)
        assert await store.claim(a_claim(claim.name)) is None


class LifeContract:
    """Opening and closing, many callers, and callers that go away."""

    async def test_a_store_opens_itself(self, harness: AsyncStoreHarness) -> None:
        """Every call does so; to open an open store, or to close a closed one, does nothing."""
        store = await harness.store()
        assert await store.get(os.urandom(16)) is None
        await store.open()
        await store.open()
        claim = await _running(store)
        await store.close()
        await store.close()
        assert (await _record(await harness.store(), claim)).fence == claim.fence

    async def test_records_outlive_the_store(self, harness: AsyncStoreHarness) -> None:
        """Another store on the database sees them all, as they were."""
        store = await harness.store()
        claims = [await prepare(store) for prepare in (_running, _held, _waiting, _completed)]
        records = [await _record(store, one) for one in claims]
        await store.close()
        again = await harness.store()
        await again.open()
        assert [await _record(again, one) for one in claims] == records
        assert await again.renew(claims[0].name, claims[0].fence, LEASE)

    async def test_stores_on_one_database_share_their_operations(self, harness: AsyncStoreHarness) -> None:
        """A claim through one is lost to a record of the other, and a fence is good in both."""
        one, other = await harness.store(), await harness.store()
        claim = await _running(one)
        assert await other.claim(a_claim(claim.name)) == await _record(one, claim)
        assert await other.complete(claim.name, claim.fence, OUTCOME, TTL)
        assert (await _record(one, claim)).outcome == OUTCOME

    async def test_another_loop_need_not_wait_for_this_one(self, harness: AsyncStoreHarness) -> None:
        """While a loop is blocked, calls from another loop, in another thread, are answered."""
        store = await harness.store()
        claim = await _running(store)
        renewed: list[bool] = []

        async def renew() -> None:
            renewed.append(await store.renew(claim.name, claim.fence, LEASE))

        under_way = asyncio.ensure_future(_record(store, claim))
        await asyncio.sleep(0)  # it is asked for, and its answer has to wait
        other = threading.Thread(target=lambda: asyncio.run(renew()), daemon=True)
        other.start()
        other.join(10)  # blocks this loop
        assert renewed == [True]
        assert (await under_way).fence == claim.fence

    async def test_of_many_claims_one_wins(self, harness: AsyncStoreHarness) -> None:
        """200 at once on 20 operations: 20 winners, and every loser sees its winner's record."""
        store = await harness.store()
        names = [os.urandom(16) for _ in range(20)]
        claims = [a_claim(names[n % 20]) for n in range(200)]
        answers = await asyncio.gather(*(store.claim(claim) for claim in claims))
        winners = {claim.name: claim for claim, lost_to in zip(claims, answers, strict=True) if lost_to is None}
        assert set(winners) == set(names)
        assert Counter(answer is None for answer in answers) == {True: 20, False: 180}
        assert {answer.fence for answer in answers if answer} == {one.fence for one in winners.values()}

    async def test_of_many_take_overs_one_wins(self, harness: AsyncStoreHarness) -> None:
        """50 at once over one lapsed fence."""
        store = await harness.store()
        first = await _running(store)
        await harness.elapse(LEASE)
        claims = [a_claim(first.name) for _ in range(50)]
        answers = await asyncio.gather(*(store.claim(claim, over=first.fence) for claim in claims))
        assert answers.count(None) == 1
        assert (await _record(store, first)).attempts == 2

    async def test_of_many_releases_one_wins(self, harness: AsyncStoreHarness) -> None:
        """The others find the record gone."""
        store = await harness.store()
        claim = await _running(store)
        answers = await asyncio.gather(*(store.release(claim.name, claim.fence) for _ in range(10)))
        assert answers.count(True) == 1

    async def test_of_a_completion_and_a_take_over_one_wins(self, harness: AsyncStoreHarness) -> None:
        """The slow owner's outcome is stored, or the operation is another's; never both."""
        store = await harness.store()
        for _ in range(20):
            first = await _running(store, lease=TICK)
            await harness.elapse(TICK)
            second = a_claim(first.name)
            completed, lost_to = await asyncio.gather(
                store.complete(first.name, first.fence, OUTCOME, TTL), store.claim(second, over=first.fence)
            )
            record = await _record(store, first)
            assert completed == (lost_to is not None)
            assert record.state is (State.COMPLETED if completed else State.RUNNING)

    async def test_many_kinds_of_calls_at_once_each_get_their_own_answer(self, harness: AsyncStoreHarness) -> None:
        """Calls that succeed and calls that are refused, side by side."""
        store = await harness.store()
        claims = [await _running(store) for _ in range(60)]
        await asyncio.gather(*(_settle_somehow(store, claim, n) for n, claim in enumerate(claims)))
        assert len(await store.list()) == 30 + 15

    async def test_a_cancelled_caller_leaves_the_store_intact(self, harness: AsyncStoreHarness) -> None:
        """Its call takes effect or not; those of others do, and the store goes on."""
        store = await harness.store()
        await store.open()
        claims = [a_claim() for _ in range(60)]
        tasks = [asyncio.ensure_future(store.claim(claim)) for claim in claims]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for claim, task in zip(claims, tasks, strict=True):
            record = await store.get(claim.name)
            if record is None:
                assert task.cancelled()
                assert await store.claim(claim) is None
            assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)

    async def test_closing_finishes_what_was_begun(self, harness: AsyncStoreHarness) -> None:
        """Claims that are under way when the store is closed are answered, and are there."""
        store = await harness.store()
        await store.open()
        claims = [a_claim() for _ in range(20)]
        tasks = [asyncio.ensure_future(store.claim(claim)) for claim in claims]
        await asyncio.sleep(0)
        await store.close()
        assert await asyncio.gather(*tasks) == [None] * 20
        again = await harness.store()
        assert await _names(again.list()) == {one.name for one in claims}

    async def test_a_store_serves_while_another_is_closed(self, harness: AsyncStoreHarness) -> None:
        """What one closes, the other keeps."""
        one, other = await harness.store(), await harness.store()
        claim = await _running(one)
        await other.open()
        await one.close()
        assert await other.complete(claim.name, claim.fence, OUTCOME, TTL)


class AsyncStoreContract(
    ClaimContract, OutcomeContract, WaitContract, StepContract, RecoveryContract, ListContract, LifeContract
):
    """The whole suite. Inherit from it and provide the fixture ``harness``, an :class:`AsyncStoreHarness`."""


async def _settle_somehow(store: AsyncStore, claim: Claim, n: int) -> None:
    """One of four things, each of which leaves a record, or none, of its own kind."""
    match n % 4:
        case 0:
            assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        case 1:
            assert await store.release(claim.name, claim.fence)
        case 2:
            assert await store.hold(claim.name, claim.fence, "held")
        case _:
            await _refuses(store, claim.name, os.urandom(16))


def _recoverable(*messages: bytes) -> Claim:
    return a_claim(effects=Effects.REPEATABLE, request=a_request(*messages))


async def _release(store: AsyncStore, claim: Claim) -> None:
    assert await store.release(claim.name, claim.fence)


async def _never_happened(store: AsyncStore, claim: Claim) -> None:
    assert await store.hold(claim.name, claim.fence, "its server died")
    assert await store.resolve(claim.name, claim.fence, None, TTL)


async def _begins_without_steps(store: AsyncStore, name: bytes) -> None:
    claim = a_claim(name)
    assert await store.claim(claim) is None
    assert list(await store.steps(name)) == []
    assert await store.record_step(name, claim.fence, a_step("charge")) is True


async def _names(records: Awaitable[Sequence[Record]]) -> set[bytes]:
    return {one.name for one in await records}
