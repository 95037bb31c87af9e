"""No caller ever hangs: however a handler ends, its client hears of it at once (4.5, 4.7)."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from ..harness.handlers import Method, bidirectional, client_stream, server_stream, unary
from ..harness.replies import new_key, text
from ..harness.servers import Servers

AT_ONCE = 8.0
"""Seconds, on a busy machine; a call's deadline is a minute."""
KEYED = ("Unary", "ServerStream", "ClientStream")
WAYS = [
    (method, keyed) for method in (*KEYED, "Bidirectional") for keyed in (False, True) if method in KEYED or not keyed
]


class Impossible(BaseException):
    """What no ``except Exception`` catches."""


class Ending:
    """Handlers that all end in one way; those that stream, after a message."""

    def __init__(self, how: str) -> None:
        self._how = how

    def methods(self) -> dict[str, Method]:
        return {
            "Unary": unary(self.unary),
            "ServerStream": server_stream(self.streaming),
            "ClientStream": client_stream(self.unary),
            "Bidirectional": bidirectional(self.streaming),
        }

    async def unary(self, _request: Any, context: Any) -> StringValue:
        await self._end(context)
        return text("unreachable, but where an abort is swallowed")

    async def streaming(self, _request: Any, context: Any) -> AsyncIterator[StringValue]:
        yield text("one")
        await self._end(context)

    async def _end(self, context: Any) -> None:
        match self._how:
            case "cancelled":
                raise asyncio.CancelledError
            case "cancels a task that it waits for":
                task = asyncio.ensure_future(asyncio.sleep(600))
                asyncio.get_running_loop().call_soon(task.cancel)
                await task
            case "aborts with OK":
                await context.abort(grpc.StatusCode.OK, "all is well")
            case "raises what nobody catches":
                raise Impossible("password=hunter2")
            case _:
                raise AssertionError


ENDS = (
    "cancelled",
    "cancels a task that it waits for",
    "aborts with OK",
    "raises what nobody catches",
)


@pytest.mark.parametrize(("method", "keyed"), WAYS)
@pytest.mark.parametrize("how", ENDS)
async def test_every_way_to_end(serve: Servers, kind: str, how: str, method: str, keyed: bool) -> None:
    """Cancelled from inside, abort(OK), a BaseException: the client hears of an error, at once (4.5, 4.7)."""
    if sys.version_info < (3, 11) and kind == "async" and not keyed and how in ENDS[:2]:
        pytest.skip("before Python 3.11 it can't be told from a cancellation of the call, and is left to grpc")
    service = await serve(Ending(how).methods())
    key = new_key() if keyed else None
    reply = await service.call(method, "a", key=key, within=AT_ONCE)
    assert reply.status is not grpc.StatusCode.OK
    assert "hunter2" not in repr(reply)
    if keyed:  # what it did nobody knows: it is held, or the error is its outcome
        again = await service.call(method, "a", key=key, within=AT_ONCE)
        assert again.status is not grpc.StatusCode.OK
        assert again.mark in ("replayed", "refused")


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration, GeneratorExit, KeyError])
@pytest.mark.parametrize("kind", ["thread", "sync"])
async def test_what_a_future_can_not_carry(serve: Servers, error: type[BaseException], keyed: bool) -> None:
    """A ``def`` handler that lets a StopIteration out, say by ``next``, is answered for as any other (4.7, 4.10)."""

    def do(_request: Any, _context: Any) -> StringValue:
        raise error

    service = await serve({"Unary": unary(do, native=True)})
    reply = await service.call("Unary", "a", key=new_key() if keyed else None, within=AT_ONCE)
    assert (reply.status, reply.details) == (grpc.StatusCode.UNKNOWN, "internal error")
