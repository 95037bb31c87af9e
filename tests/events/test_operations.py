"""Which events come of steps, leases, recovery, sweeps and the end of a server, on every kind of server."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Database, Effects, MemoryStore, Policy, SQLiteStore, State, aio
from grpc_idempotency._protocol.rules import _OWNER_GONE
from grpc_idempotency.events import (
    BatchCommitted,
    CallAnswered,
    Claimed,
    Drained,
    ExecutionEnded,
    ExecutionStarted,
    Held,
    LeaseLost,
    RecordsCounted,
    Recovered,
    Settled,
    StepFinished,
    StepUndone,
    StoreCalled,
    Swept,
)

from ..harness.handlers import SERVICE, Blocking
from ..harness.replies import new_key, text
from ..harness.servers import Servers, claims, interceptor_of
from ..harness.stores import FlakyStore
from ..harness.waiting import ms, until
from ..steps.operations import REPEATABLE, Flaky, Log, here, insert, make_table
from ..steps.recovery import LEASE, SHORT, TRANSACTIONAL, dead
from .calls import CLAIMED, COMPLETED, ENDED, EXECUTED, FIRST, STARTED
from .recording import Recorder

OPERATIONS = (
    CallAnswered,
    Claimed,
    ExecutionStarted,
    ExecutionEnded,
    Held,
    LeaseLost,
    Recovered,
    Settled,
    StepFinished,
    StepUndone,
)
"""The events of calls and operations."""


@pytest.fixture
def heard() -> Recorder:
    """What an observer hears that wants the events of calls and operations only."""
    return Recorder(*OPERATIONS)


# Steps


async def test_steps(serve: Servers, heard: Recorder, log: Log) -> None:
    """Each step is told when it is stored, once, whichever kind it is (5.2)."""
    make_table(serve.path)
    flaky = Flaky(1)

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"))
        await here().step("b", insert("b"), transaction=True)
        await flaky(context)
        return text("done")

    service = await serve({"Do": do}, policy=REPEATABLE, observers=[heard], attach=False)
    assert (await service.call("Do", key=new_key())).mark == "executed"
    await heard.answered(1)
    assert heard.lines() == [
        *(CLAIMED, STARTED, "StepFinished a", "StepFinished b", ENDED, "Settled waiting"),
        *("TakenOver 2", "ExecutionStarted 2", "ExecutionEnded 2 answered", COMPLETED, EXECUTED),
    ]


async def test_undos(serve: Servers, heard: Recorder, log: Log) -> None:
    """An operation that fails for good is undoing first; each undo is told by its step's name (5.2)."""

    async def do(_request: StringValue, context: Any) -> StringValue:
        for name in "ab":
            await here().step(name, log.does(name), undo=log.does(f"undo {name}"))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    service = await serve({"Do": do}, policy=REPEATABLE, observers=[heard], attach=False)
    await service.call("Do", key=new_key())
    await heard.answered(1)
    assert heard.lines() == [
        *(CLAIMED, STARTED, "StepFinished a", "StepFinished b", ENDED, "Settled undoing"),
        *("StepUndone b", "StepUndone a", COMPLETED, "CallAnswered executed not_found"),
    ]


async def test_undos_that_fail(serve: Servers, heard: Recorder, log: Log) -> None:
    """An undo that fails makes it wait, and in the end held (5.2)."""

    def fails(_result: Any) -> None:
        raise ConnectionError("not reachable")

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"), undo=fails)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), max_tries=2)
    service = await serve({"Do": do}, policy=policy, observers=[heard], attach=False)
    await service.call("Do", key=new_key())
    await heard.answered(1)
    held = "Held it has failed and could not be undone: an undo failed with ConnectionError"
    assert heard.lines() == [
        *(CLAIMED, STARTED, "StepFinished a", ENDED, "Settled undoing", "Settled waiting"),
        *("TakenOver 2", "ExecutionStarted 2", "ExecutionEnded 2 answered", held, "Settled held"),
        "CallAnswered refused outcome_unknown failed_precondition",
    ]


async def test_a_claim_for_a_step(serve: Servers, heard: Recorder, log: Log) -> None:
    """A transactional operation is claimed when its handler comes to a step (5.1, 5.2)."""

    async def do(_request: StringValue, _context: Any) -> StringValue:
        await here().step("a", log.does("a"))
        return text("done")

    policy = Policy(effects=Effects.TRANSACTIONAL)
    service = await serve({"Do": do}, policy=policy, observers=[heard], attach=False)
    await service.call("Do", key=new_key())
    await heard.answered(1)
    assert heard.lines() == [STARTED, CLAIMED, "StepFinished a", ENDED, COMPLETED, EXECUTED]


