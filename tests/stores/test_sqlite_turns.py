"""Long calls are done in parts, so that others get their turns in between (6.2, 6.3)."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from grpc_idempotency.records import State
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import OUTCOME, TTL, a_claim

from .conftest import HandClock
from .operations import commits, on_thread, traced


async def test_a_sweep_lets_others_in(store: AsyncSQLiteStore, clock: HandClock) -> None:
    """A large one is done in parts; calls in between are answered in between."""
    claims = [a_claim() for _ in range(700)]
    await asyncio.gather(*map(store.claim, claims))
    await asyncio.gather(*(store.complete(one.name, one.fence, OUTCOME, TTL) for one in claims))
    clock.elapse(TTL)
    statements = await traced(store)
    swept = await store.sweep(limit=500)
    assert (swept.deleted, swept.more) == (500, True)
    assert commits(statements) == 5
    assert (await store.sweep(limit=500)).deleted == 200


async def test_a_long_list_is_read_in_parts(store: AsyncSQLiteStore) -> None:
    """A filter that finds nothing in thousands of records reads them bit by bit."""
    claims = [a_claim() for _ in range(700)]
    await asyncio.gather(*map(store.claim, claims))
    held = claims[650]
    assert await store.hold(held.name, held.fence, "why")
    assert [one.name for one in await store.list(state=State.HELD)] == [held.name]
    assert len(await store.list(limit=10_000)) == 700


async def test_gaps_are_for_files_that_are_shared(store: AsyncSQLiteStore, clock: HandClock, path: Path) -> None:
    """A lone process waits for nobody; one that sees another does, until that has not been seen for long."""
    assert store._tables is not None
    turns: Any = store._tables.turns
    assert not turns.shared
    await on_thread(
        store,
        lambda db: db.execute("INSERT INTO grpc_idempotency_peers VALUES ('other', ?)", (clock.wall,)),
    )
    turns.look_at = 0
    await store.claim(a_claim())
    assert turns.shared
    clock.elapse(timedelta(seconds=31))
    turns.look_at = 0
    await store.claim(a_claim())
    assert not turns.shared
