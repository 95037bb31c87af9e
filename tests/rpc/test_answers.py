"""What a keyed call's answer carries, and what an un-keyed one does not (2.2, 2.4)."""

import asyncio
import re
from datetime import datetime, timezone
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from ..harness.handlers import Blocking, Counting
from ..harness.replies import CREATED, STATUS, new_key, text
from ..harness.servers import Servers
from ..harness.waiting import until


async def test_the_trailers_of_a_success(serve: Servers) -> None:
    """``executed``, then ``replayed`` and when it was stored, in UTC; nothing in initial metadata (2.2)."""
    service = await serve({"Do": Counting()})
    key = new_key()
    bare = await service.call("Do", "same")
    before = datetime.now(timezone.utc)
    first = await service.call("Do", "same", key=key)
    after = datetime.now(timezone.utc)
    second = await service.call("Do", "same", key=key)
    assert first.trailers == ((STATUS, "executed"),)
    assert [name for name, _ in second.trailers] == [STATUS, CREATED]
    assert second.mark == "replayed"
    created = second.trailer(CREATED)
    assert isinstance(created, str)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", created)
    stored = datetime.fromisoformat(created.replace("Z", "+00:00"))
    assert before.timestamp() - 0.01 <= stored.timestamp() <= after.timestamp() + 0.01
    assert first.initial == second.initial == bare.initial
    assert await service.call("Do", "same", key=key) == second


async def test_the_trailers_of_a_failure(serve: Servers) -> None:
    """An answer that is a failure carries the trailers too (2.2)."""

    async def missing(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    service = await serve({"Do": missing})
    key = new_key()
    first, second = [await service.call("Do", key=key) for _ in range(2)]
    assert first.trailers == ((STATUS, "executed"),)
    assert [name for name, _ in second.trailers] == [STATUS, CREATED]
    assert second.plain == first.plain


async def test_the_trailers_of_one_that_attached(serve: Servers) -> None:
    """Who waited for a running duplicate gets ``attached`` (2.2)."""
    handler = Blocking()
    service = await serve({"Do": handler})
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began.wait()
    second = asyncio.ensure_future(service.call("Do", key=key))
    await until(lambda: service.is_followed(2))
    handler.go.open()
    assert (await first).trailers == ((STATUS, "executed"),)
    assert (await second).trailers == ((STATUS, "attached"),)
    assert (await second).plain == (await first).plain


async def test_what_the_handler_sends_ahead_is_the_first_calls_alone(serve: Servers) -> None:
    """The handler's initial metadata reaches the first call; a replay has none of it (4.7)."""

    async def do(_request: Any, context: Any) -> StringValue:
        await context.send_initial_metadata((("x-ahead", "1"),))
        return text("ok")

    service = await serve({"Do": do})
    key = new_key()
    first, second = [await service.call("Do", key=key) for _ in range(2)]
    assert ("x-ahead", "1") in first.initial
    assert ("x-ahead", "1") not in second.initial
    assert second.plain == first.plain


async def test_an_unkeyed_call_is_left_alone(serve: Servers, kind: str) -> None:
    """Without a key every call runs, on gRPC's own context, and nothing is stored, added or waited for (2.4)."""
    contexts = []

    async def do(_request: Any, context: Any) -> StringValue:
        shown = getattr(context, "live", context)
        contexts.append(type(getattr(shown, "_context", shown)).__module__)  # ours stands before it, for abort alone
        context.set_trailing_metadata((("x-mine", "1"),))
        return text("ok")

    service = await serve({"Do": do})
    replies = [await service.call("Do") for _ in range(3)]
    assert {reply.trailers for reply in replies} == {(("x-mine", "1"),)}
    assert contexts == ["grpc._server" if kind == "sync" else "grpc._cython.cygrpc"] * 3
    assert await service.records() == []


async def test_an_unknown_method_is_unimplemented(serve: Servers) -> None:
    """A method that the server does not have is answered as ever, with a key and without (2.4)."""
    service = await serve({"Do": Counting()})
    assert await service.call("Undo", key=new_key()) == await service.call("Undo")


@pytest.mark.parametrize("kind", ["async"])
async def test_a_method_without_side_effects_passes_through(serve: Servers) -> None:
    """A method that its proto marks NO_SIDE_EFFECTS passes through, key or no key (7)."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    package = "test.rpc.reads"
    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorProto(name="test/rpc/reads.proto", package=package, syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    string = ".google.protobuf.StringValue"
    method = file.service.add(name="Service").method.add(name="Get", input_type=string, output_type=string)
    method.options.idempotency_level = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    pool.Add(file)
    handler = Counting()
    service = await serve({"Get": handler}, service=f"{package}.Service")
    key = new_key()
    assert [(await service.call("Get", key=key)).mark for _ in range(2)] == [None, None]
    assert handler.runs == 2