# Leases


async def test_a_take_over(serve: Servers, heard: Recorder) -> None:
    """A call that takes over a dead server's run tells of the second claim (4.9)."""
    handler, key = Blocking(), new_key()
    policy = Policy(effects=Effects.REPEATABLE, recover=False, lease=ms(200), renew_every=ms(60))
    store = FlakyStore(serve.path)
    first = await serve({"Do": handler}, policy=policy, store=store, attach=False)
    lost = first.start("Do", key=key)
    await handler.began.wait()
    store.down |= {"renew", "complete", "release", "get"}
    second = await serve({"Do": handler}, policy=policy, observers=[heard], attach=False)
    call = second.start("Do", key=key)
    await heard.has(["ExecutionStarted 2"])
    handler.go.open()
    assert (await call.end()).status is grpc.StatusCode.OK
    await heard.answered(1)
    *told, answer = heard.lines()
    assert told == ["TakenOver 2 cut_short", "ExecutionStarted 2", "ExecutionEnded 2 answered", COMPLETED]
    assert answer in (EXECUTED, "CallAnswered attached ok")
    store.down.clear()
    await lost.end()


@pytest.mark.parametrize("effects", [Effects.OPAQUE, Effects.REPEATABLE])
async def test_a_lease_that_is_lost(serve: Servers, heard: Recorder, effects: Effects) -> None:
    """A run whose operation has another owner by then does not count (4.2, 4.9)."""
    handler = Blocking()
    policy = Policy(**claims(effects), lease=ms(300), renew_every=ms(50))
    service = await serve({"Do": handler}, policy=policy, observers=[heard], attach=False)
    call = service.start("Do", key=new_key())
    await handler.began.wait()
    record = await service.the_record()
    assert await service.store.hold(record.name, record.fence, "for the test")
    assert await service.store.resolve(record.name, record.fence, None, timedelta(hours=1))
    await heard.has(["LeaseLost for_good"])
    handler.go.open()
    await call.end()
    await heard.answered(1)
    lines = heard.lines()
    assert lines[:4] == [CLAIMED, STARTED, "LeaseLost for_good", ENDED]
    assert "Settled lost" in lines


async def test_a_lease_that_can_not_be_renewed(serve: Servers, heard: Recorder) -> None:
    """It is told once that the lease has run out; the renewals go on (4.9)."""
    handler, store = Blocking(), FlakyStore(serve.path)
    policy = Policy(lease=ms(200), renew_every=ms(50))
    service = await serve({"Do": handler}, policy=policy, store=store, observers=[heard], attach=False)
    call = service.start("Do", key=new_key())
    await handler.began.wait()
    store.down.add("renew")
    await heard.has(["LeaseLost"])
    store.down.clear()
    handler.go.open()
    await call.end()
    await heard.answered(1)
    assert heard.lines() == [CLAIMED, STARTED, "LeaseLost", ENDED, COMPLETED, EXECUTED]


# Recovery


