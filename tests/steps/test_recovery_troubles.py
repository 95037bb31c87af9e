"""What goes wrong with one operation, or for a while, ends recovery for no other one (5.4)."""

import logging
import secrets
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, SQLiteStore, StoreUnavailable
from grpc_idempotency.records import Claim

from ..harness.handlers import SERVICE
from ..harness.replies import text
from ..harness.servers import Servers
from ..harness.waiting import Gate, until
from .operations import here
from .recovery import SHORT, completed, dead, some_rounds

pytestmark = pytest.mark.usefixtures("promptly")


async def do(_request: StringValue, _context: Any) -> StringValue:
    return text("done")


def fail_at_first(monkeypatch: pytest.MonkeyPatch, store: Any, *errors: Exception) -> None:
    """Makes the store's first looks for operations raise these errors."""
    look, left = store.pending, list(errors)

    def pending(*args: Any) -> Any:
        if left:
            raise left.pop(0)
        return look(*args)

    monkeypatch.setattr(store, "pending", pending)


async def test_poison(serve: Servers, left_behind: SQLiteStore, caplog: pytest.LogCaptureFixture) -> None:
    """An operation that was cut short 20 times is left to its client, logged once, and blocks no other one (5.4)."""
    poison = [dead(left_behind, runs=20) for _ in range(20)]
    good = dead(left_behind, runs=19)
    runs: list[int] = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        runs.append(1)
        return text("done")

    service = await serve({"Do": do}, policy=SHORT)
    await until(lambda: completed(left_behind, good))
    await some_rounds(service)
    assert len(runs) == 1
    told = [record.getMessage() for record in caplog.records if "is left to its client" in record.getMessage()]
    assert sorted(told) == sorted(
        f"operation {name.hex()} of /{SERVICE}/Do is left to its client: 20 runs of it were cut short"
        for name in poison
    )


async def test_so_many_at_one_time(serve: Servers, left_behind: SQLiteStore) -> None:
    """A server runs at most 16 operations for others at one time, and in the end all of them (5.4)."""
    names = [dead(left_behind) for _ in range(20)]
    begun: list[int] = []
    go, gate = Gate(), Gate()

    async def do(_request: StringValue, _context: Any) -> StringValue:
        begun.append(1)
        if len(begun) == bound:
            gate.open()
        await go.wait()
        return text("done")

    # An aio server's def handlers have the threads of the loop's executor, which are fewer.
    bound = 16 if serve.kind != "thread" else 4
    service = await serve({"Do": do}, policy=SHORT)
    await gate.wait()
    await some_rounds(service)
    assert len(begun) <= 16
    go.open()
    for name in names:
        await until(lambda name=name: completed(left_behind, name))  # type: ignore[misc]  # the default binds it
    assert len(begun) == 20


async def test_what_failed_often_is_not_poison(serve: Servers, left_behind: SQLiteStore) -> None:
    """Runs that failed in a way that may pass were not cut short: those are for ``max_tries`` to bound (5.2, 5.4)."""
    name = dead(left_behind)
    for tries in range(1, 25):
        record = left_behind.get(name)
        assert record is not None
        assert left_behind.wait(name, record.fence, timedelta(0), tries, 0)
        claim = Claim(
            name=name,
            method=f"/{SERVICE}/Do",
            fence=secrets.token_bytes(16),
            fingerprint=record.fingerprint,
            effects=Effects.REPEATABLE,
            lease=timedelta(microseconds=1),
        )
        assert left_behind.claim(claim, over=record.fence) is None

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text(f"attempt {here().operation.attempt}")

    await serve({"Do": do}, policy=SHORT)
    await until(lambda: completed(left_behind, name))


async def test_a_request_that_cant_be_read(
    serve: Servers, left_behind: SQLiteStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A stored request that is no message any more is told once; others are finished (5.4)."""
    bad, good = dead(left_behind, messages=(b"\xff\xff",)), dead(left_behind)
    service = await serve({"Do": do}, policy=SHORT)
    await until(lambda: completed(left_behind, good))
    await some_rounds(service)
    (told,) = [record.getMessage() for record in caplog.records if "is left to its client" in record.getMessage()]
    assert told == f"operation {bad.hex()} of /{SERVICE}/Do is left to its client: its request can't be read"


async def test_the_store_is_down_for_a_while(
    serve: Servers, left_behind: SQLiteStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store can't be asked a server says so, and asks again (5.4, 5.5)."""
    store = serve.store()
    fail_at_first(monkeypatch, store, StoreUnavailable("down, for the test"), StoreUnavailable("down, for the test"))
    name = dead(left_behind)
    await serve({"Do": do}, policy=SHORT, store=store)
    await until(lambda: completed(left_behind, name))
    warned = [record for record in caplog.records if "could not look for operations" in record.getMessage()]
    assert [record.levelno for record in warned] == [logging.WARNING] * 2


async def test_something_else_goes_wrong(
    serve: Servers, left_behind: SQLiteStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody expected does not end recovery for good: it is logged, and the next look comes (5.4)."""
    store = serve.store()
    fail_at_first(monkeypatch, store, LookupError("a bug, for the test"))
    name = dead(left_behind)
    await serve({"Do": do}, policy=SHORT, store=store)
    await until(lambda: completed(left_behind, name))
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR]
