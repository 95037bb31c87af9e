"""The contract for undoing records."""

import os
from dataclasses import replace
from datetime import timedelta

from grpc_idempotency.records import Code, Outcome, Renewal, State
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import FAILURE, LEASE, OUTCOME, TICK, TTL, a_claim, a_step
from grpc_idempotency.testing.states import (
    assert_refused,
    put_completed,
    put_held,
    put_running,
    put_undoing,
    put_waiting,
    record_of,
)


class UndoContract:
    """Undoing records: those that have failed for good, and whose finished steps are being undone."""

    async def test_the_failure_is_kept_to_the_byte(self, harness: AsyncStoreHarness) -> None:
        """The failure is stored unchanged with the record, which keeps its fence and its steps, and has no outcome."""
        store = await harness.store()
        claim = await put_running(store)
        assert await store.record_step(claim.name, claim.fence, a_step("charge", undoable=True))
        failure = Outcome(
            status=Code.FAILED_PRECONDITION,
            details="ünïcode 'and; \n",
            trailers=(("x", "y"), ("x", ""), ("z-bin", bytes(range(256)))),
            retained=False,
        )
        before = await record_of(store, claim)
        assert await store.undo(claim.name, claim.fence, failure) is True
        assert await record_of(store, claim) == replace(before, state=State.UNDOING, failure=failure)
        assert list(await store.steps(claim.name)) == [a_step("charge", undoable=True)]

    async def test_it_can_be_asked_again(self, harness: AsyncStoreHarness) -> None:
        """A repeated ``undo`` with the same failure and fence returns ``True`` and changes nothing.

        The answer to the first one may have been lost.
        """
        store = await harness.store()
        claim = await put_undoing(store)
        record = await record_of(store, claim)
        assert await store.undo(claim.name, claim.fence, FAILURE) is True
        assert await store.undo(claim.name, claim.fence, replace(FAILURE, details="other")) is False
        assert await store.undo(claim.name, os.urandom(16), FAILURE) is False
        assert await record_of(store, claim) == record

    async def test_only_running_records_are_undone(self, harness: AsyncStoreHarness) -> None:
        """``undo`` changes running records, also lapsed ones that nobody took over.

        It returns ``False`` for held, waiting and completed records.
        """
        store = await harness.store()
        claim = await put_running(store)
        await harness.elapse(LEASE)
        assert await store.undo(claim.name, claim.fence, FAILURE) is True
        for prepare in (put_held, put_waiting, put_completed):
            claim = await prepare(store)
            record = await record_of(store, claim)
            assert await store.undo(claim.name, claim.fence, FAILURE) is False
            assert await record_of(store, claim) == record

    async def test_its_owner_goes_on(self, harness: AsyncStoreHarness) -> None:
        """The owner can renew the lease, which the record keeps, record undos as steps, and complete the record."""
        store = await harness.store()
        claim = await put_undoing(store)
        await harness.elapse(LEASE - TICK)
        assert not (await record_of(store, claim)).lapsed
        assert await store.renew(claim.name, claim.fence, LEASE) is Renewal.RENEWED
        assert await store.record_step(claim.name, claim.fence, a_step("undo:charge")) is True
        await harness.elapse(LEASE)
        assert (await record_of(store, claim)).lapsed
        assert await store.complete(claim.name, claim.fence, FAILURE, TTL) is not None
        record = await record_of(store, claim)
        assert (record.state, record.outcome, record.failure) == (State.COMPLETED, FAILURE, None)

    async def test_a_strange_fence_has_no_say(self, harness: AsyncStoreHarness) -> None:
        """Calls under another fence are refused, as for every other record."""
        store = await harness.store()
        claim = await put_undoing(store)
        await assert_refused(store, claim.name, os.urandom(16))

    async def test_a_take_over_goes_on_undoing(self, harness: AsyncStoreHarness) -> None:
        """A take-over keeps the failure, and adds one attempt and a new lease; the earlier fence is invalid."""
        store = await harness.store()
        first = await put_undoing(store)
        second = a_claim(first.name)
        await harness.elapse(LEASE - TICK)
        assert await store.claim(second, over=first.fence) == await record_of(store, first)
        await harness.elapse(TICK)
        assert await store.claim(second, over=first.fence) is None
        record = await record_of(store, second)
        assert (record.state, record.fence, record.failure) == (State.UNDOING, second.fence, FAILURE)
        assert (record.attempts, record.lapsed) == (2, False)
        await assert_refused(store, first.name, first.fence)

    async def test_it_waits_with_its_failure(self, harness: AsyncStoreHarness) -> None:
        """A waiting record keeps its failure and both its counts; once it is due, a take-over makes it undoing."""
        store = await harness.store()
        first = await put_undoing(store)
        assert await store.wait(first.name, first.fence, LEASE, 4, 2) is True
        record = await record_of(store, first)
        assert (record.state, record.failure, record.failed_runs, record.failed_undos) == (State.WAITING, FAILURE, 4, 2)
        await harness.elapse(LEASE)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        record = await record_of(store, second)
        assert (record.state, record.failure, record.failed_runs, record.failed_undos) == (State.UNDOING, FAILURE, 4, 2)

    async def test_it_is_held_with_its_failure(self, harness: AsyncStoreHarness) -> None:
        """A held record keeps its failure, for an operator to see, until it is completed."""
        store = await harness.store()
        claim = await put_undoing(store)
        assert await store.hold(claim.name, claim.fence, "an undo failed", lapsed_only=True) is False
        assert await store.hold(claim.name, claim.fence, "an undo failed") is True
        record = await record_of(store, claim)
        assert (record.state, record.failure, record.reason) == (State.HELD, FAILURE, "an undo failed")
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        record = await record_of(store, claim)
        assert (record.state, record.outcome, record.failure) == (State.COMPLETED, OUTCOME, None)
        claim = await put_undoing(store)
        await harness.elapse(LEASE)
        assert await store.hold(claim.name, claim.fence, "its server died", lapsed_only=True) is True

    async def test_it_does_not_expire(self, harness: AsyncStoreHarness) -> None:
        """An undoing record does not expire, however long ago its lease has run out."""
        store = await harness.store()
        claim = await put_undoing(store)
        await harness.elapse(timedelta(days=400))
        assert (await store.sweep()).deleted == 0
        assert (await record_of(store, claim)).state is State.UNDOING

    async def test_a_claim_that_begins_anew_has_none_of_it(self, harness: AsyncStoreHarness) -> None:
        """A new claim, after expiry or a release, has neither the failure nor the counts."""
        store = await harness.store()
        first = await put_undoing(store)
        assert await store.wait(first.name, first.fence, TICK, 1, 2) is True
        await harness.elapse(TICK)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        assert await store.complete(second.name, second.fence, FAILURE, TTL) is not None
        await harness.elapse(TTL)
        third = a_claim(first.name)
        assert await store.claim(third) is None
        record = await record_of(store, third)
        assert (record.state, record.failure, record.failed_runs, record.failed_undos) == (State.RUNNING, None, 0, 0)
        released = await put_undoing(store)
        assert await store.release(released.name, released.fence) is True
        assert await store.claim(a_claim(released.name)) is None
        assert (await record_of(store, released)).failure is None
