"""Every kind of handler, and other interceptors outside and inside (4.10)."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from ..harness.handlers import Counting, Method, generic_handler
from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.waiting import Gate

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


async def test_the_thread_that_a_handler_runs_on(serve: Servers, kind: str) -> None:
    """An ``async def`` handler runs on the loop's thread, a ``def`` handler never does (4.10)."""
    threads: list[int] = []

    async def do(_request: Any, _context: Any) -> StringValue:
        threads.append(threading.get_ident())
        return text("ok")

    service = await serve({"Do": do})
    await service.call("Do")
    await service.call("Do", key=new_key())
    on_loop = [thread == threading.get_ident() for thread in threads]
    assert on_loop == [kind == "async"] * 2


@pytest.mark.parametrize("kind", ["thread"])
async def test_a_handler_that_blocks_its_thread(serve: Servers) -> None:
    """A ``def`` handler that blocks holds up no other call (4.10)."""
    began, go = threading.Event(), threading.Event()

    async def blocks(_request: Any, _context: Any) -> StringValue:
        began.set()
        assert go.wait(20)  # on a thread of its own
        return text("ok")

    service = await serve({"Block": blocks, "Do": Counting()})
    call = asyncio.ensure_future(service.call("Block", key=new_key()))
    await asyncio.to_thread(began.wait, 20)
    assert (await service.call("Do", key=new_key())).mark == "executed"
    go.set()
    assert (await call).mark == "executed"


async def test_a_handler_that_is_an_object(serve: Servers) -> None:
    """A callable object or a bound method is a handler as any other (4.10)."""

    class Servicer:
        async def Do(self, request: StringValue, _context: Any) -> StringValue:
            return text(request.value)

    service = await serve({"Do": Servicer().Do})
    assert (await service.call("Do", text("echo"), key=new_key())).text == "echo"


async def test_the_handler_sees_what_came(serve: Servers) -> None:
    """A keyed handler sees the same request, metadata and deadline as an un-keyed one (4.7, 4.10)."""
    seen: list[Any] = []

    async def do(request: StringValue, context: Any) -> StringValue:
        mine = sorted(entry for entry in context.invocation_metadata() if entry[0].startswith("x-"))
        seen.append((request.value, mine, 30 < context.time_remaining() < 51, context.peer().split(":")[0]))
        return text("ok")

    service = await serve({"Do": do})
    metadata = [("x-a", "1"), ("x-b-bin", b"\x00")]
    await service.call("Do", text("hello"), metadata=metadata, timeout=50)
    await service.call("Do", text("hello"), metadata=metadata, timeout=50, key=new_key())
    assert seen[0] == seen[1] == ("hello", metadata, True, "ipv4")


async def test_a_call_without_a_deadline(serve: Servers) -> None:
    """Without a deadline a keyed handler is told what an un-keyed one is told (4.10)."""
    seen: list[Any] = []

    async def do(_request: Any, context: Any) -> StringValue:
        seen.append(context.time_remaining())
        return text("ok")

    service = await serve({"Do": do})
    await service.call("Do", timeout=None, key=new_key())
    await service.call("Do", timeout=None)
    # A grpc.server tells of a deadline at the end of time.
    assert [left is None or left > 1e9 for left in seen] == [True, True]
    assert type(seen[0]) is type(seen[1])


async def test_callbacks_are_called_when_the_handler_has_ended(serve: Servers, kind: str) -> None:
    """A done callback is called once, also one that raises (4.10)."""
    called, ended = [], Gate()

    async def do(_request: Any, context: Any) -> StringValue:
        def broken(*_: Any) -> None:
            raise LookupError("a callback")

        def good(*_: Any) -> None:
            called.append("good")
            ended.open()

        for callback in (broken, good):
            (context.add_done_callback if kind == "async" else context.add_callback)(callback)
        return text("ok")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "ok"
    await ended.wait()
    assert called == ["good"]


# Other interceptors


