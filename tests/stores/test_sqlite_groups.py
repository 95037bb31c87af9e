"""The writer: groups, many loops, failing commits, and no say for callers in any of it (6.2)."""

import asyncio
import functools
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Claim, Code, Effects, Outcome, State
from grpc_idempotency.stores._sqlite import group
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import LEASE, OUTCOME, TTL, a_claim, a_request, a_step, keyed, sealed
from grpc_idempotency.transactions import Database

from .conftest import HandClock, Make
from .operations import kept, on_thread, traced

T = TypeVar("T")


async def together(store: AsyncSQLiteStore, calls: Iterable[Awaitable[T]]) -> list[T]:
    """Makes the calls while the connection's thread is kept, so that all are there when it comes to them."""
    async with kept(store):
        answers = asyncio.gather(*calls)
    return await answers


def commits(statements: Iterable[str]) -> int:
    """How many transactions have written operations; the heartbeat has some of its own."""
    count, writes = 0, False
    for statement in statements:
        writes = not statement.startswith("BEGIN") and (writes or "grpc_idempotency_operations" in statement)
        count += writes and statement == "COMMIT"
    return count


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
    """None of get, list, steps and pending begins a transaction."""
    claim = a_claim()
    await store.claim(claim)
    statements = await traced(store)
    await asyncio.gather(*(store.get(claim.name) for _ in range(50)), store.list(), store.steps(claim.name))
    await store.pending([claim.method])
    assert not [one for one in statements if one.startswith("BEGIN")]


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


class TestFailedCommits:
    """A commit that failed: what took effect all the same is answered as such, the rest is not (5.1)."""

    @pytest.fixture
    async def failing(self, store: AsyncSQLiteStore, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """Makes commits fail: after they took effect for each True that is added, before for each False."""
        plan: list[bool] = []

        class Failing:
            """The connection, but for its COMMIT."""

            def __init__(self, db: sqlite3.Connection) -> None:
                self._db = db

            def __getattr__(self, name: str) -> Any:
                return getattr(self._db, name)

            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if sql == "COMMIT" and plan:
                    if plan.pop(0):
                        self._db.execute(sql)
                    raise sqlite3.OperationalError("disk I/O error")
                return self._db.execute(sql, *parameters)

        init = group.Group.__init__

        def wrapped(self: group.Group, db: Any, *rest: Any) -> None:
            init(self, Failing(db), *rest)  # type: ignore[arg-type]  # quacks like one

        monkeypatch.setattr(group.Group, "__init__", wrapped)
        return plan

    async def test_what_landed_is_answered(self, store: AsyncSQLiteStore, failing: list[bool]) -> None:
        """Claims, completions and holds whose records are there under their fences."""
        claim = a_claim()
        failing.append(True)
        assert await store.claim(claim) is None
        failing.append(True)
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL) is not None
        other = a_claim()
        await store.claim(other)
        failing.append(True)
        assert await store.hold(other.name, other.fence, "reason") is True
        failing.append(True)
        assert await store.record_step(other.name, other.fence, a_step("a")) is True
        assert await store.record_step(other.name, other.fence, a_step("a")) is False
        another = a_claim()
        await store.claim(another)
        async with keyed(store, another):
            failing.append(True)
            assert await store.transaction(lambda db: 1, step=lambda one: a_step("b")) == 1
        assert list(await store.steps(another.name)) == [a_step("b")]
        failing.append(True)
        assert await store.undo(another.name, another.fence, OUTCOME) is True
        unclaimed = a_claim()
        failing.append(True)
        assert isinstance(await store.complete_unclaimed(unclaimed, OUTCOME, TTL), datetime)
        unclaimed = a_claim()
        failing.append(True)
        assert await keyed_reply(store, unclaimed) == "1"
        record = await store.get(unclaimed.name)
        assert record is not None
        assert (record.fence, record.outcome) == (unclaimed.fence, sealed("1"))
        failing.append(True)
        assert await store.wait(another.name, another.fence, LEASE, 1, 0) is True

    async def test_what_did_not_land_is_unavailable(self, store: AsyncSQLiteStore, failing: list[bool]) -> None:
        """And nothing of it is there."""
        claim, other = a_claim(), a_claim()
        failing.append(False)
        with pytest.raises(StoreUnavailable, match="disk reports an error"):
            await store.claim(claim)
        assert await store.get(claim.name) is None
        await store.claim(claim)
        for write in (
            lambda: store.complete(claim.name, claim.fence, OUTCOME, TTL),
            lambda: store.hold(claim.name, claim.fence, "reason"),
            lambda: store.renew(claim.name, claim.fence, LEASE),
            lambda: store.wait(claim.name, claim.fence, LEASE, 1, 0),
            lambda: store.undo(claim.name, claim.fence, OUTCOME),
            lambda: store.record_step(claim.name, claim.fence, a_step("a")),
            lambda: keyed_step(store, claim),
            lambda: store.release(claim.name, claim.fence),
            lambda: store.transaction(lambda db: db.execute("CREATE TABLE t (x)")),
        ):
            failing.append(False)
            with pytest.raises(StoreUnavailable):
                await write()
        record = await store.get(claim.name)
        assert record is not None
        assert record.state is State.RUNNING
        assert list(await store.steps(claim.name)) == []
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await store.transaction(lambda db: db.execute("SELECT * FROM t"))
        for unclaimed_write in (
            lambda: store.complete_unclaimed(other, OUTCOME, TTL),
            lambda: keyed_reply(store, other),
        ):
            failing.append(False)
            with pytest.raises(StoreUnavailable):
                await unclaimed_write()
            assert await store.get(other.name) is None


