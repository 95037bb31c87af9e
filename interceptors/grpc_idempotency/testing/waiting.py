"""The contract for waiting records, which will be run again."""

import asyncio
import os
from dataclasses import replace
from datetime import timedelta

from grpc_idempotency.records import State
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import LEASE, OUTCOME, TICK, TTL, a_claim
from grpc_idempotency.testing.states import assert_refused, put_completed, put_held, put_running, put_waiting, record_of


class WaitContract:
    """Waiting records, which will be run again."""

    async def test_a_waiting_record_is_due_at_its_instant(self, harness: AsyncStoreHarness) -> None:
        """A waiting record keeps its fence, has no lease, and is due once ``delay`` has passed, not a tick earlier."""
        store = await harness.store()
        claim = await put_running(store)
        assert await store.wait(claim.name, claim.fence, LEASE * 2, 3, 0) is True
        record = await record_of(store, claim)
        assert (record.state, record.fence, record.failed_runs, record.attempts) == (State.WAITING, claim.fence, 3, 1)
        assert (record.lapsed, record.outcome, record.expires_at) == (False, None, None)
        await harness.elapse(LEASE * 2 - TICK)
        assert await record_of(store, claim) == record
        await harness.elapse(TICK)
        assert await record_of(store, claim) == replace(record, lapsed=True)

    async def test_no_delay_means_now(self, harness: AsyncStoreHarness) -> None:
        """A record with no delay is due at once."""
        store = await harness.store()
        claim = await put_waiting(store, delay=timedelta(0))
        assert (await record_of(store, claim)).lapsed

    async def test_a_waiting_record_does_not_expire(self, harness: AsyncStoreHarness) -> None:
        """A waiting record does not expire, however long it has been due."""
        store = await harness.store()
        claim = await put_waiting(store)
        await harness.elapse(timedelta(days=400))
        assert (await store.sweep()).deleted == 0
        assert (await record_of(store, claim)).state is State.WAITING

    async def test_only_running_records_wait(self, harness: AsyncStoreHarness) -> None:
        """``wait`` changes running records, also lapsed ones that nobody took over.

        It returns ``False`` for held, waiting and completed records.
        """
        store = await harness.store()
        claim = await put_running(store)
        await harness.elapse(LEASE)
        assert await store.wait(claim.name, claim.fence, LEASE, 1, 0) is True
        for prepare in (put_held, put_waiting, put_completed):
            claim = await prepare(store)
            record = await record_of(store, claim)
            assert await store.wait(claim.name, claim.fence, TICK, 9, 0) is False
            assert await record_of(store, claim) == record

    async def test_nobody_has_a_say_over_a_waiting_record(self, harness: AsyncStoreHarness) -> None:
        """An owner can't change a waiting record, not even under its own fence: it has to be claimed once it is due."""
        store = await harness.store()
        claim = await put_waiting(store)
        await assert_refused(store, claim.name, claim.fence)
        await harness.elapse(LEASE)
        await assert_refused(store, claim.name, claim.fence)

    async def test_a_due_record_is_taken_over(self, harness: AsyncStoreHarness) -> None:
        """A take-over of a due record adds one attempt and a new lease, and keeps the count; the old fence fails."""
        store = await harness.store()
        first = await put_waiting(store, failed_runs=4)
        created_at = (await record_of(store, first)).created_at
        await harness.elapse(LEASE)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        record = await record_of(store, second)
        assert (record.state, record.fence, record.fingerprint) == (State.RUNNING, second.fence, second.fingerprint)
        assert (record.attempts, record.failed_runs, record.created_at, record.lapsed) == (2, 4, created_at, False)
        await assert_refused(store, first.name, first.fence)
        await harness.elapse(LEASE)
        assert (await record_of(store, second)).lapsed
        assert await store.complete(second.name, second.fence, OUTCOME, TTL)

    async def test_a_record_that_is_not_due_is_not_taken_over(self, harness: AsyncStoreHarness) -> None:
        """A take-over fails one tick before the record is due, and always under another fence."""
        store = await harness.store()
        first = await put_waiting(store)
        await harness.elapse(LEASE - TICK)
        assert await store.claim(a_claim(first.name), over=first.fence) == await record_of(store, first)
        await harness.elapse(TICK)
        assert await store.claim(a_claim(first.name), over=os.urandom(16)) == await record_of(store, first)
        assert await store.claim(a_claim(first.name)) == await record_of(store, first)

    async def test_failed_runs_are_as_of_the_last_wait(self, harness: AsyncStoreHarness) -> None:
        """The count of the last wait stays with the record to its end; a claim of an expired operation has none."""
        store = await harness.store()
        first = await put_waiting(store, delay=TICK, failed_runs=1)
        await harness.elapse(TICK)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        assert await store.wait(second.name, second.fence, TICK, 2, 0) is True
        await harness.elapse(TICK)
        third = a_claim(first.name)
        assert await store.claim(third, over=second.fence) is None
        assert await store.complete(third.name, third.fence, OUTCOME, TTL)
        record = await record_of(store, third)
        assert (record.attempts, record.failed_runs) == (3, 2)
        await harness.elapse(TTL)
        assert await store.claim(a_claim(first.name)) is None
        record = await record_of(store, first)
        assert (record.attempts, record.failed_runs) == (1, 0)

    async def test_of_many_that_run_a_due_record_again_one_wins(self, harness: AsyncStoreHarness) -> None:
        """Of 50 concurrent take-overs of a due record, one succeeds."""
        store = await harness.store()
        first = await put_waiting(store)
        await harness.elapse(LEASE)
        answers = await asyncio.gather(*(store.claim(a_claim(first.name), over=first.fence) for _ in range(50)))
        assert answers.count(None) == 1
        assert (await record_of(store, first)).attempts == 2
