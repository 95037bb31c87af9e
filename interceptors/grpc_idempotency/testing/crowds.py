"""The contract for many concurrent callers, and for callers that are cancelled."""

import asyncio
import os
from collections import Counter

from grpc_idempotency.records import Claim, State
from grpc_idempotency.store import AsyncStore
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import LEASE, OUTCOME, TICK, TTL, a_claim
from grpc_idempotency.testing.states import assert_refused, put_running, record_of


class CrowdContract:
    """Many concurrent callers, and callers that are cancelled."""

    async def test_of_many_claims_one_wins(self, harness: AsyncStoreHarness) -> None:
        """Of 200 concurrent claims of 20 operations, 20 succeed, and every other claim returns the winner's record."""
        store = await harness.store()
        names = [os.urandom(16) for _ in range(20)]
        claims = [a_claim(names[n % 20]) for n in range(200)]
        answers = await asyncio.gather(*(store.claim(claim) for claim in claims))
        winners = {claim.name: claim for claim, lost_to in zip(claims, answers, strict=True) if lost_to is None}
        assert set(winners) == set(names)
        assert Counter(answer is None for answer in answers) == {True: 20, False: 180}
        assert {answer.fence for answer in answers if answer} == {one.fence for one in winners.values()}

    async def test_of_many_take_overs_one_wins(self, harness: AsyncStoreHarness) -> None:
        """Of 50 concurrent take-overs of one lapsed record, one succeeds."""
        store = await harness.store()
        first = await put_running(store)
        await harness.elapse(LEASE)
        claims = [a_claim(first.name) for _ in range(50)]
        answers = await asyncio.gather(*(store.claim(claim, over=first.fence) for claim in claims))
        assert answers.count(None) == 1
        assert (await record_of(store, first)).attempts == 2

    async def test_of_many_releases_one_wins(self, harness: AsyncStoreHarness) -> None:
        """Of ten concurrent releases, one succeeds; the others find the record gone."""
        store = await harness.store()
        claim = await put_running(store)
        answers = await asyncio.gather(*(store.release(claim.name, claim.fence) for _ in range(10)))
        assert answers.count(True) == 1

    async def test_of_a_completion_and_a_take_over_one_wins(self, harness: AsyncStoreHarness) -> None:
        """Either the slow owner's outcome is stored, or the operation is taken over; never both."""
        store = await harness.store()
        for _ in range(20):
            first = await put_running(store, lease=TICK)
            await harness.elapse(TICK)
            second = a_claim(first.name)
            completed, lost_to = await asyncio.gather(
                store.complete(first.name, first.fence, OUTCOME, TTL), store.claim(second, over=first.fence)
            )
            record = await record_of(store, first)
            assert (completed is not None) == (lost_to is not None)
            assert record.state is (State.RUNNING if completed is None else State.COMPLETED)

    async def test_many_kinds_of_calls_at_once_each_get_their_own_answer(self, harness: AsyncStoreHarness) -> None:
        """Concurrent calls of different kinds, of which some succeed and some are refused, get their own answers."""
        store = await harness.store()
        claims = [await put_running(store) for _ in range(60)]
        await asyncio.gather(*(_settle_somehow(store, claim, n) for n, claim in enumerate(claims)))
        assert len([one for one in claims if await store.get(one.name) is not None]) == 30 + 15

    async def test_a_cancelled_caller_leaves_the_store_intact(self, harness: AsyncStoreHarness) -> None:
        """A cancelled call takes effect or not; those of others take effect, and the store continues to work."""
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


async def _settle_somehow(store: AsyncStore, claim: Claim, n: int) -> None:
    """Does one of four things, each of which leaves a record, or none, of its own kind."""
    match n % 4:
        case 0:
            assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        case 1:
            assert await store.release(claim.name, claim.fence)
        case 2:
            assert await store.hold(claim.name, claim.fence, "held")
        case _:
            await assert_refused(store, claim.name, os.urandom(16))
