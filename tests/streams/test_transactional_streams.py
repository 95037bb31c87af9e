"""Server-streams of transactional methods, which are sent after the commit (4.8, 5.1)."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, StoreUnavailable

from ..harness.handlers import server_stream
from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.stores import FlakyStore
from ..harness.waiting import Gate
from .sending import OK


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
    """Its outcome is made, not yet committed, and the handler ends: the end waits for the store's answer (5.1)."""
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