async def test_an_interceptor_outside_sees_bytes(serve: Servers) -> None:
    """An interceptor outside of ours sees a keyed call's messages as bytes (4.10)."""
    seen: list[type] = []

    class Outside(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            inner = await continuation(details)

            async def outer(request: Any, context: Any) -> Any:
                reply = await inner.unary_unary(request, context)
                seen.extend((type(request), type(reply)))
                return reply

            return grpc.unary_unary_rpc_method_handler(outer, inner.request_deserializer, inner.response_serializer)

    service = await serve({"Do": Counting()}, outside=[Outside()])
    key = new_key()
    first, second = [await service.call("Do", text("a"), key=key) for _ in range(2)]
    assert (first.text, second.text) == ("a run 1", "a run 1")
    assert seen == [bytes] * 4


async def test_an_interceptor_outside_can_refuse(serve: Servers) -> None:
    """An interceptor outside that authenticates is asked for replays too (1)."""

    class Guard(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            if dict(details.invocation_metadata or ()).get("x-token") == "good":
                return await continuation(details)

            async def refuse(_request: Any, context: Any) -> None:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

            return grpc.unary_unary_rpc_method_handler(refuse)

    service = await serve({"Do": Counting()}, outside=[Guard()])
    key = new_key()
    good = [("x-token", "good")]
    assert (await service.call("Do", key=key, metadata=good)).mark == "executed"
    assert (await service.call("Do", key=key)).details == "who are you?"
    assert (await service.call("Do", key=key, metadata=good)).mark == "replayed"


async def test_an_interceptor_inside_sees_messages(serve: Servers, kind: str) -> None:
    """An interceptor inside of ours is part of the execution: it runs once, and sees messages (4.10)."""
    seen: list[Any] = []

    class Inside(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            inner = await continuation(details)

            def wrapped(request: Any, context: Any) -> Any:
                seen.append(type(request))
                return inner.unary_unary(request, context)

            async def awaited(request: Any, context: Any) -> Any:
                return await wrapped(request, context)

            behaviour = wrapped if kind == "thread" else awaited
            return grpc.unary_unary_rpc_method_handler(behaviour, inner.request_deserializer, inner.response_serializer)

    service = await serve({"Do": Counting()}, inside=[Inside()])
    key = new_key()
    first, second = [await service.call("Do", text("a"), key=key) for _ in range(2)]
    assert (first.text, second.text) == ("a run 1", "a run 1")
    assert (first.mark, second.mark, seen) == ("executed", "replayed", [StringValue])


async def test_an_interceptor_inside_that_looks_at_each_call(serve: Servers, kind: str) -> None:
    """An interceptor inside that builds its handler from a call's details is asked for every call (4.10)."""

    class PerCall(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            tenant = dict(details.invocation_metadata or ()).get("x-tenant")
            assert isinstance(tenant, str)
            await continuation(details)

            async def do(_request: Any, _context: Any) -> StringValue:
                return text(f"for {tenant}")

            handler = generic_handler(kind, {"Do": Method(run=do)})
            return handler.service(details)

    service = await serve({"Do": Counting()}, inside=[PerCall()])
    for tenant in ("ann", "bob", "cid"):
        reply = await service.call("Do", key=new_key(), metadata=[("x-tenant", tenant)])
        assert reply.text == f"for {tenant}"


@pytest.mark.parametrize("kind", ["async"])
async def test_many_first_calls_do_not_wait_for_each_other(serve: Servers) -> None:
    """100 keyed handlers that each wait are all under way at once (4.10)."""
    running, everybody = 0, Gate()

    async def do(_request: Any, _context: Any) -> StringValue:
        nonlocal running
        running += 1
        if running == 100:
            everybody.open()
        await everybody.wait()
        return text("ok")

    service = await serve({"Do": do})
    replies = await asyncio.gather(*(service.call("Do", key=new_key()) for _ in range(100)))
    assert {reply.mark for reply in replies} == {"executed"}
