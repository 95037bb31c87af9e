"""Requests that come together share a commit, and reads take no lock (6.2)."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import pytest

from grpc_idempotency.errors import StoreUnavailable, StoreUnusable
from grpc_idempotency.records import Code, Effects, Outcome, State
from grpc_idempotency.stores._sqlite import group
from grpc_idempotency.stores._sqlite.faults import translated
from grpc_idempotency.stores._sqlite.group import Group
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import OUTCOME, TTL, a_claim, a_request, a_step
from grpc_idempotency.transactions import Database

from .conftest import HandClock
from .operations import commits, kept, traced

T = TypeVar("T")


async def together(store: AsyncSQLiteStore, calls: Iterable[Awaitable[T]]) -> list[T]:
    """Makes the calls while the connection's thread is kept, so that all are there when it comes to them."""
    async with kept(store):
        answers = asyncio.gather(*calls)
    return await answers


async def test_many_calls_share_a_commit(store: AsyncSQLiteStore) -> None:
    """200 claims at once take one transaction of a few statements, and so do their completions."""
    statements = await traced(store)
    claims = [a_claim() for _ in range(200)]
    assert await together(store, map(store.claim, claims)) == [None] * 200
    assert commits(statements) == 1
    assert len([one for one in statements if "grpc_idempotency_operations" in one]) <= 4
    assert all(await together(store, (store.complete(one.name, one.fence, OUTCOME, TTL) for one in claims)))
    assert commits(statements) == 2


async def test_steps_and_requests_cost_the_others_nothing(store: AsyncSQLiteStore) -> None:
    """Claims with requests, completions and releases are one statement a group; of steps there is one for all, too."""
    request = a_request(bytes(100))
    claims = [a_claim(effects=Effects.REPEATABLE, request=request) for _ in range(64)]
    await store.claim(a_claim())
    statements = await traced(store)
    await together(store, map(store.claim, claims))
    await together(store, (store.record_step(one.name, one.fence, a_step("a")) for one in claims))
    await together(store, (store.complete(one.name, one.fence, OUTCOME, TTL) for one in claims[:32]))
    await together(store, (store.release(one.name, one.fence) for one in claims[32:]))
    # A statement with a trigger is traced again for each row.
    written = dict.fromkeys(one for one in statements if not one.startswith(("BEGIN", "COMMIT", "--", "SELECT")))
    assert [one.split()[0] for one in written] == ["INSERT", "INSERT", "UPDATE", "DELETE"]


async def test_no_step_outlives_its_operation(store: AsyncSQLiteStore, clock: HandClock) -> None:
    """Released, replaced or swept, in whatever group: the table of steps holds none that belongs to nobody."""
    claims = [a_claim() for _ in range(60)]
    await asyncio.gather(*map(store.claim, claims))
    steps = [store.record_step(one.name, one.fence, a_step(name)) for one in claims for name in "ab"]
    assert all(await asyncio.gather(*steps))
    await asyncio.gather(*(store.release(one.name, one.fence) for one in claims[:20]))
    await asyncio.gather(*(store.complete(one.name, one.fence, OUTCOME, TTL) for one in claims[20:]))
    clock.elapse(TTL)
    await asyncio.gather(*(store.claim(a_claim(one.name)) for one in claims[20:40]))
    assert (await store.sweep()).deleted == 20
    left = await store.transaction(lambda db: db.execute("SELECT count(*) FROM grpc_idempotency_steps").fetchone())
    assert left == (0,)


async def test_what_is_pending_is_found_by_an_index(store: AsyncSQLiteStore) -> None:
    """Among thousands of completed operations, recovery looks at those that it may run."""
    query = "EXPLAIN QUERY PLAN " + store._sql.sized["pending", 0, 2]
    plan = await store.transaction(lambda db: db.execute(query, (0, "a", "b", 1)).fetchall())
    assert any("USING INDEX grpc_idempotency_operations_open" in row[3] for row in plan)
    assert not any(row[3].startswith("SCAN") for row in plan)


async def test_reads_take_no_lock(store: AsyncSQLiteStore) -> None:
    """None of get, list, steps and pending waits for writers, or makes them wait."""
    claim = a_claim()
    await store.claim(claim)
    statements = await traced(store)
    await asyncio.gather(*(store.get(claim.name) for _ in range(50)), store.list(), store.steps(claim.name))
    await store.pending([claim.method])
    assert not [one for one in statements if one.startswith("BEGIN IMMEDIATE")]


