"""A handler that can't know whether it took effect says so, and no client reads why (4.5)."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Code, Effects, Outcome, OutcomeUnknown, Policy, State, aio
from grpc_idempotency import current_operation as operation_of_a_thread
from grpc_idempotency._server.doubt import doubt_of

from ..harness.handlers import client_stream, server_stream
from ..harness.replies import Reply, new_key, refused, text
from ..harness.servers import Servers
from ..harness.stores import FlakyStore
from ..harness.waiting import ms

UNAVAILABLE, UNKNOWN = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
WHY = "card 4711 may be charged"
HELD = f"its handler could not find out: {WHY}"


def held(reply: Reply) -> None:
    """Asserts that a client was told that nobody can know, and not what its handler tells operators."""
    refused(reply, "OUTCOME_UNKNOWN", PRECONDITION)
    assert "its handler could not find out. It is held" in reply.details
    assert "card" not in f"{reply.details}{reply.trailers}"


class Doubting:
    """A handler whose first run raises; the next ones answer."""

    def __init__(self, error: Callable[[], BaseException]) -> None:
        self.runs = 0
        self._error = error

    async def __call__(self, _request: Any, context: Any) -> StringValue:
        self.runs += 1
        if self.runs == 1:
            raise self._error()
        return text(f"run {self.runs}")


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def from_itself() -> BaseException:
    error = LookupError("odd")
    return caused(error, error)


def while_it_was_handled() -> BaseException:
    """As after ``except OutcomeUnknown``, where the handler has found out."""
    error = LookupError("there is no such charge")
    error.__context__ = OutcomeUnknown(WHY)
    return error


class Silent(OutcomeUnknown):
    """An author's own error, which does not call the constructor of its base."""

    def __init__(self) -> None:
        pass


# How it is said


