"""What was finished for a failure is undone, with its rows, and a run that undoes replies nothing (5.2)."""

import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Database, Effects, Policy, State
from grpc_idempotency._methods.resolve import Methods
from grpc_idempotency._server.observers import Observers
from grpc_idempotency._server.recovery import MOST_CUT_SHORT, Recovery
from grpc_idempotency.aio import SQLiteStore, current_operation
from grpc_idempotency.records import Fingerprint, Record, StoredRequest

from ..harness.handlers import full, generic_handler
from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.waiting import ms

KINDS = ["async"]
STEPS = Policy(effects=Effects.REPEATABLE, max_tries=3, retry_delay=ms(20))


def things(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [value for (value,) in db.execute("SELECT value FROM things ORDER BY value")]


def insert(db: Database) -> str:
    db.execute("INSERT INTO things VALUES ('step')")
    return "step"


def delete(db: Database, value: str) -> None:
    db.execute("DELETE FROM things WHERE value = ?", (value,))


@pytest.fixture
async def store(serve: Servers) -> SQLiteStore:
    """A store whose database has a table of ours. Its servers close it."""
    store = SQLiteStore(serve.path)
    await store.transaction(lambda db: db.execute("CREATE TABLE things (value TEXT)"))
    return store


async def test_a_transaction_is_undone_in_a_transaction(serve: Servers, store: SQLiteStore) -> None:
    """The undo of a step's rows gets the database and the step's result, and is kept as a step itself."""

    async def do(_: StringValue, context: Any) -> StringValue:
        operation = current_operation()
        assert operation is not None
        await operation.step("insert", insert, undo=delete, transaction=True)
        assert things(serve.path) == ["step"]
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
        raise AssertionError

    service = await serve({"Do": do}, policy=STEPS, store=store)
    key = new_key()
    first, second = [await service.call("Do", text("a"), key=key) for _ in range(2)]
    assert (first.status, first.details) == (grpc.StatusCode.FAILED_PRECONDITION, "no")
    assert second.plain == first.plain
    assert things(serve.path) == []


async def test_a_run_that_undoes_has_no_reply(serve: Servers, store: SQLiteStore) -> None:
    """It failed for good, and an undo failed; the run that tries again commits no reply, though it could this time."""
    undos: list[str] = []

    async def undo(_: str) -> None:
        undos.append("undo")
        if len(undos) == 1:
            raise RuntimeError("not now")

    async def do(_: StringValue, context: Any) -> StringValue:
        operation = current_operation()
        assert operation is not None
        await operation.step("only", lambda: "done", undo=undo)
        if operation.attempt == 1:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")

        def reply(db: Database) -> StringValue:
            db.execute("INSERT INTO things VALUES ('reply')")
            return text("yes")

        return await store.transaction(reply)

    service = await serve({"Do": do}, policy=STEPS, store=store)
    reply = await service.call("Do", text("a"), key=new_key())
    assert (reply.status, reply.details) == (grpc.StatusCode.FAILED_PRECONDITION, "no")
    assert (len(undos), things(serve.path)) == (2, [])


@pytest.mark.parametrize(("attempts", "failed_runs", "taken"), [(100, 99, 1), (19, 0, 1), (20, 0, 0), (120, 100, 0)])
def test_what_failed_often_is_recovered_all_the_same(attempts: int, failed_runs: int, taken: int) -> None:
    """Recovery leaves alone what takes its servers down, and not what waits for a service that is away (5.4)."""
    assert MOST_CUT_SHORT == 20
    handlers = (generic_handler("async", {"Do": lambda request, context: request}),)
    recovery = Recovery(Methods(STEPS, {}, lambda _policy: None), [full("Do")], handlers, Observers())
    record = Record(
        name=b"n" * 16,
        method=full("Do"),
        state=State.WAITING,
        fence=b"f" * 16,
        fingerprint=Fingerprint(raw=b"r" * 32, canonical=b"c" * 32),
        effects=Effects.REPEATABLE,
        attempts=attempts,
        failed_runs=failed_runs,
        created_at=datetime.now(timezone.utc),
        lapsed=True,
        request=StoredRequest(principal=b"", metadata=(), messages=(text("a").SerializeToString(),)),
    )
    assert len(recovery.take([record], lambda _: False).to_run) == taken
