"""A handler's rows and its outcome commit together, or neither does (5.1)."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Database, Effects, Policy, State, StoreUnavailable, TransactionMisuse
from grpc_idempotency.aio import SQLiteStore

from ..harness.replies import new_key, text
from ..harness.servers import Servers, Service
from ..harness.stores import FlakyStore
from ..harness.waiting import Gate, ms, until

TRANSACTIONAL = Policy(effects=Effects.TRANSACTIONAL)


def rows(path: Path) -> list[str]:
    """What the handlers have inserted."""
    with closing(sqlite3.connect(path)) as db:
        return [value for (value,) in db.execute("SELECT value FROM things ORDER BY id")]


def insert(value: str) -> Callable[[Database], StringValue]:
    def fn(db: Database) -> StringValue:
        db.execute("INSERT INTO things (value) VALUES (?)", (value,))
        return text(f"inserted {value}")

    return fn


def create(db: Database) -> None:
    db.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, value TEXT)")


@pytest.fixture
async def store(serve: Servers) -> SQLiteStore:
    """A store whose database has a table of ours. Its servers close it."""
    store = FlakyStore(serve.path)
    await store.transaction(create)
    return store


async def completed(service: Service) -> bool:
    return (await service.the_record()).state is State.COMPLETED


async def test_what_raises_is_rolled_back(serve: Servers, store: SQLiteStore) -> None:
    """A function that raises leaves no row and no record: a retry runs (4.5, 5.1)."""
    runs: list[str] = []

    async def do(request: StringValue, _context: Any) -> StringValue:
        def fn(db: Database) -> StringValue:
            runs.append(request.value)
            reply = insert(request.value)(db)
            if len(runs) == 1:
                raise LookupError("not this time")
            return reply

        return await store.transaction(fn)

    service = await serve({"Do": do}, policy=TRANSACTIONAL, store=store)
    key = new_key()
    first = await service.call("Do", text("a"), key=key)
    assert (first.status, rows(serve.path), await service.records()) == (grpc.StatusCode.UNKNOWN, [], [])
    assert (await service.call("Do", text("a"), key=key)).text == "inserted a"
    assert rows(serve.path) == ["a"]


class Poor(Exception):
    """A finding of the function's."""


async def test_a_finding_is_rolled_back_and_stored(serve: Servers, store: SQLiteStore) -> None:
    """Raising rolls back; the status that the handler makes of it is stored as any (4.6, 5.1)."""

    async def do(request: StringValue, context: Any) -> StringValue:
        def fn(db: Database) -> StringValue:
            insert(request.value)(db)
            raise Poor

        try:
            return await store.transaction(fn)
        except Poor:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "too poor")
            raise

    service = await serve({"Do": do}, policy=TRANSACTIONAL, store=store)
    key = new_key()
    first, second = [await service.call("Do", text("a"), key=key) for _ in range(2)]
    assert (first.status, first.details) == (grpc.StatusCode.FAILED_PRECONDITION, "too poor")
    assert (second.plain, second.mark, rows(serve.path)) == (first.plain, "replayed", [])


