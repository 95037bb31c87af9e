"""Client-streams and bidirectional ones: what is announced, what is cut off, what is refused (4.8)."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy

from ..harness.handlers import Echo, client_stream, full
from ..harness.replies import COUNT, KEY, new_key, refused, text
from ..harness.servers import Servers, Service
from ..harness.waiting import until

OK = grpc.StatusCode.OK
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
MESSAGES = ("a", "b", "c", "d")


class Collecting:
    """A handler that notes how long the streams were that it saw."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    async def __call__(self, requests: AsyncIterator[StringValue], _context: Any) -> StringValue:
        values = [request.value async for request in requests]
        self.lengths.append(len(values))
        return text(" ".join(values))


async def test_a_whole_stream(serve: Servers) -> None:
    """A stream with its number announced runs once all have come, and its retry is replayed; an empty one too (4.8)."""
    handler = Collecting()
    service = await serve({"Do": client_stream(handler)})
    for messages in (MESSAGES, ()):
        key = new_key()
        replies = [await service.call("Do", *messages, key=key) for _ in range(2)]
        assert [reply.mark for reply in replies] == ["executed", "replayed"]
        assert replies[0].texts == replies[1].texts == [" ".join(messages)]
    assert handler.lengths == [4, 0]


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ((), "did not come"),
        (("",), "decimal number"),
        (("four",), "decimal number"),
        (("-1",), "decimal number"),
        (("+4",), "decimal number"),
        (("4.0",), "decimal number"),
        (("4", "5"), "differ"),
        (("9" * 30,), "decimal number"),
        (("3",), "more came"),
        (("0",), "more came"),
    ],
)
async def test_a_number_that_is_none(serve: Servers, counts: tuple[str, ...], problem: str) -> None:
    """Without its number, with one that is none or too small, a keyed stream is refused; nothing ran (2.3, 4.8)."""
    handler = Collecting()
    service = await serve({"Do": client_stream(handler)})
    metadata = [(KEY, new_key()), *((COUNT, count) for count in counts)]
    reply = await service.blocking("Do", *MESSAGES, metadata=metadata)
    refused(reply, "STREAM_LENGTH_REQUIRED", INVALID_ARGUMENT)
    assert problem in reply.details
    assert (handler.lengths, await service.records()) == ([], [])
    assert (await service.blocking("Do", *MESSAGES)).texts == ["a b c d"]  # un-keyed it needs none


async def test_the_same_number_twice(serve: Servers) -> None:
    """The number may come several times, where all say the same (4.8)."""
    service = await serve({"Do": client_stream(Collecting())})
    reply = await service.blocking("Do", *MESSAGES, metadata=[(KEY, new_key()), (COUNT, "4"), (COUNT, "4")])
    assert (reply.texts, reply.mark) == (["a b c d"], "executed")


@pytest.mark.parametrize("sent", [0, 1, 3])
async def test_fewer_than_announced(serve: Servers, sent: int) -> None:
    """A stream that ends before all have come is refused as cut off; nothing ran, and its retry does (2.3, 4.8)."""
    handler = Collecting()
    service = await serve({"Do": client_stream(handler)})
    key = new_key()
    refused(await service.call("Do", *MESSAGES[:sent], key=key, count=4), "STREAM_TRUNCATED", grpc.StatusCode.CANCELLED)
    assert handler.lengths == []
    assert (await service.call("Do", *MESSAGES, key=key)).mark == "executed"
    assert handler.lengths == [4]


async def test_another_stream_under_the_key(serve: Servers) -> None:
    """Other messages, or the same cut up otherwise, are another request (2.3, 3.2)."""
    service = await serve({"Do": client_stream(Collecting())})
    key = new_key()
    assert (await service.call("Do", "a", "bc", key=key)).mark == "executed"
    for other in (("a", "bd"), ("ab", "c"), ("a",), ("a", "bc", ""), ("bc", "a")):
        reply = await service.call("Do", *other, key=key)
        assert (reply.reason, reply.status) == ("KEY_REUSED", grpc.StatusCode.FAILED_PRECONDITION)


async def test_more_bytes_than_are_buffered(serve: Servers) -> None:
    """A keyed stream of more bytes than may be buffered is refused before anything runs; un-keyed it passes (4.8)."""
    handler = Collecting()
    service = await serve({"Do": client_stream(handler)}, policy=Policy(max_request_bytes=3000))
    big = ["x" * 1000] * 4
    reply = await service.blocking("Do", *big, metadata=[(KEY, new_key()), (COUNT, "4")])
    assert (reply.status, reply.mark) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "refused")
    assert "3000 bytes" in reply.details
    assert handler.lengths == []
    assert (await service.blocking("Do", *big)).status is OK
    assert (await service.call("Do", *big[:2], key=new_key())).mark == "executed"


