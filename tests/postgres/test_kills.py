"""A PostgreSQL that is killed under load, again and again."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from grpc_idempotency.errors import FenceRefused, StoreUnavailable, TransactionMisuse
from grpc_idempotency.records import Claim, Effects, Record, State
from grpc_idempotency.stores.postgres import AsyncPostgresStore
from grpc_idempotency.testing import OUTCOME, TTL, Orders, a_claim, keyed

from ..harness.postgres import Server

pytestmark = pytest.mark.slow
CALLERS = 16
KILLS = 4
BETWEEN = 60
"""How many operations end between two kills."""
ORDERS = Orders("%s")


@pytest.fixture
async def own() -> AsyncIterator[Server]:
    """A server of the test's own. Processes are killed, and not the machine: what they wrote stays, without fsync."""
    server = await asyncio.to_thread(Server)
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.discard)


class Load:
    """Callers that finish one operation after another, and try again whatever fails."""

    def __init__(self, store: AsyncPostgresStore) -> None:
        self.store = store
        self.acknowledged: list[Claim] = []
        self.failures = 0
        self.over = False
        self.moved = asyncio.Event()

    async def call(self, effects: Effects) -> None:
        while not self.over:
            name = os.urandom(16)
            claim = await self.claimed(name, effects)
            while not await self.ended(claim):
                claim = await self.claimed(name, effects)  # the claim was lost with the server, and nothing was done
            self.acknowledged.append(claim)
            self.moved.set()

    async def claimed(self, name: bytes, effects: Effects) -> Claim:
        while True:
            claim = a_claim(name, effects=effects)
            try:
                lost_to = await self.store.claim(claim)
            except StoreUnavailable:
                await self.failed()
                # It may have landed all the same.
                if (record := await self.got(name)) is None or record.fence != claim.fence:
                    continue
            else:
                assert lost_to is None, lost_to
            return claim

    async def ended(self, claim: Claim) -> bool:
        """Ends an operation. Returns ``False`` if its claim is gone."""
        while True:
            try:
                if claim.effects is Effects.TRANSACTIONAL:
                    async with keyed(self.store, claim):
                        await self.store.transaction(ORDERS.insert(claim.name.hex()))
                    return True
                return await self.store.complete(claim.name, claim.fence, OUTCOME, TTL) is not None
            except StoreUnavailable:
                await self.failed()
            except FenceRefused:
                return False
            except TransactionMisuse:
                return True  # the transaction had committed, though nobody could tell

    async def got(self, name: bytes) -> Record | None:
        while True:
            try:
                return await self.store.get(name)
            except StoreUnavailable:
                await self.failed()

    async def failed(self) -> None:
        self.failures += 1
        await asyncio.sleep(0.01)

    async def more(self) -> None:
        """Waits until more operations have ended."""
        wanted = len(self.acknowledged) + BETWEEN
        while len(self.acknowledged) < wanted:
            self.moved.clear()
            await self.moved.wait()


async def test_no_acknowledged_outcome_is_lost(own: Server) -> None:
    """Each acknowledged operation is completed, and its rows are there once; there are no other rows (5.1)."""
    store = AsyncPostgresStore(own.url)
    await store.transaction(lambda db: db.execute("CREATE TABLE orders (id text)"))
    load = Load(store)
    kinds = (Effects.OPAQUE, Effects.TRANSACTIONAL)
    callers = [asyncio.ensure_future(load.call(kinds[n % 2])) for n in range(CALLERS)]
    for _ in range(KILLS):
        await load.more()
        await asyncio.to_thread(own.kill)
        await asyncio.to_thread(own.start)
    await load.more()
    load.over = True
    await asyncio.gather(*callers)
    assert load.failures > 0
    standing = await store.standing([claim.name for claim in load.acknowledged])
    assert {one.state for one in standing.values()} == {State.COMPLETED}
    assert {claim.name: claim.fence for claim in load.acknowledged} == {
        name: one.fence for name, one in standing.items()
    }
    paid = sorted(claim.name.hex() for claim in load.acknowledged if claim.effects is Effects.TRANSACTIONAL)
    assert await ORDERS.names(store) == paid
    await store.close()