async def test_what_was_committed_counts(serve: Servers, store: SQLiteStore, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that answers otherwise after its commit gets what was committed; the log says so (5.1)."""

    async def do(request: StringValue, context: Any) -> StringValue:
        await store.transaction(insert(request.value))
        if request.value == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "never mind")
        if request.value == "raise":
            raise LookupError("never mind")
        return text("another")

    service = await serve({"Do": do}, policy=TRANSACTIONAL, store=store)
    for how in ("return", "abort", "raise"):
        key = new_key()
        first, second = [await service.call("Do", text(how), key=key) for _ in range(2)]
        assert (first.text, first.mark) == (f"inserted {how}", "executed")
        assert (second.plain, second.mark) == (first.plain, "replayed")
    assert rows(serve.path) == ["return", "abort", "raise"]
    assert len([r for r in caplog.records if "answered otherwise" in r.getMessage()]) == 3


async def test_a_second_transaction(serve: Servers, store: SQLiteStore) -> None:
    """A keyed call has one transaction; a second one raises, and the first's reply counts (5.1)."""
    errors: list[BaseException] = []

    async def do(request: StringValue, _context: Any) -> StringValue:
        reply = await store.transaction(insert(request.value))
        try:
            await store.transaction(insert("second"))
        except TransactionMisuse as error:
            errors.append(error)
        return reply

    service = await serve({"Do": do}, policy=TRANSACTIONAL, store=store)
    reply = await service.call("Do", text("first"), key=new_key())
    assert (reply.text, len(errors), rows(serve.path)) == ("inserted first", 1, ["first"])


async def test_another_store_object_on_the_file(serve: Servers, store: SQLiteStore) -> None:
    """A handler may use a store object of its own, where it is on the same database (5.1)."""
    own = SQLiteStore(serve.path)

    async def do(request: StringValue, _context: Any) -> StringValue:
        await own.transaction(insert(request.value))
        raise LookupError("after the commit")

    service = await serve({"Do": do}, policy=TRANSACTIONAL, store=store)
    key = new_key()
    first, second = [await service.call("Do", text("a"), key=key) for _ in range(2)]
    assert (first.text, second.mark, rows(serve.path)) == ("inserted a", "replayed", ["a"])
    await own.close()


@pytest.mark.parametrize("effects", Effects)
async def test_a_transaction_that_never_began(serve: Servers, effects: Effects) -> None:
    """The file was locked for too long: nothing happened, whatever its effects are, and a retry runs (5.1)."""
    store = FlakyStore(serve.path, busy_timeout=ms(50))
    await store.transaction(create)
    other = sqlite3.connect(serve.path, isolation_level=None, check_same_thread=False)
    runs: list[str] = []

    async def do(request: StringValue, _context: Any) -> StringValue:
        runs.append(request.value)
        if len(runs) == 1:
            other.execute("BEGIN IMMEDIATE")
        try:
            return await store.transaction(insert(request.value))
        finally:
            other.close()

    service = await serve({"Do": do}, policy=Policy(effects=effects), store=store)
    key = new_key()
    first = await service.call("Do", text("a"), key=key)
    assert (first.status, rows(serve.path)) == (grpc.StatusCode.UNAVAILABLE, [])
    assert "Retry with the same key" in first.details
    assert [(await service.call("Do", text("a"), key=key)).mark for _ in range(2)] == ["executed", "replayed"]
    assert (rows(serve.path), len(runs)) == (["a"], 2)


async def test_a_read_that_failed_says_nothing_of_an_opaque_handler(serve: Servers, store: FlakyStore) -> None:
    """Nobody knows what it had done before: its failure is stored (4.5)."""
    runs: list[str] = []

    async def do(request: StringValue, _context: Any) -> StringValue:
        runs.append(request.value)
        raise StoreUnavailable("a read, or another store, was down")

    service = await serve({"Do": do}, store=store)
    key = new_key()
    answers = [await service.call("Do", text("a"), key=key) for _ in range(2)]
    assert [(one.status, one.mark) for one in answers] == [
        (grpc.StatusCode.UNKNOWN, "executed"),
        (grpc.StatusCode.UNKNOWN, "replayed"),
    ]
    assert len(runs) == 1


async def test_a_swallowed_rollback(serve: Servers, store: SQLiteStore) -> None:
    """A function that goes on after SQLite rolled back everything is not answered OK, and a retry runs once (5.1)."""
    await store.transaction(lambda db: db.execute("CREATE TABLE refs (ref UNIQUE ON CONFLICT ROLLBACK)"))
    await store.transaction(lambda db: db.execute("INSERT INTO refs VALUES ('there')"))
    runs: list[str] = []

    async def do(request: StringValue, _context: Any) -> StringValue:
        def fn(db: Database) -> StringValue:
            runs.append(request.value)
            reply = insert(request.value)(db)
            for sql in ("INSERT INTO refs VALUES ('there')", "INSERT INTO things (value) VALUES ('more')"):
                if len(runs) == 1:
                    with suppress(Exception):
                        db.execute(sql)
            return reply

        return await store.transaction(fn)

    service = await serve({"Do": do}, policy=TRANSACTIONAL, store=store)
    key = new_key()
    first = await service.call("Do", text("a"), key=key)
    assert (first.status, rows(serve.path)) == (grpc.StatusCode.UNKNOWN, [])
    assert [(await service.call("Do", text("a"), key=key)).mark for _ in range(2)] == ["executed", "replayed"]
    assert (rows(serve.path), len(runs)) == (["a"], 2)


@pytest.mark.parametrize("kind", ["async"])
async def test_stopped_while_it_commits(serve: Servers, store: SQLiteStore) -> None:
    """A handler that is stopped while its transaction commits: the committed outcome is what its calls get (5.1)."""
    stopped = threading.Event()

    async def do(request: StringValue, _context: Any) -> StringValue:
        def fn(db: Database) -> StringValue:
            reply = insert(request.value)(db)
            assert stopped.wait(20)
            return reply

        try:
            return await store.transaction(fn)
        finally:
            stopped.set()

    policy = Policy(effects=Effects.TRANSACTIONAL, execution_limit=ms(100))
    service = await serve({"Do": do}, policy=policy, store=store)
    key = new_key()
    first, second = [await service.call("Do", text("a"), key=key) for _ in range(2)]
    assert (first.text, first.mark) == ("inserted a", "executed")
    assert (second.plain, second.mark) == (first.plain, "replayed")
    assert rows(serve.path) == ["a"]


async def test_a_call_cancelled_while_it_commits(serve: Servers, store: SQLiteStore) -> None:
    """A client that cancels while the transaction runs changes nothing: one row, and a retry gets the reply (4.4)."""
    began, go = Gate(), threading.Event()

    async def do(request: StringValue, _context: Any) -> StringValue:
        def fn(db: Database) -> StringValue:
            began.open()
            assert go.wait(20)
            return insert(request.value)(db)

        return await store.transaction(fn)

    service = await serve({"Do": do}, policy=TRANSACTIONAL, store=store)
    key = new_key()
    call = service.start("Do", text("a"), key=key)
    await began.wait()
    call.cancel()
    await until(service.has_detached)
    go.set()
    reply = await service.call("Do", text("a"), key=key)
    assert (reply.text, rows(serve.path)) == ("inserted a", ["a"])


async def test_many_at_once(serve: Servers, store: SQLiteStore) -> None:
    """100 calls over 25 keys at once, each key's row once (4.1, 5.1)."""

    async def do(request: StringValue, _context: Any) -> StringValue:
        return await store.transaction(insert(request.value))

    service = await serve({"Do": do}, policy=TRANSACTIONAL, store=store)
    keys = [new_key() for _ in range(25)]
    calls = [service.call("Do", text(f"row {n % 25}"), key=keys[n % 25]) for n in range(100)]
    replies = await asyncio.gather(*calls)
    assert sorted(rows(serve.path)) == sorted(f"row {n}" for n in range(25))
    assert [reply.text for reply in replies] == [f"inserted row {n % 25}" for n in range(100)]


async def test_the_response_is_too_large_to_be_kept(serve: Servers, store: SQLiteStore) -> None:
    """A response that is too large to be kept is committed and sent once (4.11, 5.1)."""

    async def do(request: StringValue, _context: Any) -> StringValue:
        return await store.transaction(insert(request.value))

    policy = Policy(effects=Effects.TRANSACTIONAL, max_response_bytes=5)
    service = await serve({"Do": do}, policy=policy, store=store)
    key = new_key()
    first, second = [await service.call("Do", text("a"), key=key) for _ in range(2)]
    assert (first.text, second.reason, rows(serve.path)) == ("inserted a", "RESPONSE_NOT_RETAINED", ["a"])
    assert await completed(service)