@pytest.mark.parametrize(
    "error",
    [
        lambda: OutcomeUnknown(WHY),
        lambda: caused(ConnectionError("gone"), OutcomeUnknown(WHY)),
        lambda: caused(ValueError(), caused(KeyError(), OutcomeUnknown(WHY))),
        pytest.param(
            lambda: eval("BaseExceptionGroup")("tasks", [ValueError(), OutcomeUnknown(WHY)]),  # noqa: S307  # not in 3.10
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no exception groups"),
        ),
    ],
    ids=["itself", "cause", "cause of a cause", "group"],
)
async def test_an_error_from_it_says_the_same(
    serve: Servers, kind: str, error: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The operation is held; the reason is in the record and in the log (4.5)."""
    handler = Doubting(error)
    service = await serve({"Do": handler})
    key = new_key()
    for _ in range(2):
        held(await service.call("Do", key=key))
    record = await service.the_record()
    assert (record.state, record.reason, handler.runs) == (State.HELD, HELD, 1)
    assert WHY in caplog.text


@pytest.mark.parametrize(
    "error",
    [from_itself, lambda: LookupError("odd"), lambda: caused(KeyError(), ValueError()), while_it_was_handled],
    ids=["from itself", "bare", "from another", "while it was handled"],
)
async def test_another_error_does_not_say_it(serve: Servers, kind: str, error: Callable[[], BaseException]) -> None:
    """An exception of an opaque handler is stored, as before (4.5)."""
    service = await serve({"Do": Doubting(error)})
    key = new_key()
    first, second = [await service.call("Do", key=key) for _ in range(2)]
    assert (first.status, first.mark, second.mark) == (UNKNOWN, "executed", "replayed")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (lambda: OutcomeUnknown("b\0c"), "b\\x00c"),
        (lambda: OutcomeUnknown("x" * 100_000), "x" * 2000),
        (lambda: OutcomeUnknown(TimeoutError("no answer")), "no answer"),  # type: ignore[arg-type]  # a likely mistake
        (lambda: OutcomeUnknown(""), "it gave no reason"),
        (Silent, "it gave no reason"),
    ],
    ids=["unstorable", "long", "an error", "empty", "none"],
)
@pytest.mark.parametrize("store", ["sqlite", "memory"])
async def test_any_reason_is_kept(
    serve: Servers, kind: str, store: str, error: Callable[[], BaseException], reason: str
) -> None:
    """What a store can't keep of a reason is escaped, so that the operation is held all the same (4.5)."""
    service = await serve({"Do": Doubting(error)}, store=serve.store(store))
    held(await service.call("Do", key=new_key()))
    assert (await service.the_record()).reason == f"its handler could not find out: {reason}"


def test_a_reason_with_a_lone_surrogate_is_escaped() -> None:
    """No store can keep it as it is (4.5)."""
    assert doubt_of(OutcomeUnknown("a\ud800b")) == "a\\ud800b"


async def test_a_handler_may_catch_it(serve: Servers, kind: str) -> None:
    """It has found out after all: its answer counts (4.5)."""

    async def do(_request: Any, context: Any) -> StringValue:
        with suppress(OutcomeUnknown):
            raise OutcomeUnknown(WHY)
        return text("found out")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "found out"


async def test_a_doubt_after_an_abort_counts(serve: Servers, kind: str) -> None:
    """An abort with UNAVAILABLE says that nothing happened; the handler says later that it can't know (4.5)."""
    runs = 0

    async def do(_request: Any, context: Any) -> StringValue:
        nonlocal runs
        runs += 1
        with suppress(Exception):
            await context.abort(UNAVAILABLE, "later")
        raise OutcomeUnknown(WHY)

    service = await serve({"Do": do})
    key = new_key()
    for _ in range(2):
        held(await service.call("Do", key=key))
    assert runs == 1


# Kinds of calls


async def test_streams_in_doubt(serve: Servers, kind: str) -> None:
    """The messages that were sent before have left; every later call is refused (4.5, 4.8)."""

    async def many(request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
        yield text(request.value)
        raise OutcomeUnknown(WHY)

    async def one(requests: Any, _context: Any) -> StringValue:
        raise OutcomeUnknown(WHY + "".join([request.value async for request in requests]))

    service = await serve({"Many": server_stream(many), "One": client_stream(one)})
    key = new_key()
    first, second = [await service.call("Many", "a", key=key) for _ in range(2)]
    held(first)
    held(second)
    assert (first.texts, second.texts) == (["a"], [])
    for _ in range(2):
        held(await service.call("One", "a", "b", key=key))


@pytest.mark.parametrize("attach", [True, False], ids=["attached", "alone"])
async def test_without_a_key_it_is_an_exception(serve: Servers, kind: str, attach: bool) -> None:
    """UNKNOWN, and no text of it (2.4, 4.7)."""
    service = await serve({"Do": Doubting(lambda: OutcomeUnknown(WHY))}, attach=attach)
    reply = await service.call("Do")
    assert (reply.status, reply.details, reply.mark) == (UNKNOWN, "internal error", None)


async def test_unprotected_it_is_an_exception(serve: Servers, kind: str) -> None:
    """Nothing can be held while the store is down (5.5)."""
    store = FlakyStore(serve.path)
    service = await serve({"Do": Doubting(lambda: OutcomeUnknown(WHY))}, store=store, policy=Policy(unprotected=True))
    store.down.add("claim")
    reply = await service.call("Do", key=new_key())
    assert (reply.status, reply.details, reply.mark) == (UNKNOWN, "internal error", "unprotected")


# Transactions, steps, operators


@pytest.mark.parametrize("effects", Effects)
async def test_a_committed_transaction_counts(serve: Servers, kind: str, effects: Effects) -> None:
    """Its rows and its outcome are there, whatever the handler doubts (5.1)."""
    store = FlakyStore(serve.path)

    async def do(_request: Any, _context: Any) -> StringValue:
        await store.transaction(lambda db: text("committed"))
        raise OutcomeUnknown(WHY)

    service = await serve({"Do": do}, store=store, policy=Policy(effects=effects))
    key = new_key()
    first, second = [await service.call("Do", key=key) for _ in range(2)]
    assert (first.text, first.mark, second.text, second.mark) == ("committed", "executed", "committed", "replayed")


async def test_within_a_transaction_it_rolls_back(serve: Servers, kind: str) -> None:
    """No row is left of it, and the operation is held if it is opaque (4.5, 5.1)."""
    store = FlakyStore(serve.path)
    await store.transaction(lambda db: db.execute("CREATE TABLE things (value TEXT)"))

    def fn(db: Any) -> StringValue:
        db.execute("INSERT INTO things VALUES ('row')")
        raise OutcomeUnknown(WHY)

    async def do(_request: Any, _context: Any) -> StringValue:
        reply: StringValue = await store.transaction(fn)
        return reply

    service = await serve({"Do": do}, store=store)
    held(await service.call("Do", key=new_key()))
    assert await store.read(lambda db: db.execute("SELECT value FROM things").fetchall()) == []


def charged() -> str:
    raise OutcomeUnknown(WHY)


async def a_step(kind: str, name: str, fn: Callable[[], str], undo: Callable[[Any], object] | None = None) -> Any:
    """Runs a step in the handler of any kind."""
    if kind == "async":
        operation = aio.current_operation()
        assert operation is not None
        return await operation.step(name, fn, undo=undo)
    blocking = operation_of_a_thread()
    assert blocking is not None
    return blocking.step(name, fn, undo=undo)


async def test_a_step_in_doubt_is_held_if_opaque(serve: Servers, kind: str) -> None:
    """Finished steps stay with the held operation (4.5, 5.2)."""

    async def do(_request: Any, _context: Any) -> StringValue:
        await a_step(kind, "reserve", lambda: "reserved")
        await a_step(kind, "charge", charged)
        return text("done")

    service = await serve({"Do": do})
    held(await service.call("Do", key=new_key()))
    assert (await service.the_record()).reason == HELD
    assert await service.steps() == ["reserve"]


async def test_a_step_in_doubt_runs_again_if_repeatable(serve: Servers, kind: str) -> None:
    """It counts as a failed run; after the last try the finished steps are undone (5.2)."""
    runs: list[int] = []
    undone: list[Any] = []

    async def do(_request: Any, _context: Any) -> StringValue:
        runs.append(1)
        await a_step(kind, "reserve", lambda: "reserved", undone.append)
        await a_step(kind, "charge", charged)
        return text("done")

    policy = Policy(effects=Effects.REPEATABLE, max_tries=3, retry_delay=ms(10))
    service = await serve({"Do": do}, policy=policy)
    key = new_key()
    first, second = [await service.call("Do", key=key) for _ in range(2)]
    assert first.status is grpc.StatusCode.ABORTED
    assert "failed 3 times and was given up" in first.details
    assert "card" not in f"{first.details}{first.trailers}"
    assert (second.plain, second.mark) == (first.plain, "replayed")
    assert (len(runs), undone) == (3, ["reserved"])


async def test_an_operator_resolves_it(serve: Servers, kind: str) -> None:
    """The client's next call gets what the operator has found out (6.4)."""
    service = await serve({"Do": Doubting(lambda: OutcomeUnknown(WHY))})
    key = new_key()
    held(await service.call("Do", key=key))
    record = await service.the_record()
    charge = Outcome(status=Code.OK, message=text("charged").SerializeToString())
    assert await service.store.resolve(record.name, record.fence, charge, ms(60_000))
    reply = await service.call("Do", key=key)
    assert (reply.text, reply.mark) == ("charged", "replayed")


@pytest.mark.parametrize("kind", ["async"])
async def test_a_call_that_waits_is_told(serve: Servers, kind: str) -> None:
    """All calls of the operation are refused, not only the first one (4.3, 4.5)."""
    began, go = asyncio.Event(), asyncio.Event()

    async def do(_request: Any, _context: Any) -> StringValue:
        began.set()
        await go.wait()
        raise OutcomeUnknown(WHY)

    service = await serve({"Do": do})
    key = new_key()
    calls = [asyncio.ensure_future(service.call("Do", key=key)) for _ in range(3)]
    await began.wait()
    go.set()
    for call in calls:
        held(await call)
