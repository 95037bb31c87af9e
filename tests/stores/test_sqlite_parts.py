"""Lists and counts that take several parts, between which others use the connection (6.4)."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from grpc_idempotency.records import State
from grpc_idempotency.stores._sqlite import looking
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import LEASE, OUTCOME, TICK, TTL, a_claim

from .conftest import HandClock

METHODS = ("/a.B/One", "/a.B/Three", "/a.B/Two")


@pytest.fixture(params=[(1, 1), (3, 0), (3, 50), (20_000, 200)], ids=str)
def small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few operations, so that they end within methods, between them, and among equal times."""
    counted, beginning = request.param
    monkeypatch.setattr(looking, "_COUNTED_AT_ONCE", counted)
    monkeypatch.setattr(looking, "_RANGE", beginning)
    monkeypatch.setattr(looking, "_SCANNED_AT_ONCE", counted)
    monkeypatch.setattr(looking, "_READ_AT_ONCE", min(counted, 4))


async def put(store: AsyncSQLiteStore, method: str, state: State, ttl: timedelta = TTL) -> bytes:
    claim = a_claim(method=method)
    assert await store.claim(claim) is None
    if state is State.COMPLETED:
        assert await store.complete(claim.name, claim.fence, OUTCOME, ttl)
    elif state is State.HELD:
        assert await store.hold(claim.name, claim.fence, "its server is gone")
    return claim.name


@pytest.mark.usefixtures("small_parts")
async def test_a_count_of_several_parts(store: AsyncSQLiteStore, clock: HandClock) -> None:
    """Each unexpired operation is counted once, also where many were claimed in one millisecond."""
    for number in range(40):
        await put(store, METHODS[number % 3], State.COMPLETED, TTL if number % 4 else TICK)
        if number % 10 == 9:
            clock.elapse(TICK)
    for method in METHODS[:2]:
        await put(store, method, State.HELD)
    done = [METHODS[number % 3] for number in range(40) if number % 4]
    expected = {(method, State.COMPLETED): done.count(method) for method in METHODS}
    held = {(method, State.HELD): 1 for method in METHODS[:2]}
    assert await store.count() == expected | held
    assert await store.count(completed=False) == held
    clock.elapse(TTL)
    assert await store.count() == held


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_list_of_several_parts(store: AsyncSQLiteStore, clock: HandClock, newest_first: bool) -> None:
    """Each operation that is asked for is listed once, in order, however many others are between."""
    made: list[tuple[int, bytes, State]] = []
    for number in range(40):
        state = (State.COMPLETED, State.HELD, State.RUNNING)[number % 7 % 3]
        name = await put(store, METHODS[number % 3], state, TTL if number % 5 else TICK)
        if state is not State.COMPLETED or number % 5:
            made.append((clock.wall, name, state))
        if number % 10 == 9:
            clock.elapse(TICK)

    async def listed(**chosen: Any) -> list[bytes]:
        return [one.name for one in await store.list(limit=100, newest_first=newest_first, **chosen)]

    made.sort(reverse=newest_first)
    assert await listed() == [name for _, name, _ in made]
    assert await listed(stuck=True) == [name for _, name, state in made if state is State.HELD]
    clock.elapse(LEASE)
    assert await listed(stuck=True) == [name for _, name, state in made if state is not State.COMPLETED]


async def test_others_are_answered_in_between(store: AsyncSQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that comes during a long count does not wait for its end."""
    monkeypatch.setattr(looking, "_COUNTED_AT_ONCE", 1)
    monkeypatch.setattr(looking, "_RANGE", 0)
    for number in range(60):
        await put(store, METHODS[number % 3], State.COMPLETED)
    counting = asyncio.ensure_future(store.count())
    claim = a_claim()
    assert await store.claim(claim) is None
    assert not counting.done()
    assert sum((await counting).values()) in (60, 61)
