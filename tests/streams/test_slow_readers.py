"""Server-streams whose readers are slower than their handlers (4.3, 4.8)."""

import asyncio

import grpc
import grpc.aio

from grpc_idempotency import Policy, State

from ..harness.handlers import server_stream
from ..harness.replies import new_key, refused
from ..harness.servers import Servers
from ..harness.waiting import ms, until
from .sending import FAILED_PRECONDITION, Steps, texts

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
