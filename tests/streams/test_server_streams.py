"""Server-streams: followed while they are sent, recorded, replayed whole (4.3, 4.4, 4.7, 4.8)."""

import asyncio
import collections
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, State, StoreUnavailable

from ..harness.handlers import server_stream
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers
from ..harness.stores import FlakyStore
from ..harness.waiting import Gate, ms, until

OK = grpc.StatusCode.OK
DATA_LOSS = grpc.StatusCode.DATA_LOSS
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


class Steps:
    """A handler that sends each message when it is let; then ends as it is told."""

    def __init__(self, count: int = 4, *, size: int = 0, fails: bool = False) -> None:
        self.gates = collections.defaultdict[int, Gate](Gate)
        self.runs = 0
        self.sent = 0
        self.ended = Gate()
        self._count = count
        self._size = size
        self._fails = fails

    def let(self, upto: int) -> None:
        """Lets it send so many messages; one more for its end."""
        for number in range(upto):
            self.gates[number].open()

    def let_all(self) -> None:
        self.let(self._count + 1)

    async def __call__(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        self.runs += 1
        run = self.runs
        for number in range(self._count):
            await self.gates[number].wait(30)
            yield text(f"{run}.{number}" + "x" * self._size)
            self.sent = number + 1
        await self.gates[self._count].wait(30)
        self.ended.open()
        if self._fails:
            context.set_trailing_metadata((("x-why", "chance"),))
            await context.abort(grpc.StatusCode.DATA_LOSS, "the rest is gone")


def texts(count: int, size: int = 0) -> list[str]:
    return [f"1.{number}" + "x" * size for number in range(count)]


async def test_followers_get_the_part_already_sent(serve: Servers) -> None:
    """A duplicate of a running server-stream gets the part already sent and follows on, message by message (4.3)."""
    steps = Steps()
    service = await serve({"Do": server_stream(steps)})
    key = new_key()
    first = service.start("Do", "a", key=key)
    steps.let(2)
    assert [await first.read() for _ in range(2)] == texts(2)
    second = service.start("Do", "a", key=key)
    assert [await second.read() for _ in range(2)] == texts(2)
    steps.let(3)
    assert [await call.read() for call in (first, second)] == [texts(3)[2]] * 2
    third = service.start("Do", "a", key=key)
    assert [await third.read() for _ in range(3)] == texts(3)
    steps.let_all()
    replies = [await call.end() for call in (first, second, third)]
    assert [reply.mark for reply in replies] == ["executed", "attached", "attached"]
    assert [reply.texts for reply in replies] == [texts(4)] * 3
    again = await service.call("Do", "a", key=key)
    assert (again.plain, again.mark, steps.runs) == (replies[0].plain, "replayed", 1)


async def test_an_error_after_messages(serve: Servers) -> None:
    """An error that follows messages is recorded with them, and replayed with them (4.7, 4.8)."""
    steps = Steps(fails=True)
    service = await serve({"Do": server_stream(steps)})
    key = new_key()
    first = service.start("Do", "a", key=key)
    steps.let(1)
    assert await first.read() == "1.0"
    second = service.start("Do", "a", key=key)
    assert await second.read() == "1.0"  # so that it is there before the end
    steps.let_all()
    replies = [await call.end() for call in (first, second)] + [await service.call("Do", "a", key=key)]
    assert [reply.mark for reply in replies] == ["executed", "attached", "replayed"]
    for reply in replies:
        assert (reply.status, reply.details, reply.texts) == (DATA_LOSS, "the rest is gone", texts(4))
        assert reply.trailer("x-why") == "chance"


async def test_a_client_that_is_gone_in_mid_stream(serve: Servers) -> None:
    """With its client gone in mid-stream a handler runs to its end; all is stored, and replayed whole (4.4, 4.8)."""
    steps = Steps()
    service = await serve({"Do": server_stream(steps)})
    key = new_key()
    first = service.start("Do", "a", key=key)
    steps.let(2)
    assert await first.read() == "1.0"
    first.cancel()
    await until(lambda: service.is_followed(0))
    steps.let_all()
    await steps.ended.wait()
    await until(lambda: service.has_state(State.COMPLETED))
    await until(service.is_idle)
    reply = await service.call("Do", "a", key=key)
    assert (reply.texts, reply.mark, steps.runs) == (texts(4), "replayed", 1)


async def test_one_gone_and_one_that_follows_on(serve: Servers) -> None:
    """The first caller's going away is nothing to those who follow; a new one takes it up from the start (4.3)."""
    steps = Steps()
    service = await serve({"Do": server_stream(steps)})
    key = new_key()
    first, steps_sent = service.start("Do", "a", key=key), 2
    steps.let(steps_sent)
    assert await first.read() == "1.0"
    second = service.start("Do", "a", key=key)
    assert await second.read() == "1.0"
    first.cancel()
    await until(lambda: service.is_followed(1))
    third = service.start("Do", "a", key=key)
    steps.let_all()
    assert [(await call.end()).texts for call in (second, third)] == [texts(4)] * 2
    assert steps.runs == 1


SIZE = 64 * 1024
COUNT = 40


async def test_a_client_that_does_not_read(serve: Servers) -> None:
    """A follower who does not read holds up neither the handler nor others, while all is retained (4.3, 4.8)."""
    steps = Steps(COUNT, size=SIZE)
    service = await serve({"Do": server_stream(steps)})
    key = new_key()
    first = service.start("Do", "a", key=key)
    steps.let(1)
    assert await first.read() == texts(1, SIZE)[0]
    lazy = service.start("Do", "a", key=key)
    await until(lambda: service.is_followed(2))
    steps.let_all()
    assert (await first.end(30)).texts == texts(COUNT, SIZE)
    reply = await lazy.end(30)
    assert (reply.texts, reply.mark) == (texts(COUNT, SIZE), "attached")


async def test_more_than_may_be_kept(serve: Servers) -> None:
    """A stream larger than may be kept is sent whole to who follows from the start; later nobody gets it (4.8)."""
    steps = Steps(COUNT, size=SIZE)
    service = await serve({"Do": server_stream(steps)}, policy=Policy(max_response_bytes=2 * SIZE, wait=ms(0)))
    key = new_key()
    first = service.start("Do", "a", key=key)
    steps.let(1)
    assert await first.read() == texts(1, SIZE)[0]
    second = service.start("Do", "a", key=key)
    assert await second.read() == texts(1, SIZE)[0]
    steps.let(4)
    for call in (first, second):
        assert [await call.read() for _ in range(3)] == texts(4, SIZE)[1:]
    # Its beginning is gone, so that no one can attach any more.
    refused(await service.call("Do", "a", key=key), "IN_FLIGHT", grpc.StatusCode.UNAVAILABLE)
    steps.let_all()
    ends = [asyncio.ensure_future(call.end(30)) for call in (first, second)]
    replies = [await end for end in ends]
    assert [reply.mark for reply in replies] == ["executed", "attached"]
    assert [reply.texts == texts(COUNT, SIZE) for reply in replies] == [True, True]
    for _ in range(2):
        refused(await service.call("Do", "a", key=key), "RESPONSE_NOT_RETAINED", FAILED_PRECONDITION)
    assert steps.runs == 1


async def test_a_handler_is_held_back_for_the_slowest(serve: Servers) -> None:
    """Where not all can be kept, a handler runs no further ahead of its slowest follower than a window (4.8)."""
    steps = Steps(600, size=SIZE)
    service = await serve({"Do": server_stream(steps)}, policy=Policy(max_response_bytes=SIZE))
    call = service.start("Do", "a", key=new_key())
    steps.let_all()
    assert await call.read() == texts(1, SIZE)[0]

    stood = [-1, 0]

    async def stands() -> bool:
        await asyncio.sleep(0.1)
        stood.append(steps.sent)
        return 0 < stood[-1] == stood[-2] == stood[-3]

    await until(stands)
    assert steps.sent < 300  # what gRPC itself buffers, and the window; not all
    reply = await call.end(30)
    assert (reply.texts == texts(600, SIZE), reply.mark) == (True, "executed")


async def test_a_slow_client_that_goes_lets_the_handler_run(serve: Servers) -> None:
    """A follower who holds the handler up and then goes, lets it run to its end (4.4, 4.8)."""
    steps = Steps(200, size=SIZE)
    service = await serve({"Do": server_stream(steps)}, policy=Policy(max_response_bytes=SIZE))
    key = new_key()
    call = service.start("Do", "a", key=key)
    steps.let_all()
    assert await call.read() == texts(1, SIZE)[0]
    call.cancel()
    await steps.ended.wait()
    await until(lambda: service.has_state(State.COMPLETED))
    await until(service.is_idle)
    refused(await service.call("Do", "a", key=key), "RESPONSE_NOT_RETAINED", FAILED_PRECONDITION)


async def test_an_empty_stream(serve: Servers) -> None:
    """A stream of no messages is an outcome as any other (4.8)."""
    steps = Steps(0)
    steps.let_all()
    service = await serve({"Do": server_stream(steps)})
    key = new_key()
    replies = [await service.call("Do", "a", key=key) for _ in range(2)]
    assert [(reply.status, reply.texts, reply.mark) for reply in replies] == [
        (OK, [], "executed"),
        (OK, [], "replayed"),
    ]


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_nothing_follows_an_abort(serve: Servers, kind: str) -> None:
    """On asyncio an abort that a handler swallows is for good: what it sends after that is not sent (4.7)."""

    async def do(_request: Any, context: Any) -> AsyncIterator[StringValue]:
        yield text("one")
        with suppress(Exception):
            await context.abort(grpc.StatusCode.DATA_LOSS, "the rest is gone")
        while True:
            yield text("two")

    service = await serve({"Do": server_stream(do)})
    key = new_key()
    # Without a key gRPC does the same for ``async def`` handlers; from others it sends on.
    for each in (key, key, *([None] if kind == "async" else [])):
        reply = await service.call("Do", "a", key=each)
        assert (reply.texts, reply.status, reply.details) == (["one"], DATA_LOSS, "the rest is gone")


async def test_messages_of_no_bytes(serve: Servers) -> None:
    """Empty messages are messages (4.7)."""

    async def do(_request: Any, _context: Any) -> AsyncIterator[StringValue]:
        for value in ("", "a", ""):
            yield text(value)

    service = await serve({"Do": server_stream(do)})
    key = new_key()
    replies = [await service.call("Do", "a", key=k) for k in (None, key, key)]
    assert [reply.texts for reply in replies] == [["", "a", ""]] * 3


# Kinds of handlers


@pytest.mark.parametrize("kind", ["async"])
async def test_handlers_that_write(serve: Servers) -> None:
    """A handler that writes its stream to the context is as one that yields it (4.10)."""

    async def do(request: StringValue, context: Any) -> None:
        for number in range(3):
            await context.write(text(f"{request.value} {number}"))

    service = await serve({"Do": server_stream(do, native=True)})
    key = new_key()
    replies = [await service.call("Do", "a", key=k) for k in (None, key, key)]
    assert [reply.mark for reply in replies] == [None, "executed", "replayed"]
    assert [reply.texts for reply in replies] == [["a 0", "a 1", "a 2"]] * 3


@pytest.mark.parametrize("kind", ["thread", "sync"])
async def test_handlers_that_return_an_iterator(serve: Servers) -> None:
    """A ``def`` handler may answer with any iterator (4.10)."""

    def do(request: StringValue, _context: Any) -> Iterator[StringValue]:
        return iter([text(f"{request.value} {number}") for number in range(3)])

    service = await serve({"Do": server_stream(do, native=True)})
    key = new_key()
    replies = [await service.call("Do", "a", key=k) for k in (None, key, key)]
    assert [reply.mark for reply in replies] == [None, "executed", "replayed"]
    assert [reply.texts for reply in replies] == [["a 0", "a 1", "a 2"]] * 3


# Transactions


async def rows(store: FlakyStore) -> int:
    return len(await store.transaction(lambda db: db.execute("SELECT value FROM things").fetchall()))


@pytest.fixture
async def store(serve: Servers) -> FlakyStore:
    """A store with a table for rows; its server closes it."""
    store = FlakyStore(serve.path)
    await store.transaction(lambda db: db.execute("CREATE TABLE things (value TEXT)").rowcount)
    return store


TRANSACTIONAL = Policy(effects=Effects.TRANSACTIONAL)


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("crash", ["inside", "after the first message", "at the commit"])
async def test_nothing_is_sent_before_the_commit(serve: Servers, store: FlakyStore, crash: str) -> None:
    """A transactional stream is sent after the commit: a crash before it sends nothing, and leaves nothing (4.8)."""
    crashing = True

    async def do(_request: Any, _context: Any) -> AsyncIterator[StringValue]:
        def fn(db: Any) -> list[StringValue]:
            db.execute("INSERT INTO things (value) VALUES ('a')")
            if crashing and crash == "inside":
                raise LookupError("password=hunter2")
            if crashing and crash == "at the commit":
                raise StoreUnavailable("the disk is full, for the test")
            return [text("two"), text("three")]

        yield text("one")
        if crashing and crash == "after the first message":
            raise LookupError("password=hunter2")
        await store.transaction(fn)

    service = await serve({"Do": server_stream(do)}, store=store, policy=TRANSACTIONAL)
    key = new_key()
    reply = await service.call("Do", "a", key=key)
    assert (reply.messages, reply.mark) == ((), "executed")
    assert reply.status is not OK
    assert await rows(store) == 0
    assert await service.records() == []
    crashing = False
    replies = [await service.call("Do", "a", key=key) for _ in range(2)]
    assert [(reply.texts, reply.mark) for reply in replies] == [
        (["one", "two", "three"], "executed"),
        (["one", "two", "three"], "replayed"),
    ]
    assert await rows(store) == 1


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("effects", Effects)
@pytest.mark.parametrize("commits", [True, False])
async def test_what_follows_a_commit_is_no_part_of_the_reply(
    serve: Servers, store: FlakyStore, effects: Effects, commits: bool
) -> None:
    """The first call gets what was committed, as every replay does; without a commit what follows counts (4.7, 5.1)."""

    async def do(_request: Any, _context: Any) -> AsyncIterator[StringValue]:
        def fn(_db: Any) -> list[StringValue]:
            if not commits:
                raise LookupError
            return [text("two")]

        yield text("one")
        with suppress(LookupError):
            await store.transaction(fn)
        yield text("something else")

    service = await serve({"Do": server_stream(do)}, store=store, policy=Policy(effects=effects))
    key, told = new_key(), ["one", "two" if commits else "something else"]
    replies = [await service.call("Do", "a", key=key) for _ in range(2)]
    assert [(reply.texts, reply.mark) for reply in replies] == [(told, "executed"), (told, "replayed")]


@pytest.mark.parametrize(
    ("kind", "left"), [("async", "cancelled"), ("async", "left to a task"), ("thread", "cancelled")]
)
async def test_a_transaction_that_nobody_waits_for_any_more(serve: Servers, store: FlakyStore, left: str) -> None:
    """Its outcome is sealed, not yet committed, and the handler ends: the end waits for the store's answer (5.1)."""
    entered, blocked, asked, sealed = Gate(), Gate(), Gate(), Gate()
    begin, commit = threading.Event(), threading.Event()

    def wait_before(_db: Any) -> None:
        blocked.open()
        assert begin.wait(30)

    def wait_behind(_db: Any) -> None:
        sealed.open()
        assert commit.wait(30)

    async def do(_request: Any, _context: Any) -> AsyncIterator[StringValue]:
        entered.open()
        await blocked.wait(30)
        task = asyncio.ensure_future(store.transaction(lambda _: [text("committed")]))
        await asyncio.sleep(0)
        asked.open()
        await sealed.wait(30)
        if left == "cancelled":
            task.cancel()
            await asyncio.wait([task])
        try:
            yield text("gave up")
        finally:
            asyncio.get_running_loop().call_soon(commit.set)

    service = await serve({"Do": server_stream(do)}, store=store)
    key = new_key()
    call = asyncio.ensure_future(service.call("Do", "a", key=key))
    await entered.wait(30)
    before = asyncio.ensure_future(store.transaction(wait_before))
    await asked.wait(30)
    behind = asyncio.ensure_future(store.transaction(wait_behind))
    await asyncio.sleep(0)
    begin.set()
    replies = [await call, await service.call("Do", "a", key=key)]
    told = ["committed"]
    assert [(reply.texts, reply.mark) for reply in replies] == [(told, "executed"), (told, "replayed")]
    await asyncio.gather(before, behind)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_what_is_held_back_has_a_limit(serve: Servers, store: FlakyStore) -> None:
    """A transactional stream larger than may be buffered is refused, and nothing of it is kept (4.8)."""

    async def do(_request: Any, _context: Any) -> AsyncIterator[StringValue]:
        for _ in range(100):
            yield text("x" * 1024)

        def fn(db: Any) -> list[StringValue]:
            db.execute("INSERT INTO things (value) VALUES ('a')")
            return []

        await store.transaction(fn)

    policy = Policy(effects=Effects.TRANSACTIONAL, max_response_bytes=20 * 1024)
    service = await serve({"Do": server_stream(do)}, store=store, policy=policy)
    reply = await service.call("Do", "a", key=new_key())
    assert (reply.status, reply.messages) == (grpc.StatusCode.RESOURCE_EXHAUSTED, ())
    assert (await rows(store), await service.records()) == (0, [])


@pytest.mark.parametrize("kind", ["async"])
@pytest.mark.parametrize("then", ["returns", "raises", "commits"])
async def test_a_handler_that_writes_on_past_the_limit(serve: Servers, store: FlakyStore, then: str) -> None:
    """A stream of which a part was lost at the limit is never answered with OK (4.8)."""

    async def do(_request: Any, context: Any) -> None:
        for _ in range(100):
            with suppress(Exception):  # as careless code does
                await context.write(text("x" * 1024))
        if then == "raises":
            raise LookupError("password=hunter2")
        if then == "commits":
            await store.transaction(lambda db: [text(str(db.execute("INSERT INTO things VALUES ('a')").rowcount))])

    policy = Policy(effects=Effects.TRANSACTIONAL, max_response_bytes=20 * 1024)
    service = await serve({"Do": server_stream(do, native=True)}, store=store, policy=policy)
    reply = await service.call("Do", "a", key=new_key())
    assert (reply.status, reply.messages) == (grpc.StatusCode.RESOURCE_EXHAUSTED, ())
    assert (await rows(store), await service.records()) == (0, [])
