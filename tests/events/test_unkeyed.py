"""Calls that may have a key and turn out to have none are told by their status code."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency.events import CallAnswered

from ..harness.handlers import Method, server_stream, unary
from ..harness.protos import declare
from ..harness.replies import text
from ..harness.servers import Servers
from ..harness.waiting import Gate
from .recording import Recorder, line

PACKAGE = "test.events.aip155"
Request = declare(PACKAGE, ["request_id"], {"Unary": False, "Stream": True})

Act = Callable[[Any], Any]


async def returns(_context: Any) -> None:
    """Answers OK."""


async def aborts(context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")


async def sets(context: Any) -> None:
    context.set_code(grpc.StatusCode.NOT_FOUND)


async def raises(_context: Any) -> None:
    raise ValueError("for the test")


def serving(act: Act, *, streams: bool) -> dict[str, Method]:
    """Returns a method whose handler acts, and then answers with one message."""

    async def one(_request: Any, context: Any) -> StringValue:
        await act(context)
        return text("done")

    async def many(_request: Any, context: Any) -> AsyncIterator[StringValue]:
        await act(context)
        yield text("done")

    if streams:
        return {"Stream": server_stream(many, request=Request)}
    return {"Unary": unary(one, request=Request)}


@pytest.mark.parametrize("streams", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize(
    ("act", "code"),
    [(returns, "ok"), (aborts, "unauthenticated"), (sets, "not_found"), (raises, "unknown")],
    ids=["returns", "aborts", "sets a code", "raises"],
)
async def test_by_its_code(serve: Servers, heard: Recorder, act: Act, code: str, streams: bool) -> None:
    """It has no status, no reason and no operation."""
    service = await serve(serving(act, streams=streams), service=f"{PACKAGE}.Service", observers=[heard], attach=False)
    reply = await service.call("Stream" if streams else "Unary", b"")
    assert reply.status.name.lower() == code
    await heard.answered(1)
    (answer,) = heard.of(CallAnswered)
    assert isinstance(answer, CallAnswered)
    assert line(answer) == f"CallAnswered {code}"
    assert (answer.operation, answer.trace, answer.waited, answer.age) == (None, b"", 0, None)
    assert answer.method == f"/{PACKAGE}.Service/{'Stream' if streams else 'Unary'}"


@pytest.mark.parametrize("streams", [False, True], ids=["unary", "stream"])
async def test_a_client_that_goes_away(serve: Servers, heard: Recorder, streams: bool) -> None:
    """It is told as cancelled, once its handler has ended."""
    began, gone, go = Gate(), Gate(), Gate()

    async def waits(context: Any) -> None:
        if serve.kind == "sync":
            context.add_callback(gone.open)
        began.open()
        await go.wait()

    methods = serving(waits, streams=streams)
    service = await serve(methods, service=f"{PACKAGE}.Service", observers=[heard], attach=False)
    call = service.start("Stream" if streams else "Unary", b"")
    await began.wait()
    call.cancel()
    if serve.kind == "sync":  # a thread can't be told to end
        await gone.wait()
        go.open()
    await heard.answered(1)
    go.open()
    assert [line(event) for event in heard.of(CallAnswered)] == ["CallAnswered cancelled"]