@pytest.mark.parametrize("effects", [Effects.OPAQUE, Effects.REPEATABLE])
async def test_empty_messages_count_as_well(serve: Servers, effects: Effects) -> None:
    """Messages take room though they are empty: as many as fit run, and more are refused when they are announced."""
    handler = Collecting()
    policy = Policy(effects=effects, max_request_bytes=1024)
    service = await serve({"Do": client_stream(handler)}, policy=policy)
    key = new_key()
    for mark in ("executed", "replayed"):
        assert (await service.call("Do", *[""] * 16, key=key)).mark == mark
    for number, sent in ((17, 17), (40_000, 0), (10**17, 1)):  # nothing of it need come
        reply = await service.blocking("Do", *[""] * sent, metadata=[(KEY, new_key()), (COUNT, str(number))])
        assert (reply.status, reply.mark) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "refused")
        assert "1024 bytes" in reply.details
        assert str(number) in reply.details
    assert handler.lengths == [16]
    assert len(await service.records()) == 1


async def test_a_stream_is_judged_while_it_comes(serve: Servers) -> None:
    """A message that is none is answered before the rest has come; a number comes first in any case (2.3, 4.8)."""
    handler = Collecting()
    service = await serve({"Do": client_stream(handler)})
    answered = threading.Event()

    def broken() -> Iterator[bytes]:
        yield b"\xff\xff\xff"
        answered.wait(20)  # the rest never comes

    def answer(count: str) -> grpc.StatusCode:
        answered.clear()
        with grpc.insecure_channel(service.target) as channel:
            stub: Any = channel.stream_stream(full("Do"))
            call = stub(broken(), timeout=20, metadata=((KEY, new_key()), (COUNT, count)))
            with suppress(grpc.RpcError):
                list(call)
            answered.set()
            code: grpc.StatusCode = call.code()
            return code

    assert await asyncio.to_thread(answer, "3") is grpc.StatusCode.INTERNAL
    assert await asyncio.to_thread(answer, "x") is INVALID_ARGUMENT
    assert (handler.lengths, await service.records()) == ([], [])


async def test_attached_client_streams(serve: Servers) -> None:
    """Whole client-streams of one key at one time are one execution (4.1, 4.3)."""
    handler = Collecting()
    service = await serve({"Do": client_stream(handler)}, max_waiters=7)
    key = new_key()
    replies = await asyncio.gather(*(service.call("Do", *MESSAGES, key=key) for _ in range(8)))
    assert {reply.texts[0] for reply in replies} == {"a b c d"}
    assert [reply.mark for reply in replies].count("executed") == 1
    assert handler.lengths == [4]


async def cut_off(service: Service, key: str, chance: random.Random) -> None:
    """A call that is cancelled before its last message."""
    stub: Any = service.channel.stream_unary(full("Do"))
    call = stub(metadata=((KEY, key), (COUNT, "4")), timeout=60)
    for message in MESSAGES[: chance.randint(1, 3)]:
        await call.write(text(message).SerializeToString())
    if chance.random() < 0.5:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_streams_that_are_cut_off(serve: Servers) -> None:
    """Of 500 client-streams cancelled before their last message no handler saw a shortened one; retries run (4.8)."""
    handler, chance = Collecting(), random.Random(1)
    service = await serve({"Do": client_stream(handler)}, workers=16)
    keys = [new_key() for _ in range(500)]
    for batch in range(0, 500, 50):
        await asyncio.gather(*(cut_off(service, key, chance) for key in keys[batch : batch + 50]))
    await until(service.is_idle)
    retries = [await service.call("Do", *MESSAGES, key=key) for key in keys[::25]]
    assert [reply.mark for reply in retries] == ["executed"] * 20
    assert handler.lengths == [4] * 20
    assert len(await service.records()) == 20


# Bidirectional


async def test_a_keyed_bidirectional_stream(serve: Servers) -> None:
    """A bidirectional stream with a key is refused, whatever else comes with it; without one it passes (2.3, 4.8)."""
    echo = Echo()
    service = await serve(echo.methods())
    for more in ([], [(COUNT, "2")]):
        reply = await service.blocking("Bidirectional", "a", "b", metadata=[(KEY, new_key()), *more])
        refused(reply, "STREAMING_UNSUPPORTED", grpc.StatusCode.UNIMPLEMENTED)
    assert echo.runs == 0
    reply = await service.blocking("Bidirectional", "a", "b")
    assert (reply.texts, reply.mark) == (["a", "b"], None)
