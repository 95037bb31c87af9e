"""The contract for lists of records."""

from grpc_idempotency.records import Claim, Record, State
from grpc_idempotency.store import AsyncStore
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import METHOD, TICK, TTL, a_claim
from grpc_idempotency.testing.states import (
    names_of,
    put_completed,
    put_held,
    put_running,
    put_undoing,
    put_waiting,
    record_of,
)


class ListContract:
    """Lists of records."""

    async def test_a_list_is_in_the_order_of_claims(self, harness: AsyncStoreHarness) -> None:
        """A list has whole records, the oldest first, and at most ``limit``."""
        store = await harness.store()
        claims = []
        for _ in range(5):
            claims.append(await put_running(store))
            await harness.elapse(TICK)
        records = await store.list()
        assert [one.name for one in records] == [one.name for one in claims]
        assert list(records) == [await record_of(store, one) for one in claims]
        assert [one.name for one in await store.list(limit=2)] == [one.name for one in claims[:2]]

    async def test_a_list_goes_on_behind_a_record(self, harness: AsyncStoreHarness) -> None:
        """Page by page, each record is listed once, also if many were claimed at one instant or one was deleted."""
        store = await harness.store()
        for state in (None, State.RUNNING):
            claims = [await put_running(store) for _ in range(7)]
            await harness.elapse(TICK)
            claims += [await put_running(store) for _ in range(4)]
            await put_completed(store, ttl=TICK)
            await harness.elapse(TICK)
            await _goes_on(store, state, claims)

    async def test_a_list_can_be_narrowed(self, harness: AsyncStoreHarness) -> None:
        """A list can be limited to a state, a method, or both; ``limit`` counts the returned records."""
        store = await harness.store()
        other = a_claim(method="/a.B/Other")
        await store.claim(other)
        running = [await put_running(store) for _ in range(2)]
        held, waiting, completed = await put_held(store), await put_waiting(store), await put_completed(store)
        undoing = await put_undoing(store)
        assert await names_of(store.list(state=State.HELD)) == {held.name}
        assert await names_of(store.list(state=State.WAITING)) == {waiting.name}
        assert await names_of(store.list(state=State.UNDOING)) == {undoing.name}
        assert await names_of(store.list(state=State.COMPLETED, limit=1)) == {completed.name}
        assert await names_of(store.list(method="/a.B/Other")) == {other.name}
        assert await names_of(store.list(state=State.RUNNING, method=METHOD)) == {one.name for one in running}
        assert await names_of(store.list(method="/a.B/None")) == set()

    async def test_a_list_leaves_expired_records_out(self, harness: AsyncStoreHarness) -> None:
        """Expired records are not listed, and do not count for ``limit``."""
        store = await harness.store()
        for _ in range(5):
            await put_completed(store)
        await harness.elapse(TTL)
        kept = await put_completed(store)
        assert await names_of(store.list(limit=2)) == {kept.name}


async def _goes_on(store: AsyncStore, state: State | None, claims: list[Claim]) -> None:
    found: list[Record] = []
    while page := await store.list(state=state, after=found[-1] if found else None, limit=3):
        assert len(page) <= 3
        found += page
        await store.release(page[-1].name, page[-1].fence)
    assert sorted(one.name for one in found) == sorted(one.name for one in claims)
    assert [one.created_at for one in found] == sorted(one.created_at for one in found)
    for one in found:
        await store.release(one.name, one.fence)
