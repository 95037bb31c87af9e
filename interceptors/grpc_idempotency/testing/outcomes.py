"""The contract for the storage and the expiry of outcomes."""

import os
from datetime import timedelta

from grpc_idempotency.records import Code, Outcome, State
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import LEASE, OTHER_OUTCOME, OUTCOME, TICK, TTL, a_claim
from grpc_idempotency.testing.states import assert_refused, put_completed, put_held, put_running, record_of


class OutcomeContract:
    """The storage and the expiry of outcomes."""

    async def test_a_completion_stores_the_outcome(self, harness: AsyncStoreHarness) -> None:
        """The record is completed with the whole outcome, and expires ``ttl`` from then, by the store's clock."""
        store = await harness.store()
        claim = await put_running(store)
        at = await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        assert at is not None
        record = await record_of(store, claim)
        assert record.completed_at == at
        assert record.remaining is not None
        assert timedelta(0) < record.remaining <= TTL
        await harness.elapse(TICK)
        later = (await record_of(store, claim)).remaining
        assert later is not None
        assert later <= record.remaining - TICK
        assert (record.state, record.outcome, record.fence) == (State.COMPLETED, OUTCOME, claim.fence)
        assert record.completed_at is not None
        assert record.expires_at == record.completed_at + TTL
        assert not record.lapsed

    async def test_outcomes_are_kept_to_the_byte(self, harness: AsyncStoreHarness) -> None:
        """An outcome is stored unchanged: status, message (none, empty or large), details, and trailers in order."""
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
        claims = [await put_running(store) for _ in outcomes]
        fresh = await harness.store()
        for claim, outcome in zip(claims, outcomes, strict=True):
            assert await store.complete(claim.name, claim.fence, outcome, TTL)
            assert (await record_of(fresh, claim)).outcome == outcome

    async def test_a_completion_can_be_tried_again(self, harness: AsyncStoreHarness) -> None:
        """A repeated completion with the same fence and outcome returns the time of the first one.

        With another outcome it returns ``None``. The first outcome and its expiry stay.
        """
        store = await harness.store()
        claim = await put_completed(store)
        record = await record_of(store, claim)
        await harness.elapse(TICK)
        assert record.outcome is not None
        assert await store.complete(claim.name, claim.fence, record.outcome, TTL * 2) == record.completed_at
        assert await store.complete(claim.name, claim.fence, OTHER_OUTCOME, TTL * 2) is None
        assert await record_of(store, claim) == record

    async def test_a_lapsed_owner_may_still_complete(self, harness: AsyncStoreHarness) -> None:
        """An owner whose lease has run out can complete the record as long as nobody took over."""
        store = await harness.store()
        claim = await put_running(store)
        await harness.elapse(LEASE * 2)
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        assert (await record_of(store, claim)).outcome == OUTCOME

    async def test_expiry_is_exact(self, harness: AsyncStoreHarness) -> None:
        """The record exists until just before ``ttl`` has passed, and is absent from then on, without a sweep."""
        store = await harness.store()
        claim = await put_completed(store)
        await harness.elapse(TTL - TICK)
        assert (await record_of(store, claim)).outcome == OUTCOME
        await harness.elapse(TICK)
        assert await store.get(claim.name) is None

    async def test_an_expired_operation_is_absent_to_every_call(self, harness: AsyncStoreHarness) -> None:
        """No fenced call finds it, not even a repeated completion; a new claim starts from the beginning."""
        store = await harness.store()
        first = await put_completed(store)
        before = await record_of(store, first)
        await harness.elapse(TTL)
        await assert_refused(store, first.name, first.fence)
        second = a_claim(first.name)
        assert await store.claim(second) is None
        record = await record_of(store, second)
        assert (record.state, record.fence, record.attempts) == (State.RUNNING, second.fence, 1)
        assert record.created_at >= before.created_at + TTL
        assert (record.outcome, record.completed_at, record.expires_at) == (None, None, None)
        await assert_refused(store, first.name, first.fence)

    async def test_running_and_held_records_do_not_expire(self, harness: AsyncStoreHarness) -> None:
        """Running and held records do not expire, however old they are."""
        store = await harness.store()
        running, held = await put_running(store), await put_held(store)
        await harness.elapse(timedelta(days=400))
        assert (await store.sweep()).deleted == 0
        assert (await record_of(store, running)).state is State.RUNNING
        assert (await record_of(store, held)).state is State.HELD
