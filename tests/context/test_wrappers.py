"""What public wrappers, generated code and proxies do with a context works in a keyed call too (2.4, 4.7)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.wrappers_pb2 import StringValue

from ..harness.handlers import Method
from ..harness.replies import CREATED, STATUS, Reply, new_key, text
from ..harness.servers import Servers

UNKNOWN, INTERNAL, CANCELLED = grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED
EVERY_KIND = pytest.mark.parametrize("kind", ["async", "thread", "sync"])


@pytest_asyncio.fixture
async def serve(kind: str, tmp_path: Path) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield Servers(kind, tmp_path, stack)


async def thrice(serve: Servers, do: Callable[[Any, Any], Any], **method: Any) -> list[Reply]:
    """An un-keyed call, a keyed one and its retry."""
    service = await serve({"Do": Method(run=do, **method)})
    key = new_key()
    return [await service.call("Do", "a", key=key, timeout=20) for key in (None, key, key)]


@EVERY_KIND
async def test_a_method_that_is_not_overridden(serve: Servers) -> None:
    """A method that a generated servicer leaves out is UNIMPLEMENTED, with a key and without, and replayed so."""

    async def do(_request: Any, context: Any) -> None:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("Method not implemented!")
        raise NotImplementedError("Method not implemented!")

    replies = await thrice(serve, do)
    assert {(reply.status, reply.details) for reply in replies} == {
        (grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")
    }
    assert [reply.mark for reply in replies] == [None, "executed", "replayed"]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_wrapper_that_asks_for_the_code(serve: Servers) -> None:
    """The usual wrapper, which makes INTERNAL of an exception where no code was set, does so for a keyed call."""

    async def do(_request: Any, context: Any) -> StringValue:
        try:
            raise LookupError("password=hunter2")
        except Exception:
            if context.code() is None:
                context.set_code(INTERNAL)
                context.set_details("sorry")
        return text("")

    replies = await thrice(serve, do)
    assert {(reply.status, reply.details, reply.message) for reply in replies} == {(INTERNAL, "sorry", None)}


@pytest.mark.parametrize("kind", ["sync"])
async def test_what_wrappers_look_up(serve: Servers) -> None:
    """On grpc.server wrappers find the call's method and the state of its answer where gRPC's own context has them."""
    seen: list[Any] = []

    async def do(_request: Any, context: Any) -> StringValue:
        event, state = context.live._rpc_event, context.live._state
        with state.condition:
            before = state.code, state.details, state.trailing_metadata, state.aborted, state.client
        state.code, state.trailing_metadata = grpc.StatusCode.NOT_FOUND, (("x-t", "v"),)
        context.set_details("gone")
        seen.append((event.call_details.method, type(event.invocation_metadata), before, context.code(), state.details))
        return text("")

    replies = await thrice(serve, do)
    assert {(reply.status, reply.details, reply.plain.trailers) for reply in replies} == {
        (grpc.StatusCode.NOT_FOUND, "gone", (("x-t", "v"),))
    }
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", ["sync"])
async def test_trailers_that_are_changed_after_they_were_set(serve: Servers) -> None:
    """On grpc.server what counts of a list of trailers is what is in it at the end."""

    async def do(_request: Any, context: Any) -> StringValue:
        trailers = [("x-t", "v")]
        context.set_trailing_metadata(trailers)
        context.trailing_metadata().append(("x-t", "w"))
        return text("")

    replies = await thrice(serve, do)
    assert {reply.plain.trailers for reply in replies} == {(("x-t", "v"), ("x-t", "w"))}


@pytest.mark.parametrize("kind", ["sync"])
async def test_a_handler_that_cancels_its_call(serve: Servers) -> None:
    """``cancel()`` on grpc.server ends the call with CANCELLED; a keyed one when its handler has ended."""

    async def do(_request: Any, context: Any) -> StringValue:
        context.set_trailing_metadata((("x-t", "v"),))
        assert context.cancel() is None
        while context.is_active():  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.01)
        return text("too late")

    replies = await thrice(serve, do)
    assert {(reply.status, reply.details, reply.plain.trailers, reply.message) for reply in replies} == {
        (CANCELLED, "CANCELLED", (), None)
    }
    assert [reply.mark for reply in replies][1:] == ["executed", "replayed"]


@EVERY_KIND
async def test_the_trailers_of_another_server_with_keys(serve: Servers) -> None:
    """A proxy passes on what it heard; the keyed call's own ``idempotency-`` trailers then come once (2.2)."""

    async def do(_request: Any, context: Any) -> StringValue:
        context.set_trailing_metadata(((STATUS, "attached"), ("x-t", "v"), (CREATED, "yesterday")))
        return text("passed on")

    unkeyed, first, second = await thrice(serve, do)
    assert unkeyed.trailers == ((STATUS, "attached"), ("x-t", "v"), (CREATED, "yesterday"))
    assert [(reply.mark, reply.plain.trailers) for reply in (first, second)] == [
        ("executed", (("x-t", "v"),)),
        ("replayed", (("x-t", "v"),)),
    ]
    assert second.trailer(CREATED) not in (None, "yesterday")


@EVERY_KIND
@pytest.mark.parametrize("data", [None, "text", memoryview(b"m"), bytearray(b"b"), LookupError("password=hunter2")])
async def test_a_serializer_that_misbehaves(serve: Servers, kind: str, data: object) -> None:
    """A response that does not become bytes fails the call at once, and that failure is kept."""

    def serialize(_message: object) -> object:
        if isinstance(data, Exception):
            raise data
        return data

    odd: Any = SimpleNamespace(SerializeToString=serialize)

    async def do(_request: Any, _context: Any) -> StringValue:
        return text("")

    service = await serve({"Do": Method(run=do, reply=odd)})
    key = new_key()
    first, second = [await service.call("Do", "a", key=key, timeout=20) for _ in range(2)]
    expected = (INTERNAL, "Failed to serialize response!") if kind == "sync" else (UNKNOWN, "internal error")
    assert (first.status, first.details, first.mark) == (*expected, "executed")
    assert (second.plain, second.mark) == (first.plain, "replayed")
