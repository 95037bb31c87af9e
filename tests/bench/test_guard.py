"""The hand-written guard that the benchmark compares with does what such a guard is written for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from bench.aio_handlers import connect
from bench.guard import TABLE, Guard

Handle = Callable[[StringValue, Any], Awaitable[StringValue]]
Call = Callable[..., Awaitable[str]]


@asynccontextmanager
async def guarded(folder: Path, handle: Handle) -> AsyncIterator[Call]:
    """A server behind the guard, on a file in this folder; yields what calls it."""
    db = await connect(str(folder / "guard.db"), "FULL", isolation_level="DEFERRED")
    await db.execute(TABLE)
    server = grpc.aio.server(interceptors=[Guard(db)])
    handler = grpc.unary_unary_rpc_method_handler(handle, StringValue.FromString, StringValue.SerializeToString)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bench.Echo", {"Say": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        say = channel.unary_unary(
            "/bench.Echo/Say",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )

        async def call(text: str, key: str | None) -> str:
            metadata = () if key is None else (("idempotency-key", key),)
            reply: StringValue = await say(StringValue(value=text), metadata=metadata)
            return reply.value

        yield call
    await server.stop(None)
    await db.close()


class Counting:
    """A handler that answers how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    async def handle(self, request: StringValue, _context: Any) -> StringValue:
        self.runs += 1
        return StringValue(value=f"{request.value} {self.runs}")


async def test_a_repeat_gets_the_first_reply(tmp_path: Path) -> None:
    """One execution per key, and each call without a key is one; the first reply outlives the server."""
    handler = Counting()
    async with guarded(tmp_path, handler.handle) as call:
        assert [await call("a", key) for key in ("k1", "k1", "k2", None, None)] == ["a 1", "a 1", "a 2", "a 3", "a 4"]
    async with guarded(tmp_path, handler.handle) as call:
        assert await call("a", "k1") == "a 1"


async def test_repeats_at_once_run_once(tmp_path: Path) -> None:
    """Of calls that come together under one key one is run; the others get its reply or are told that it runs."""
    begun, go = asyncio.Event(), asyncio.Event()
    handler = Counting()

    async def waiting(request: StringValue, context: Any) -> StringValue:
        begun.set()
        await go.wait()
        return await handler.handle(request, context)

    async with guarded(tmp_path, waiting) as call:
        first = asyncio.ensure_future(call("a", "k"))
        await begun.wait()
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError, match="is running") as refused:
                await call("a", "k")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        go.set()
        assert await first == "a 1"
        assert await call("a", "k") == "a 1"


async def test_many_keys_at_once(tmp_path: Path) -> None:
    """Calls that share commits keep their own replies."""
    handler = Counting()
    async with guarded(tmp_path, handler.handle) as call:
        first = await asyncio.gather(*(call("a", f"k{number}") for number in range(50)))
        again = await asyncio.gather(*(call("a", f"k{number}") for number in range(50)))
    assert first == again
    assert len(set(first)) == handler.runs == 50


async def test_another_request_is_refused(tmp_path: Path) -> None:
    """A key that came with another request gets no reply."""
    async with guarded(tmp_path, Counting().handle) as call:
        await call("a", "k")
        with pytest.raises(grpc.aio.AioRpcError, match="another request") as refused:
            await call("b", "k")
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_failure_frees_the_key(tmp_path: Path) -> None:
    """What failed is not kept: the retry runs."""
    handler = Counting()

    async def failing_first(request: StringValue, context: Any) -> StringValue:
        reply = await handler.handle(request, context)
        if handler.runs == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
        return reply

    async with guarded(tmp_path, failing_first) as call:
        with pytest.raises(grpc.aio.AioRpcError, match="try again"):
            await call("a", "k")
        assert await call("a", "k") == "a 2"