@pytest.fixture
def promptly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers look for operations to finish many times a second."""
    monkeypatch.setattr("grpc_idempotency._server.aio.interceptor.EVERY", 0.05)
    monkeypatch.setattr("grpc_idempotency._server.sync.interceptor.EVERY", 0.05)


async def done(_request: StringValue, _context: Any) -> StringValue:
    return text("done")


@pytest.mark.usefixtures("promptly")
@pytest.mark.parametrize(
    ("left", "policy", "told"),
    [
        (
            {"effects": Effects.OPAQUE},
            Policy(**LEASE),
            [f"Held {_OWNER_GONE}", "Recovered hold"],
        ),
        (
            {"effects": Effects.REPEATABLE},
            SHORT,
            [
                *("Recovered run", "TakenOver 2 cut_short", "RecoveryStarted 2"),
                *("RecoveryEnded 2 answered", COMPLETED),
            ],
        ),
        ({"effects": Effects.TRANSACTIONAL, "stored": False}, TRANSACTIONAL, ["Recovered release"]),
        ({"runs": 20}, SHORT, ["Recovered leave 20 runs of it were cut short"]),
    ],
    ids=["hold", "run", "release", "leave"],
)
async def test_recovery(
    serve: Servers, heard: Recorder, left_behind: SQLiteStore, left: dict[str, Any], policy: Policy, told: list[str]
) -> None:
    """Each fate is told, with the name of the operation (5.4)."""
    name = dead(left_behind, **left)
    await serve({"Do": done}, policy=policy, observers=[heard])
    await heard.has(told[-1:])
    assert heard.lines() == told
    assert {getattr(event, "operation", None) for event in heard.told} == {name}
    left_behind.close()


@pytest.mark.usefixtures("promptly")
async def test_recovery_keeps_the_trace(serve: Servers, heard: Recorder, left_behind: SQLiteStore) -> None:
    """A run without its client has the trace of the call whose run was cut short, and so have its replays (5.4)."""
    trace = bytes(range(25))
    name = dead(left_behind, trace=trace)
    await serve({"Do": done}, policy=SHORT, observers=[heard])
    await heard.has([COMPLETED])
    assert [event.trace for event in heard.told if isinstance(event, ExecutionStarted)] == [trace]
    record = left_behind.get(name)
    assert record is not None
    assert record.trace == trace
    left_behind.close()


# Stores and servers


async def test_a_sweep(serve: Servers) -> None:
    """A sweep is told with what it has deleted (6.3)."""
    heard = Recorder(Swept)
    brief = Policy(ttl=ms(1))
    service = await serve({"Do": done}, policy=brief, sweep_every=ms(30), observers=[heard])
    for _ in range(3):
        await service.call("Do", key=new_key())

    async def swept() -> bool:
        return sum(event.deleted for event in heard.told if isinstance(event, Swept)) == 3

    await until(swept)
    assert all(isinstance(event, Swept) and event.seconds > 0 for event in heard.told)


@pytest.mark.parametrize("ends", [True, False])
async def test_a_drain(serve: Servers, ends: bool) -> None:
    """The end of an interceptor is told, with how many operations it has left (4.4)."""
    heard, handler = Recorder(Drained), Blocking()
    service = await serve({"Do": handler}, observers=[heard], drain_limit=ms(20_000 if ends else 50), attach=False)
    call = service.start("Do", key=new_key())
    await handler.began.wait()
    call.cancel()
    await until(service.has_detached)
    await service.server.stop(None)
    closing = asyncio.ensure_future(service.close_interceptor())
    if ends:
        handler.go.open()
    await closing
    await service.close_interceptor()
    (drained,) = heard.told
    assert isinstance(drained, Drained)
    assert drained.unfinished == (0 if ends else 1)
    handler.go.open()


@pytest.mark.parametrize("kind", ["async"])
async def test_a_run_that_the_servers_end_stops(serve: Servers, heard: Recorder) -> None:
    """A handler that is cancelled at the end of the drain limit has ended, and its record is left (4.4)."""
    handler = Blocking()
    service = await serve({"Do": handler}, observers=[heard], drain_limit=ms(50), attach=False)
    call = service.start("Do", key=new_key())
    await handler.began.wait()
    call.cancel()
    await until(service.has_detached)
    await service.server.stop(None)
    await service.close_interceptor()
    assert heard.lines() == [CLAIMED, STARTED, "CallAnswered cancelled", "ExecutionEnded 1 stopped", "Settled lost"]


async def test_calls_of_the_store(serve: Servers) -> None:
    """Each call of the interceptor to its store is told with its error, also those of steps and renewals."""
    heard, handler, store = Recorder(StoreCalled), Blocking(), FlakyStore(serve.path)

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", lambda: None)
        return await handler(_request, context)

    policy = Policy(effects=Effects.REPEATABLE, lease=ms(300), renew_every=ms(30))
    service = await serve({"Do": do}, policy=policy, store=store, observers=[heard], sweep_every=None)
    call = service.start("Do", key=new_key())
    await handler.began.wait()
    await heard.has(["StoreCalled renew"])
    handler.go.open()
    await call.end()
    store.down.add("claim")
    await service.call("Do", key=new_key())
    store.down.clear()
    await heard.has(["StoreCalled claim claim is down, for the test"])
    await service.server.stop(None)
    # A renewal that comes after the completion finds no lease, and reads the record to know why.
    beside = ("StoreCalled renew", "StoreCalled get", "StoreCalled pending")
    lines = [one for one in heard.lines() if one not in beside]
    assert lines == [
        *("StoreCalled open", "StoreCalled claim", "StoreCalled record_step", "StoreCalled complete"),
        *("StoreCalled claim claim is down, for the test", "StoreCalled close"),
    ]
    assert all(isinstance(event, StoreCalled) and event.seconds > 0 for event in heard.told)


async def test_an_observed_store_has_the_operations_transaction(serve: Servers) -> None:
    """A handler's own transaction commits its reply, though the interceptor's calls to the store are observed (5.1)."""
    make_table(serve.path)
    heard, store = Recorder(StoreCalled), FlakyStore(serve.path)

    def reply(db: Database) -> StringValue:
        db.execute("INSERT INTO things (value) VALUES ('a')")
        return text("done")

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return await store.transaction(reply)

    policy = Policy(effects=Effects.TRANSACTIONAL)
    service = await serve({"Do": do}, policy=policy, store=store, observers=[heard], attach=False)
    key = new_key()
    assert [(await service.call("Do", key=key)).mark for _ in range(2)] == ["executed", "replayed"]
    assert heard.lines() == ["StoreCalled get"]


async def test_records_are_counted(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of the store are counted from time to time, the first time with the completed ones (6.4)."""
    for wing in ("aio", "sync"):
        monkeypatch.setattr(f"grpc_idempotency._server.{wing}.interceptor.COUNT_EVERY", 0.02)
    heard, handler, store = Recorder(RecordsCounted), Blocking(), FlakyStore(serve.path)
    service = await serve({"Do": handler, "Other": done}, store=store, observers=[heard], attach=False)
    method = f"/{SERVICE}/Do"
    call = service.start("Do", key=new_key())
    await handler.began.wait()

    async def counted() -> bool:
        return RecordsCounted(counts={(method, State.RUNNING): 1}, completed=False) in heard.told

    await until(counted)
    handler.go.open()
    await call.end()

    async def none() -> bool:
        return heard.told[-1] == RecordsCounted(counts={}, completed=False)

    await until(none)
    assert [event.completed for event in heard.told if isinstance(event, RecordsCounted)].count(True) == 1
    other = Recorder(RecordsCounted)
    await (await serve({"Do": done}, store=service.store, observers=[other])).stop()
    await service.stop()
    before = len(heard.told)
    again = await serve({"Do": done}, observers=[other])

    async def whole() -> bool:
        return RecordsCounted(counts={(method, State.COMPLETED): 1}, completed=True) in other.told

    await until(whole)
    await again.stop()
    assert len(heard.told) == before


