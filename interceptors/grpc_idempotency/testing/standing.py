"""The contract for the standings of many operations at once, which waiting calls poll."""

import os

from grpc_idempotency.records import Renewal, Standing, State
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import LEASE, TICK, TTL, a_claim
from grpc_idempotency.testing.states import (
    put_completed,
    put_held,
    put_running,
    put_undoing,
    put_waiting,
    record_of,
)

MANY = 300


class StandingContract:
    """The standings of many operations at once."""

    async def test_a_standing_is_that_of_the_record(self, harness: AsyncStoreHarness) -> None:
        """In every state it has the record's fence, state and lapse. Absent operations are missing."""
        store = await harness.store()
        claims = [
            await put(store) for put in (put_running, put_undoing, put_waiting, put_held, put_completed, put_running)
        ]
        assert await store.renew(claims[0].name, claims[0].fence, LEASE * 3) is Renewal.RENEWED
        for elapsed, lapsed in (
            (TICK, [False, False, False, False, False, False]),
            (LEASE, [False, True, True, False, False, True]),
        ):
            await harness.elapse(elapsed)
            records = [await record_of(store, claim) for claim in claims]
            assert await store.standing([os.urandom(16), *(claim.name for claim in claims)]) == {
                one.name: Standing(fence=one.fence, state=one.state, lapsed=one.lapsed) for one in records
            }
            assert [one.lapsed for one in records] == lapsed

    async def test_a_standing_lapses_at_its_instant(self, harness: AsyncStoreHarness) -> None:
        """Not before the lease has run out, and from then on."""
        store = await harness.store()
        claim = await put_running(store)
        for elapsed, lapsed in ((LEASE - TICK, False), (TICK, True)):
            await harness.elapse(elapsed)
            expected = Standing(fence=claim.fence, state=State.RUNNING, lapsed=lapsed)
            assert await store.standing([claim.name]) == {claim.name: expected}

    async def test_an_expired_operation_has_no_standing(self, harness: AsyncStoreHarness) -> None:
        """It is absent from the instant of its expiry, swept or not."""
        store = await harness.store()
        claim = await put_completed(store, ttl=TTL)
        await harness.elapse(TTL - TICK)
        assert claim.name in await store.standing([claim.name])
        await harness.elapse(TICK)
        assert await store.standing([claim.name]) == {}

    async def test_many_standings_are_read_at_once(self, harness: AsyncStoreHarness) -> None:
        """Any number of names may be asked for, also none, or one twice."""
        store = await harness.store()
        claims = [a_claim() for _ in range(MANY)]
        for claim in claims:
            assert await store.claim(claim) is None
        found = await store.standing(tuple(claim.name for claim in claims))
        assert {name: one.fence for name, one in found.items()} == {claim.name: claim.fence for claim in claims}
        assert await store.standing([]) == {}
        assert list(await store.standing([claims[0].name] * 2)) == [claims[0].name]
