"""What an observer may do wrong, and what is made for one that wants nothing."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, get_args

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, MemoryStore, Policy, PolicyError, aio, events
from grpc_idempotency._server.observers import Observers
from grpc_idempotency.events import CallAnswered, Drained, Event, Settled, StoreCalled

from ..harness.handlers import Blocking
from ..harness.replies import new_key, text
from ..harness.servers import Servers, interceptor_of
from ..harness.stores import FlakyStore
from ..harness.waiting import until
from ..steps.operations import here, make_table
from .recording import Recorder

EVENTS: tuple[type[Event], ...] = get_args(Event)
DRAINED = Drained(unfinished=0, seconds=0.0)


async def done(_request: StringValue, _context: Any) -> StringValue:
    return text("done")


# What is made


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[type[Event]]:
    """The classes of all events that are made."""
    made: list[type[Event]] = []

    def counting(new: Callable[..., Event]) -> Callable[..., Event]:
        def counted(kind: type[Event], *values: Any, **fields: Any) -> Event:
            made.append(kind)
            return new(kind, *values, **fields)

        return counted

    for kind, new in [(kind, kind.__new__) for kind in EVENTS]:
        monkeypatch.setattr(kind, "__new__", counting(new))
    return made


async def play(serve: Servers, *observers: Any) -> None:
    """First calls, replays, duplicates, refusals, steps, transactions and failures, and the server's end."""
    make_table(serve.path)
    store, handler = FlakyStore(serve.path), Blocking()

    async def stepped(_request: StringValue, _context: Any) -> StringValue:
        await here().step("a", lambda: None)
        return text("done")

    async def transacted(_request: StringValue, _context: Any) -> StringValue:
        return await store.transaction(lambda _db: text("done"))

    async def fails(_request: StringValue, _context: Any) -> StringValue:
        raise ValueError("for the test")

    service = await serve(
        {"Do": handler, "Steps": stepped, "Transacts": transacted, "Fails": fails},
        policies={
            "Steps": Policy(effects=Effects.REPEATABLE),
            "Transacts": Policy(effects=Effects.TRANSACTIONAL),
            "Fails": Policy(effects=Effects.REPEATABLE),
        },
        store=store,
        observers=observers,
        sweep_every=None,
    )
    key = new_key()
    first = service.start("Do", key=key)
    await handler.began.wait()
    second = service.start("Do", key=key)
    await until(lambda: service.is_followed(2))
    handler.go.open()
    await asyncio.gather(first.end(), second.end())
    for method in ("Do", "Steps", "Transacts", "Fails"):
        key = new_key()
        for body in ("a", "a", "b"):
            await service.call(method, text(body), key=key)
        await service.call(method)
    store.down.add("claim")
    await service.call("Do", key=new_key())
    store.down.clear()
    await service.server.stop(None)


async def test_nothing_is_made_without_an_observer(serve: Servers, made: list[type[Event]]) -> None:
    """Only the rare events that the log writes are made: here the end of the server."""
    await play(serve)
    assert made == [Drained]


async def test_only_what_is_wanted_is_made(serve: Servers, made: list[type[Event]]) -> None:
    """An observer that wants two classes of events costs those, and nothing else."""
    heard = Recorder(Settled, StoreCalled)
    await play(serve, heard)
    assert set(made) == {Settled, StoreCalled, Drained}
    assert [type(event) for event in heard.told] == [kind for kind in made if kind is not Drained]


async def test_all_of_a_plain_function(serve: Servers, made: list[type[Event]]) -> None:
    """A plain function is told everything, and each event is made once, however many observers there are."""
    told: list[Event] = []
    await play(serve, told.append, lambda event: None)
    assert len(told) == len(made)
    frequent = {events.BatchCommitted, CallAnswered, events.Claimed, events.ExecutionStarted, events.ExecutionEnded}
    assert frequent | {Settled, StoreCalled, events.StepFinished, Drained} <= set(made)


def test_a_class_stands_for_its_subclasses() -> None:
    """An observer that wants all claims is told of take-overs, too; one that wants these gets no others."""
    claims, takeovers = Recorder(events.Claimed), Recorder(events.TakenOver)
    takeover = events.TakenOver(method="/a.B/C", operation=b"", attempt=2, cut_short=True)
    Observers([claims, takeovers]).announce(takeover)
    assert claims.told == takeovers.told == [takeover]
    assert Observers([claims]).claimed is not None
    assert Observers([takeovers]).claimed is None


# What goes wrong


