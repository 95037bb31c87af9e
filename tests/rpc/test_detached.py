"""Once claimed, an operation runs to its end, whatever becomes of the call (4.4)."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Policy, State

from ..harness.handlers import Blocking
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, ms, until


async def test_a_client_that_disconnects(serve: Servers) -> None:
    """A client that goes away ends its call and not the operation (4.4)."""
    handler = Blocking()
    service = await serve({"Do": handler})
    client = await serve.client(service.target)
    key = new_key()
    call = client.start("Do", key=key)
    await handler.began.wait()
    await client.channel.close()
    assert call.call.cancelled()
    await until(service.has_detached)
    handler.go.open()
    assert (await service.call("Do", key=key)).text == "done 1"
    assert handler.runs == 1


@pytest.mark.parametrize("kind", ["async"])
async def test_an_unkeyed_call_is_cancelled_as_ever(serve: Servers) -> None:
    """Without a key a cancelled call cancels its handler, as if the interceptor were not there (2.4)."""
    began, cancelled = Gate(), Gate()

    async def do(_request: Any, _context: Any) -> StringValue:
        began.open()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.open()
            raise
        return text("never")

    service = await serve({"Do": do})
    call = service.start("Do")
    await began.wait()
    call.cancel()
    await cancelled.wait()


async def test_a_waiting_duplicate_that_goes_away(serve: Servers) -> None:
    """A duplicate that is cancelled while it waits changes nothing for the first call (4.3, 4.4)."""
    handler = Blocking()
    service = await serve({"Do": handler})
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began.wait()
    second = service.start("Do", key=key)
    await until(lambda: service.is_followed(2))
    second.cancel()
    await until(lambda: service.is_followed(1))
    handler.go.open()
    assert ((await first).text, (await first).mark) == ("done 1", "executed")


async def test_an_execution_limit_for_those_nobody_watches(serve: Servers) -> None:
    """The execution limit ends a detached operation too; it is held, since nobody knows what it did (4.4, 4.5)."""
    handler = Blocking()
    service = await serve({"Do": handler}, policy=Policy(execution_limit=ms(300)))
    key = new_key()
    call = service.start("Do", key=key)
    await handler.began.wait()
    call.cancel()

    async def held() -> bool:
        return (await service.the_record()).state is State.HELD

    await until(held)
    refused(await service.call("Do", key=key), "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
    handler.go.open()


async def test_the_context_of_a_detached_handler(serve: Servers) -> None:
    """A handler that has outlived its call still gets answers from its context (4.4)."""
    began, go, seen = Gate(), Gate(), dict[str, Any]()

    async def do(_request: Any, context: Any) -> StringValue:
        began.open()
        await go.wait()
        seen.update(
            peer=context.peer(),
            left=context.time_remaining(),
            metadata=[entry for entry in context.invocation_metadata() if entry[0] == "x-me"],
        )
        context.set_trailing_metadata((("x-late", "1"),))
        return text("late")

    service = await serve({"Do": do})
    key = new_key()
    call = service.start("Do", key=key, metadata=[("x-me", "ann")], timeout=20)
    await began.wait()
    call.cancel()
    await until(service.has_detached)
    go.open()
    retry = await service.call("Do", key=key)
    assert (retry.text, retry.trailer("x-late")) == ("late", "1")
    assert seen["peer"].startswith("ipv4:127.0.0.1")
    assert 0 < seen["left"] < 21  # gRPC rounds a deadline up
    assert seen["metadata"] == [("x-me", "ann")]