async def test_replays_take_no_lock(store: AsyncSQLiteStore) -> None:
    """Claims that meet a record are answered with it, in two statements for all, and begin no transaction."""
    claims = [a_claim() for _ in range(20)]
    await asyncio.gather(*map(store.claim, claims))
    await asyncio.gather(*(store.complete(one.name, one.fence, OUTCOME, TTL) for one in claims[:10]))
    statements = await traced(store)
    records = await together(store, (store.claim(a_claim(one.name)) for one in claims))
    assert [one and one.name for one in records] == [one.name for one in claims]
    assert [one.split()[0] for one in statements] == ["SELECT", "SELECT"]


async def test_replays_hold_up_no_claim(store: AsyncSQLiteStore) -> None:
    """What is claimed beside them is claimed, and a copy of a claim that was won has won, too."""
    completed, won, new = a_claim(), a_claim(), a_claim()
    await asyncio.gather(store.claim(completed), store.claim(won))
    await store.complete(completed.name, completed.fence, OUTCOME, TTL)
    answers = await together(store, map(store.claim, (a_claim(completed.name), won, new, a_claim(new.name))))
    assert [answer and answer.state for answer in answers] == [State.COMPLETED, None, None, State.RUNNING]


async def test_one_bad_request_hurts_nobody_else(store: AsyncSQLiteStore) -> None:
    """What SQLite can't store fails by itself, whatever it shared a group with."""
    good = [a_claim() for _ in range(20)]
    bad = a_claim(method="\ud800")  # no UTF-8 can say this
    answers = await asyncio.gather(*map(store.claim, [*good[:10], bad, *good[10:]]), return_exceptions=True)
    assert isinstance(answers.pop(10), StoreUnavailable)
    assert answers == [None] * 20
    trailers: Any = (("x-bin", "\ud800"),)
    outcomes = [OUTCOME, Outcome(status=Code.OK, trailers=trailers), OUTCOME]
    stored = await asyncio.gather(
        *(store.complete(c.name, c.fence, o, TTL) for c, o in zip(good, outcomes, strict=False)), return_exceptions=True
    )
    assert isinstance(stored[1], StoreUnavailable)
    assert all(stored[::2])


async def test_errors_show_no_parameters(store: AsyncSQLiteStore, caplog: pytest.LogCaptureFixture) -> None:
    """Neither messages nor names reach an error's text or the log."""
    claim: Any = a_claim(method=object())  # type: ignore[arg-type]  # a mistake that a caller may make
    with pytest.raises(StoreUnavailable) as caught:
        await store.claim(claim)
    assert claim.name.hex() not in str(caught.value)
    assert str(claim.name) not in str(caught.value) + caplog.text


async def test_a_long_group_leaves_the_rest_for_the_next(
    store: AsyncSQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a group does not hold the file for long; all are answered, in several commits."""
    monkeypatch.setattr(group, "BUDGET", -1.0)
    statements = await traced(store)

    def answering(n: int) -> Callable[[Database], int]:
        return lambda db: n

    assert await asyncio.gather(*(store.transaction(answering(n)) for n in range(20))) == list(range(20))
    assert statements.count("COMMIT") >= 10
    claims = [a_claim() for _ in range(300)]
    assert await asyncio.gather(*map(store.claim, claims)) == [None] * 300


async def test_large_outcomes_are_stored_in_parts(store: AsyncSQLiteStore) -> None:
    """No statement takes much more than a megabyte or so."""
    claims = [a_claim() for _ in range(20)]
    await asyncio.gather(*map(store.claim, claims))
    large = Outcome(status=Code.OK, message=bytes(1 << 20))
    assert all(await asyncio.gather(*(store.complete(one.name, one.fence, large, TTL) for one in claims)))


async def test_after_a_bug_nobody_claims_to_know(store: AsyncSQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the writer itself fails after a commit, no request is said to be without effect (6.1)."""
    run = Group.run

    def failing(self: Group) -> list[Any]:
        run(self)
        raise sqlite3.OperationalError("a bug")

    monkeypatch.setattr(Group, "run", failing)
    claim = a_claim()
    with pytest.raises(StoreUnavailable) as raised:
        await store.claim(claim)
    assert raised.value.landed is None
    monkeypatch.undo()
    assert await store.claim(claim) is None  # it meets its own record


def test_of_damage_nobody_knows_what_was_written() -> None:
    """A file that is found damaged at a commit may have the write all the same (5.1, 6.1)."""
    damaged = sqlite3.DatabaseError("database disk image is malformed")
    failure = translated(damaged, "some.db")
    assert isinstance(failure, StoreUnusable)
    assert failure.landed is None
    locked = translated(sqlite3.OperationalError("attempt to write a readonly database"), "some.db")
    assert isinstance(locked, StoreUnusable)
    assert locked.landed is False
