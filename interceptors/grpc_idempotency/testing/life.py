"""The contract for opening and closing, and for several stores and event loops on one database."""

import asyncio
import os
import threading

from grpc_idempotency.records import Renewal
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import LEASE, OUTCOME, TTL, a_claim
from grpc_idempotency.testing.states import put_completed, put_held, put_running, put_waiting, record_of


class LifeContract:
    """Opening and closing, and several stores and event loops on one database."""

    async def test_a_store_opens_itself(self, harness: AsyncStoreHarness) -> None:
        """Every call opens the store. Opening an open store, or closing a closed one, does nothing."""
        store = await harness.store()
        assert await store.get(os.urandom(16)) is None
        await store.open()
        await store.open()
        claim = await put_running(store)
        await store.close()
        await store.close()
        assert (await record_of(await harness.store(), claim)).fence == claim.fence

    async def test_records_outlive_the_store(self, harness: AsyncStoreHarness) -> None:
        """Another store on the database reads all records unchanged."""
        store = await harness.store()
        claims = [await prepare(store) for prepare in (put_running, put_held, put_waiting, put_completed)]
        records = [await record_of(store, one) for one in claims]
        await store.close()
        again = await harness.store()
        await again.open()
        assert [await record_of(again, one) for one in claims] == records
        assert await again.renew(claims[0].name, claims[0].fence, LEASE) is Renewal.RENEWED

    async def test_stores_on_one_database_share_their_operations(self, harness: AsyncStoreHarness) -> None:
        """A claim through one store is lost to a record of the other, and a fence is valid in both."""
        one, other = await harness.store(), await harness.store()
        claim = await put_running(one)
        assert await other.claim(a_claim(claim.name)) == await record_of(one, claim)
        assert await other.complete(claim.name, claim.fence, OUTCOME, TTL)
        assert (await record_of(one, claim)).outcome == OUTCOME

    async def test_another_loop_need_not_wait_for_this_one(self, harness: AsyncStoreHarness) -> None:
        """While one event loop is blocked, calls from another loop, in another thread, are answered."""
        store = await harness.store()
        claim = await put_running(store)
        renewed: list[Renewal] = []

        async def renew() -> None:
            renewed.append(await store.renew(claim.name, claim.fence, LEASE))

        under_way = asyncio.ensure_future(record_of(store, claim))
        await asyncio.sleep(0)  # the request is submitted, and its answer has to wait
        other = threading.Thread(target=lambda: asyncio.run(renew()), daemon=True)
        other.start()
        other.join(10)  # blocks this loop
        assert renewed == [Renewal.RENEWED]
        assert (await under_way).fence == claim.fence

    async def test_closing_finishes_what_was_begun(self, harness: AsyncStoreHarness) -> None:
        """Claims that have begun when the store is closed are answered and stored."""
        store = await harness.store()
        await store.open()
        claims = [a_claim() for _ in range(20)]
        tasks = [asyncio.ensure_future(store.claim(claim)) for claim in claims]
        await asyncio.sleep(0)
        await store.close()
        assert await asyncio.gather(*tasks) == [None] * 20
        again = await harness.store()
        assert [(await record_of(again, one)).fence for one in claims] == [one.fence for one in claims]

    async def test_a_store_serves_while_another_is_closed(self, harness: AsyncStoreHarness) -> None:
        """Closing one store does not close another one on the same database."""
        one, other = await harness.store(), await harness.store()
        claim = await put_running(one)
        await other.open()
        await one.close()
        assert await other.complete(claim.name, claim.fence, OUTCOME, TTL)