async def keyed_reply(store: AsyncSQLiteStore, claim: Claim) -> str:
    """What the transaction of an operation without a record answers."""
    async with keyed(store, claim, unclaimed=True):
        return await store.transaction(lambda db: "1")


async def keyed_step(store: AsyncSQLiteStore, claim: Claim) -> int:
    async with keyed(store, claim):
        return await store.transaction(lambda db: 1, step=lambda one: a_step("a"))


def in_loops(coroutines: list[Callable[[], Coroutine[Any, Any, None]]]) -> list[BaseException]:
    """Runs each in a loop and thread of its own; what they raised."""
    errors: list[BaseException] = []

    def run(coroutine: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            asyncio.run(coroutine())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in coroutines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return errors


async def _work(store: AsyncSQLiteStore, rounds: int) -> None:
    async def one() -> None:
        claim = a_claim()
        assert await store.claim(claim) is None
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)

    for _ in range(rounds):
        await asyncio.gather(*(one() for _ in range(10)))


class TestLoops:
    def test_stores_in_several_loops_share_a_writer(self, path: Path) -> None:
        """Each gets its answers in its own loop; they come and go in any order."""

        async def serve(rounds: int) -> None:
            store = AsyncSQLiteStore(path)
            await _work(store, rounds)
            await store.close()

        assert in_loops([functools.partial(serve, 5 + 5 * n) for n in range(4)]) == []

    def test_one_store_serves_several_loops(self, path: Path) -> None:
        """A store object belongs to no loop."""
        store = AsyncSQLiteStore(path)
        assert in_loops([lambda: _work(store, 5)] * 4) == []
        asyncio.run(store.close())

    def test_a_loop_that_ends_without_closing_leaves_the_writer_to_others(self, path: Path) -> None:
        """Cut off in the middle of its calls, it takes nothing along."""
        store = AsyncSQLiteStore(path)

        async def cut_off() -> None:
            await store.open()
            for _ in range(20):
                asyncio.ensure_future(_work(store, 50))  # noqa: RUF006 - to be left hanging is the point
            await asyncio.sleep(0.01)

        for _ in range(3):
            asyncio.run(cut_off())
        asyncio.run(_work(store, 5))
        asyncio.run(store.close())

    def test_a_loop_that_stands_still_holds_nobody_up(self, path: Path) -> None:
        """A request of a loop that does not come round goes with the next of another."""
        store = AsyncSQLiteStore(path)
        still = asyncio.new_event_loop()
        still.run_until_complete(store.open())
        claims = [a_claim() for _ in range(3)]
        asked: list[asyncio.Future[Any]] = []
        still.call_soon(lambda: asked.extend(asyncio.ensure_future(store.claim(claim)) for claim in claims))
        still.call_soon(still.stop)
        still.run_forever()
        asyncio.run(_work(store, 3))
        assert still.run_until_complete(asyncio.gather(*asked)) == [None] * 3
        still.run_until_complete(store.close())
        still.close()

    def test_a_call_outside_of_a_loop_begins_in_one(self, path: Path) -> None:
        """It is a coroutine there, whether the store is open or not."""
        store, claim = AsyncSQLiteStore(path), a_claim()
        for _ in range(2):  # not open yet, and open
            called = store.claim(claim)
            assert asyncio.iscoroutine(called)
            assert asyncio.run(called) is None
        asyncio.run(store.close())

    async def test_closing_in_one_loop_while_another_opens(self, path: Path) -> None:
        """The file is never open twice in a process: the next opening waits for the closing."""

        async def open_and_close() -> None:
            for _ in range(20):
                store = AsyncSQLiteStore(path)
                await store.claim(a_claim())
                await store.close()

        assert await asyncio.to_thread(in_loops, [open_and_close] * 3) == []


async def test_a_mistake_of_the_writer_leaves_nobody_waiting(
    store: AsyncSQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in its thread: those who wait are refused, and the next call opens the file again."""
    assert store._writer is not None
    async with kept(store):
        monkeypatch.setattr(store._writer.place, "trouble", lambda: 1 / 0)
        answers = asyncio.gather(*(store.claim(a_claim()) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in await answers)
    assert await store.claim(a_claim()) is None


async def test_a_cancelled_opening_is_still_an_opening(make: Make) -> None:
    """Whoever opens for all may go away."""
    store = make()
    opening = asyncio.ensure_future(store.open())
    await asyncio.sleep(0)
    opening.cancel()
    assert await store.claim(a_claim()) is None


async def test_a_forgotten_store_is_closed_with_its_object(path: Path) -> None:
    """Once it is garbage, so is its connection; the fixture sees to it that nothing is left."""
    store = AsyncSQLiteStore(path)
    await store.claim(a_claim())
    writer = store._writer
    assert writer is not None
    del store
    assert await asyncio.to_thread(writer.closed.wait, 10)


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
