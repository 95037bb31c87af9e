"""The contract for claims and take-overs."""

import os
from dataclasses import replace
from datetime import timezone

from grpc_idempotency.records import Effects, State
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import FAILURE, LEASE, OTHER_OUTCOME, OUTCOME, TICK, TTL, a_claim
from grpc_idempotency.testing.states import (
    assert_refused,
    put_completed,
    put_held,
    put_running,
    put_undoing,
    put_waiting,
    record_of,
)


class ClaimContract:
    """Claims and take-overs."""

    async def test_a_claim_of_an_absent_operation_is_won(self, harness: AsyncStoreHarness) -> None:
        """The claim returns ``None``, and the record has the claim's values and is running under its fence."""
        store = await harness.store()
        claim = a_claim()
        assert await store.claim(claim) is None
        record = await record_of(store, claim)
        assert (record.name, record.method, record.fence) == (claim.name, claim.method, claim.fence)
        assert (record.fingerprint, record.effects) == (claim.fingerprint, claim.effects)
        assert (record.state, record.attempts, record.lapsed, record.reason) == (State.RUNNING, 1, False, "")
        assert (record.completed_at, record.expires_at, record.outcome) == (None, None, None)
        assert record.created_at.tzinfo is timezone.utc

    async def test_every_kind_of_effects_is_kept(self, harness: AsyncStoreHarness) -> None:
        """The record has the claim's ``effects``."""
        store = await harness.store()
        for effects in Effects:
            claim = replace(a_claim(), effects=effects)
            await store.claim(claim)
            assert (await record_of(store, claim)).effects is effects

    async def test_a_claim_is_lost_to_a_record_in_any_state(self, harness: AsyncStoreHarness) -> None:
        """The claim returns the record that prevented it, and changes nothing."""
        store = await harness.store()
        for prepare in (put_running, put_held, put_waiting, put_completed):
            first = await prepare(store)
            record = await record_of(store, first)
            assert await store.claim(a_claim(first.name)) == record
            assert await record_of(store, first) == record

    async def test_a_claim_that_meets_its_own_record_has_won(self, harness: AsyncStoreHarness) -> None:
        """A claim whose answer was lost can be tried again: it succeeds, and changes nothing."""
        store = await harness.store()
        first = await put_running(store)
        for again in ({}, {"over": os.urandom(16)}):
            await harness.elapse(LEASE / 2)  # at the second time the lease has run out
            record = await record_of(store, first)
            assert await store.claim(first, **again) is None
            assert await record_of(store, first) == record
        second = a_claim(first.name)
        for _ in range(2):
            assert await store.claim(second, over=first.fence) is None
            assert (await record_of(store, second)).attempts == 2
        undoing = await put_undoing(store)
        assert await store.claim(undoing) is None
        assert (await record_of(store, undoing)).state is State.UNDOING

    async def test_a_claim_is_lost_to_its_own_record_that_is_not_running(self, harness: AsyncStoreHarness) -> None:
        """If the record was held, completed or made waiting in the meantime, no run may begin under this fence."""
        store = await harness.store()
        for prepare in (put_held, put_waiting, put_completed):
            claim = await prepare(store)
            record = await record_of(store, claim)
            assert await store.claim(claim) == record
            assert await record_of(store, claim) == record

    async def test_a_lapsed_lease_alone_gives_nothing_away(self, harness: AsyncStoreHarness) -> None:
        """A claim without ``over`` is lost to a lapsed record, too."""
        store = await harness.store()
        first = await put_running(store)
        await harness.elapse(LEASE)
        lost_to = await store.claim(a_claim(first.name))
        assert lost_to is not None
        assert lost_to.lapsed
        assert lost_to.fence == first.fence

    async def test_a_lapsed_record_is_taken_over(self, harness: AsyncStoreHarness) -> None:
        """The record is the new claim's, with one attempt more and a new lease; it keeps its ``created_at``."""
        store = await harness.store()
        first = await put_running(store)
        created_at = (await record_of(store, first)).created_at
        await harness.elapse(LEASE)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        record = await record_of(store, second)
        assert (record.fence, record.fingerprint, record.attempts) == (second.fence, second.fingerprint, 2)
        assert (record.created_at, record.lapsed, record.state) == (created_at, False, State.RUNNING)
        await assert_refused(store, first.name, first.fence)

    async def test_the_kind_of_call_is_kept(self, harness: AsyncStoreHarness) -> None:
        """The record's ``streams`` is that of the last claim, in every state."""
        store = await harness.store()
        for streams in (False, True):
            first = a_claim(streams=not streams)
            assert await store.claim(first) is None
            assert (await record_of(store, first)).streams is not streams
            await harness.elapse(LEASE)
            second = a_claim(first.name, streams=streams)
            assert await store.claim(second, over=first.fence) is None
            assert (await record_of(store, second)).streams is streams
            assert await store.hold(second.name, second.fence, "its server died")
            assert (await record_of(store, second)).streams is streams
            assert await store.complete(second.name, second.fence, OTHER_OUTCOME, TTL)
            assert (await record_of(store, second)).streams is streams
            await harness.elapse(TTL)
            third = a_claim(first.name, streams=not streams)
            assert await store.claim(third) is None
            record = await record_of(store, third)
            assert (record.streams, record.resolved) == (not streams, False)

    async def test_a_live_record_is_not_taken_over(self, harness: AsyncStoreHarness) -> None:
        """A take-over fails one tick before the lease has run out."""
        store = await harness.store()
        first = await put_running(store)
        await harness.elapse(LEASE - TICK)
        assert await store.claim(a_claim(first.name), over=first.fence) == await record_of(store, first)

    async def test_a_record_of_another_fence_is_not_taken_over(self, harness: AsyncStoreHarness) -> None:
        """If two processes have read the same lapsed record, only one of them takes it over."""
        store = await harness.store()
        first = await put_running(store)
        await harness.elapse(LEASE)
        second, third = a_claim(first.name, lease=TICK), a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        await harness.elapse(LEASE)
        lost_to = await store.claim(third, over=first.fence)
        assert lost_to is not None
        assert lost_to.fence == second.fence

    async def test_held_and_completed_records_are_not_taken_over(self, harness: AsyncStoreHarness) -> None:
        """``over`` has no effect on held and completed records."""
        store = await harness.store()
        for prepare in (put_held, put_completed):
            first = await prepare(store)
            await harness.elapse(LEASE)
            assert await store.claim(a_claim(first.name), over=first.fence) == await record_of(store, first)

    async def test_a_take_over_of_an_absent_record_is_a_claim(self, harness: AsyncStoreHarness) -> None:
        """A take-over of a record that was released in the meantime succeeds; the attempts count from 1 again."""
        store = await harness.store()
        claim = a_claim()
        assert await store.claim(claim, over=os.urandom(16)) is None
        assert (await record_of(store, claim)).attempts == 1

    async def test_a_record_names_the_owner_of_its_last_claim(self, harness: AsyncStoreHarness) -> None:
        """A record has its owner while it is running, undoing, waiting or held, but not once it is completed.

        A take-over stores its own owner.
        """
        store = await harness.store()
        first, second = a_claim(owner="one:1"), a_claim(owner="two:22")
        second = replace(second, name=first.name)
        assert await store.claim(first) is None
        assert (await record_of(store, first)).owner == "one:1"
        assert await store.wait(first.name, first.fence, TICK, 1, 0)
        assert (await record_of(store, first)).owner == "one:1"
        await harness.elapse(TICK)
        assert await store.claim(second, over=first.fence) is None
        assert (await record_of(store, first)).owner == "two:22"
        assert await store.undo(second.name, second.fence, FAILURE)
        assert await store.hold(second.name, second.fence, "an undo failed")
        assert (await record_of(store, first)).owner == "two:22"
        assert await store.complete(second.name, second.fence, OUTCOME, TTL)
        assert (await record_of(store, first)).owner == ""
        await harness.elapse(TTL)
        third = replace(first, fence=os.urandom(16), owner="three:3")
        assert await store.claim(third) is None
        assert (await record_of(store, third)).owner == "three:3"
        assert await store.complete(third.name, third.fence, OUTCOME, TTL)
        assert (await record_of(store, third)).owner == ""