class Fails:
    """An observer that raises whenever it is called."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.called = 0

    def trace(self) -> bytes:
        raise self.error

    def __call__(self, event: Event) -> None:
        self.called += 1
        raise self.error


@pytest.mark.parametrize("error", [ValueError("for the test"), asyncio.CancelledError(), GeneratorExit()], ids=repr)
async def test_one_that_raises(
    serve: Servers, heard: Recorder, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """No call fails, the others are told, and the log has each class of events once."""
    fails = Fails(error)
    service = await serve({"Do": done}, observers=[fails, heard], sweep_every=None)
    for _ in range(3):
        key = new_key()
        assert [(await service.call("Do", key=key)).mark for _ in range(2)] == ["executed", "replayed"]
    await service.server.stop(None)
    assert fails.called == len(heard.told)
    failures = [record for record in caplog.records if "the observer" in record.getMessage()]
    assert {record.levelno for record in failures} == {logging.ERROR}
    kinds = {type(event).__name__ for event in heard.told} | {"trace"}
    assert sorted(str(record.args[1]) for record in failures if isinstance(record.args, tuple)) == sorted(kinds)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()], ids=repr)
def test_one_that_ends_the_process(error: BaseException) -> None:
    """Whoever asks for the end of the process gets it."""
    observers = Observers([Fails(error)])
    with pytest.raises(type(error)):
        observers.announce(DRAINED)
    assert observers.trace is not None
    with pytest.raises(type(error)):
        observers.trace()


@pytest.mark.parametrize("kind", ["sync"])
async def test_one_that_waits_delays_its_own_call_alone(serve: Servers) -> None:
    """On threads an observer that blocks holds up what it is told of, and no other call."""
    go, blocked = threading.Event(), threading.Event()

    def blocks(event: Event) -> None:
        if isinstance(event, CallAnswered) and not blocked.is_set():
            blocked.set()
            go.wait(20)

    service = await serve({"Do": done}, observers=[blocks])
    first = asyncio.ensure_future(service.call("Do", key=new_key()))
    await asyncio.to_thread(blocked.wait, 20)
    assert (await service.call("Do", key=new_key())).mark == "executed"
    assert not first.done()
    go.set()
    assert (await first).mark == "executed"


async def test_one_that_calls_back(serve: Servers) -> None:
    """An observer may start work of its own that uses the server and its store, as long as it does not wait for it."""
    tasks: list[Any] = []
    loop = asyncio.get_running_loop()
    key = new_key()

    def calls(event: Event) -> None:
        if isinstance(event, CallAnswered) and not tasks:
            tasks.append(asyncio.run_coroutine_threadsafe(service.call("Do", key=key), loop))

    service = await serve({"Do": done}, observers=[calls])
    await service.call("Do", key=new_key())
    assert (await asyncio.wrap_future(tasks[0])).mark == "executed"


async def _awaited(event: Event) -> None:
    """An observer that would have to be awaited."""


class _Strange:
    def __init__(self, wanted: Any) -> None:
        self.events = wanted

    def __call__(self, event: Event) -> None:
        """Never called."""


@pytest.mark.parametrize(
    ("observers", "message"),
    [
        (7, "observers must be a list of functions, not 7"),
        ("log", "observers must be a list of functions, not a str"),
        ([7], "observers must be a function, not 7"),
        ([_awaited], "observers must be a plain function: it is not awaited"),
        ([_Strange([int])], "must be a collection of classes of grpc_idempotency.events"),
        ([_Strange(["Settled"])], "must be a collection of classes of grpc_idempotency.events"),
        ([_Strange(None)], "must be a collection of classes of grpc_idempotency.events"),
    ],
)
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_what_is_no_observer(kind: str, observers: Any, message: str) -> None:
    """It is refused where it is given."""
    with pytest.raises(PolicyError, match=message):
        interceptor_of(kind, MemoryStore() if kind == "sync" else aio.MemoryStore(), observers=observers)


# Traces

TRACE = bytes(range(25))


class Traces(Recorder):
    """An observer that knows the trace of a call."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found

    def trace(self) -> Any:
        return self.found


async def test_the_trace_of_the_run(serve: Servers) -> None:
    """Whoever gets the outcome of a run is told with the trace of the call that has led it, also in a replay."""
    traces, handler = Traces(TRACE), Blocking()
    service = await serve({"Do": handler}, observers=[traces], sweep_every=None, attach=False)
    key = new_key()
    first = service.start("Do", key=key)
    await handler.began.wait()
    traces.found = b""  # the others are not sampled
    second = service.start("Do", key=key)
    await until(lambda: service.is_followed(2))
    handler.go.open()
    await asyncio.gather(first.end(), second.end())
    await service.call("Do", key=key)
    await traces.answered(3)
    assert [event.trace for event in traces.told if isinstance(event, CallAnswered)] == [TRACE] * 3
    assert [event.trace for event in traces.told if isinstance(event, events.ExecutionStarted)] == [TRACE]


@pytest.mark.parametrize("effects", Effects)
async def test_a_trace_is_kept_with_the_record(serve: Servers, effects: Effects) -> None:
    """A replay in another process knows it, from the store and then from its memory (6.5)."""
    store, traces = FlakyStore(serve.path), Traces(TRACE)

    async def do(_request: StringValue, _context: Any) -> StringValue:
        reply = text("done")
        return await store.transaction(lambda _db: reply) if effects is Effects.TRANSACTIONAL else reply

    policy = Policy(effects=effects)
    first = await serve({"Do": do}, policy=policy, store=store, observers=[traces], attach=False)
    key = new_key()
    await first.call("Do", key=key)
    assert (await first.the_record()).trace == TRACE
    others = Traces(b"")
    second = await serve({"Do": done}, policy=policy, observers=[others], attach=False)
    for _ in range(2):
        assert (await second.call("Do", key=key)).mark == "replayed"
    await others.answered(2)
    assert [event.trace for event in others.told if isinstance(event, CallAnswered)] == [TRACE, TRACE]


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("found", [b"short", "text", None])
async def test_a_trace_that_is_none(serve: Servers, caplog: pytest.LogCaptureFixture, found: Any) -> None:
    """It counts as a call that is not sampled, and is logged once."""
    traces = Traces(found)
    service = await serve({"Do": done}, observers=[traces], sweep_every=None, attach=False)
    for _ in range(2):
        await service.call("Do", key=new_key())
    await traces.answered(2)
    assert {event.trace for event in traces.told if isinstance(event, CallAnswered)} == {b""}
    assert [record.levelno for record in caplog.records if "failed on trace" in record.getMessage()] == [logging.ERROR]


def test_the_first_that_knows_is_asked() -> None:
    """Of several observers with a trace only one is asked."""
    observers = Observers([Recorder(), Traces(TRACE), Traces(b"")])
    assert observers.trace is not None
    assert observers.trace() == TRACE
    assert Observers([Recorder()]).trace is None