async def test_a_count_that_fails(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made again (5.5)."""
    for wing in ("aio", "sync"):
        monkeypatch.setattr(f"grpc_idempotency._server.{wing}.interceptor.COUNT_EVERY", 0.02)
    heard, store = Recorder(RecordsCounted, StoreCalled), FlakyStore(serve.path)
    store.down.add("count")
    await serve({"Do": done}, store=store, observers=[heard])
    await heard.has(["StoreCalled count count is down, for the test"] * 2)
    assert not heard.of(RecordsCounted)
    store.down.clear()

    async def counted() -> bool:
        return bool(heard.of(RecordsCounted))

    await until(counted)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_store_that_can_not_count(kind: str) -> None:
    """A store of somebody else may lack what operators ask: nothing is counted then."""
    heard = Recorder(RecordsCounted)

    class Store:
        def __init__(self, store: Any) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            if name == "count":
                raise AttributeError(name)
            return getattr(self._store, name)

    store = Store(MemoryStore() if kind == "sync" else aio.MemoryStore())
    assert interceptor_of(kind, store, observers=[heard])._counting is None


async def test_batches(serve: Servers) -> None:
    """The writer of the store tells its batches, in its own thread, until the interceptor is closed."""
    heard = Recorder(BatchCommitted)
    service = await serve({"Do": done}, observers=[heard], sweep_every=None, attach=False)
    await asyncio.gather(*(service.call("Do", key=new_key()) for _ in range(20)))
    told = [event for event in heard.told if isinstance(event, BatchCommitted)]
    assert sum(event.size for event in told) >= 40
    assert all(event.seconds > 0 for event in told)
    assert not heard.threads & {"MainThread"}
    await service.server.stop(None)
    await service.close_interceptor()
    told_before = len(heard.told)
    other = await serve({"Do": done}, store=service.store, attach=False)
    await other.call("Do", key=new_key())
    assert len(heard.told) == told_before


async def test_two_observers(serve: Servers, heard: Recorder) -> None:
    """Each gets what it wants, in the order in which they were given."""
    settled = Recorder(Settled)
    service = await serve({"Do": done}, observers=[settled, heard], attach=False)
    await service.call("Do", key=new_key())
    await heard.answered(1)
    assert settled.lines() == [COMPLETED]
    assert heard.lines() == FIRST
