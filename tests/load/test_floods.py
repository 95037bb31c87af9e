"""The health of a server under duplicates: they hold up neither its threads nor its other calls (4.3)."""

import asyncio
import collections
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ..harness.handlers import Method, client_stream, server_stream, unary
from ..harness.replies import Reply, new_key, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, until

DUPLICATES = 200


class Slow:
    """Handlers that end when they are let; the one that streams gives a message before."""

    def __init__(self) -> None:
        self.runs = 0
        self.began = Gate()
        self.go = Gate()

    def methods(self) -> dict[str, Method]:
        return {
            "Unary": unary(self.unary),
            "ServerStream": server_stream(self.server_stream),
            "ClientStream": client_stream(self.unary),
        }

    async def unary(self, _request: Any, _context: Any) -> StringValue:
        self.runs += 1
        self.began.open()
        await self.go.wait(60)
        return text("done")

    async def server_stream(self, _request: Any, _context: Any) -> AsyncIterator[StringValue]:
        self.runs += 1
        yield text("one")
        self.began.open()
        await self.go.wait(60)
        yield text("two")


def add_health(kind: str, server: Any) -> None:
    servicer: Any = health.HealthServicer() if kind == "sync" else health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


class Monitor:
    """Asks for the server's health all the while; counts the answers."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = health_pb2_grpc.HealthStub(channel)
        self._task = asyncio.ensure_future(self._watch())
        self.answered = 0

    async def _watch(self) -> None:
        while True:
            reply = await self._stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
            self.answered += 1
            await asyncio.sleep(0.01)

    def again(self, times: int) -> Callable[[], Awaitable[bool]]:
        """Tells when it was answered for so many more times."""
        enough = self.answered + times

        async def reached() -> bool:
            return self.answered >= enough

        return reached

    async def end(self) -> None:
        assert not self._task.done() or self._task.result() is None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def flood(serve: Servers, method: str, **options: Any) -> list[Reply]:
    """Makes a call and, while it runs, 200 duplicates; it ends once those that can be are answered, and health is."""
    slow = Slow()
    service = await serve(slow.methods(), add=lambda server: add_health(serve.kind, server), **options)
    key = new_key()
    first = asyncio.ensure_future(service.call(method, "a", key=key, within=60))
    await slow.began.wait()
    elsewhere = await serve.client(service)
    monitor = Monitor(elsewhere.channel)
    rest = [asyncio.ensure_future(service.call(method, "a", key=key, within=60)) for _ in range(DUPLICATES)]
    if serve.kind == "sync":
        waiters = options.get("max_waiters", 2)
        while sum(task.done() for task in rest) < DUPLICATES - waiters:
            await asyncio.wait([task for task in rest if not task.done()], return_when=asyncio.FIRST_COMPLETED)
    else:
        await until(lambda: service.is_followed(DUPLICATES + 1))
    await until(monitor.again(10))
    slow.go.open()
    replies = await asyncio.gather(first, *rest)
    await monitor.end()
    assert slow.runs == 1
    return replies


@pytest.mark.parametrize("method", ["Unary", "ServerStream", "ClientStream"])
@pytest.mark.parametrize("kind", ["sync"])
async def test_a_flood_on_threads(serve: Servers, method: str) -> None:
    """200 duplicates on 8 threads: two wait, the rest is told to come again, health is answered all along (4.3)."""
    replies = await flood(serve, method)
    assert collections.Counter(reply.mark for reply in replies) == {"executed": 1, "attached": 2, "refused": 198}
    for reply in replies:
        if reply.mark == "refused":
            assert (reply.reason, reply.status) == ("IN_FLIGHT", grpc.StatusCode.UNAVAILABLE)
            assert int(str(reply.trailer("grpc-retry-pushback-ms"))) > 0
        else:
            assert reply.plain == replies[0].plain


@pytest.mark.parametrize("method", ["Unary", "ServerStream", "ClientStream"])
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_flood_on_asyncio(serve: Servers, method: str) -> None:
    """200 duplicates on asyncio all wait, without a thread for any, and all get the one outcome (4.3)."""
    replies = await flood(serve, method)
    assert collections.Counter(reply.mark for reply in replies) == {"executed": 1, "attached": DUPLICATES}
    assert len({reply.plain for reply in replies}) == 1


@pytest.mark.parametrize("waiters", [0, 1, 4])
@pytest.mark.parametrize("kind", ["sync"])
async def test_so_many_waiters(serve: Servers, waiters: int) -> None:
    """``max_waiters`` duplicates may hold up a thread each, and no more (4.3, 4.11)."""
    replies = await flood(serve, "Unary", max_waiters=waiters)
    marks = collections.Counter(reply.mark for reply in replies)
    assert marks == collections.Counter(executed=1, attached=waiters, refused=DUPLICATES - waiters)


@pytest.mark.parametrize("method", ["Unary", "ServerStream", "ClientStream"])
@pytest.mark.parametrize("kind", ["sync"])
async def test_a_waiter_that_goes_away_makes_room(serve: Servers, method: str) -> None:
    """A waiting duplicate whose client goes gives its place to the next (4.3)."""
    slow = Slow()
    service = await serve(slow.methods(), max_waiters=1)
    key = new_key()
    first = service.start(method, "a", key=key)
    await slow.began.wait()
    for _ in range(3):
        waiting = service.start(method, "a", key=key)
        await until(lambda: service.is_followed(2))
        waiting.cancel()
        await until(lambda: service.is_followed(1))
    slow.go.open()
    assert (await first.end()).mark == "executed"
