"""Server-streams: followed while they are sent, recorded, replayed whole (4.3, 4.4, 4.7, 4.8)."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import State

from ..harness.handlers import server_stream
from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.waiting import until
from .sending import DATA_LOSS, OK, Steps, texts


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
