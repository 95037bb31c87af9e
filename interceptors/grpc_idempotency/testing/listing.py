"""The contract for lists of records, for operators."""

from datetime import datetime
from itertools import product
from typing import Any

from grpc_idempotency.operator_store import AsyncOperatorStore
from grpc_idempotency.records import Claim, Record, State
from grpc_idempotency.testing.harness import AsyncOperatorHarness
from grpc_idempotency.testing.makers import LEASE, METHOD, OUTCOME, TICK, TTL, a_claim, a_recoverable_claim
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

    async def test_a_list_is_in_the_order_of_claims(self, harness: AsyncOperatorHarness) -> None:
        """A list has whole records, the oldest or the newest first, and at most ``limit``."""
        store = await harness.store()
        claims = []
        for _ in range(5):
            claims.append(await put_running(store))
            await harness.elapse(TICK)
        records = await store.list()
        assert [one.name for one in records] == [one.name for one in claims]
        assert list(records) == [await record_of(store, one) for one in claims]
        assert [one.name for one in await store.list(limit=2)] == [one.name for one in claims[:2]]
        newest = await store.list(newest_first=True)
        assert [one.name for one in newest] == [one.name for one in claims[::-1]]
        assert [one.name for one in await store.list(newest_first=True, limit=2)] == [one.name for one in claims[:2:-1]]

    async def test_a_list_merges_methods_and_states(self, harness: AsyncOperatorHarness) -> None:
        """Records of several methods and states are in one order, however they alternate."""
        store = await harness.store()
        names = []
        for n in range(60):
            claim = a_claim(method=f"/a.B/M{n % 7}")
            assert await store.claim(claim) is None
            if n % 3 == 0:
                assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
            elif n % 5 == 0:
                assert await store.hold(claim.name, claim.fence, "its server died")
            names.append(claim.name)
            await harness.elapse(TICK)
        assert [one.name for one in await store.list(limit=1000)] == names
        for newest_first in (False, True):
            found = await _pages(store, 7, newest_first=newest_first)
            assert [one.name for one in found] == (names[::-1] if newest_first else names)

    async def test_a_list_goes_on_behind_a_record(self, harness: AsyncOperatorHarness) -> None:
        """Page by page, each record is listed once, also if many were claimed at one instant or one was deleted."""
        store = await harness.store()
        for state in (None, State.RUNNING):
            for newest_first in (False, True):
                claims = [await put_running(store) for _ in range(7)]
                await harness.elapse(TICK)
                claims += [await put_running(store) for _ in range(4)]
                await put_completed(store, ttl=TICK)
                await harness.elapse(TICK)
                await _goes_on(store, state, newest_first, claims)

    async def test_a_list_can_be_narrowed(self, harness: AsyncOperatorHarness) -> None:
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
        assert await names_of(store.list(state=State.HELD, method="/a.B/Other")) == set()

    async def test_a_list_can_be_limited_to_a_time(self, harness: AsyncOperatorHarness) -> None:
        """From ``since`` on and before ``until``, by first claims: a take-over changes nothing."""
        store = await harness.store()
        claims = []
        for prepare in (put_running, put_completed, put_held, put_waiting):
            claims.append(await prepare(store))
            await harness.elapse(TICK)
        times = [(await record_of(store, one)).created_at for one in claims]
        await harness.elapse(LEASE)
        assert await store.claim(a_claim(claims[0].name), over=claims[0].fence) is None

        async def names(since: datetime | None, until: datetime | None, **chosen: Any) -> list[bytes]:
            return [one.name for one in await store.list(since=since, until=until, **chosen)]

        expected = [one.name for one in claims]
        assert await names(times[1], None) == expected[1:]
        assert await names(None, times[1]) == expected[:1]
        assert await names(times[1], times[3]) == expected[1:3]
        assert await names(times[1], times[3], newest_first=True) == expected[1:3][::-1]
        assert await names(times[1], times[3], newest_first=True, limit=1) == expected[2:3]
        assert await names(times[1], times[3], state=State.HELD) == expected[2:3]
        assert await names(times[1] + TICK / 2, times[2] + TICK / 2) == expected[2:3]
        assert await names(times[2], times[2]) == []

    async def test_a_list_of_what_is_stuck(self, harness: AsyncOperatorHarness) -> None:
        """Held records, and those whose lease has run out or that are waiting and due; no completed ones."""
        store = await harness.store()
        prepared = [await put(store) for put in (put_running, put_undoing, put_waiting)]
        held = await put_held(store)
        await put_completed(store, ttl=TTL)
        assert await names_of(store.list(stuck=True)) == {held.name}
        await harness.elapse(LEASE)
        live = [await put(store) for put in (put_running, put_waiting)]
        assert await names_of(store.list(stuck=True)) == {one.name for one in (*prepared, held)}
        assert await names_of(store.list(stuck=True, state=State.RUNNING)) == {prepared[0].name}
        assert await names_of(store.list(stuck=True, state=State.COMPLETED)) == set()
        assert await names_of(store.list(stuck=True, method="/a.B/None")) == set()
        assert live[0].name in await names_of(store.list(state=State.RUNNING))

    async def test_every_choice_narrows_one_list(self, harness: AsyncOperatorHarness) -> None:
        """Whatever is combined, page by page it is the list of all, without what was not chosen, in the same order."""
        store = await harness.store()
        makers = (put_running, put_completed, put_held, put_undoing, put_waiting)
        for n in range(15):
            await makers[n % 5](store)
            other = a_claim(method="/a.B/Other")
            assert await store.claim(other) is None
            if n % 3:
                await harness.elapse(LEASE / 4)
        every = list(await store.list(limit=1000))
        middle, late = every[8].created_at, every[-4].created_at
        for state, method, stuck, newest_first, (since, until) in product(
            (None, State.RUNNING, State.HELD, State.COMPLETED),
            (None, METHOD),
            (False, True),
            (False, True),
            ((None, None), (middle, late)),
        ):
            expected = [
                one
                for one in every
                if state in (None, one.state)
                and method in (None, one.method)
                and (not stuck or one.lapsed or one.state is State.HELD)
                and (since is None or until is None or since <= one.created_at < until)
            ]
            chosen = {"state": state, "method": method, "since": since, "until": until, "stuck": stuck}
            found = await _pages(store, 4, newest_first=newest_first, **chosen)
            assert found == (expected[::-1] if newest_first else expected), chosen

    async def test_a_list_leaves_expired_records_out(self, harness: AsyncOperatorHarness) -> None:
        """Expired records are not listed, and do not count for ``limit``."""
        store = await harness.store()
        for _ in range(5):
            await put_completed(store)
        await harness.elapse(TTL)
        kept = await put_completed(store)
        assert await names_of(store.list(limit=2)) == {kept.name}
        assert await names_of(store.list(limit=2, newest_first=True)) == {kept.name}

    async def test_a_list_has_no_requests(self, harness: AsyncOperatorHarness) -> None:
        """What is stored for recovery is not for operators' lists."""
        store = await harness.store()
        claim = a_recoverable_claim(b"secret")
        assert await store.claim(claim) is None
        assert [one.request for one in await store.list()] == [None]
        assert [one.request for one in await store.find(claim.name.hex())] == [None]


async def _pages(store: AsyncOperatorStore, limit: int, **chosen: Any) -> list[Record]:
    found: list[Record] = []
    while True:
        page = await store.list(after=found[-1] if found else None, limit=limit, **chosen)
        assert len(page) <= limit
        found += page
        if len(page) < limit:
            return found


async def _goes_on(store: AsyncOperatorStore, state: State | None, newest_first: bool, claims: list[Claim]) -> None:
    found: list[Record] = []
    after: Record | None = None
    while page := await store.list(state=state, after=after, limit=3, newest_first=newest_first):
        assert len(page) <= 3
        found += page
        after = page[-1]
        await store.release(after.name, after.fence)
    assert sorted(one.name for one in found) == sorted(one.name for one in claims)
    assert [one.created_at for one in found] == sorted((one.created_at for one in found), reverse=newest_first)
    for one in found:
        await store.release(one.name, one.fence)
