"""Calls without a key to methods with a ``request_id``: known to be un-keyed only once their message is read (2.4).

Each handler is served bare and behind the interceptor, and what the bare server does is the measure.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, IdempotencyInterceptor, MemoryStore, Policy, aio

from ..harness.handlers import Method, generic_handler
from ..harness.protos import declare
from ..harness.replies import text
from ..harness.servers import Server

PACKAGE = "test.streams.aip155"
SOON = 20.0
"""Seconds after which something has failed to happen."""

Request = declare(PACKAGE, ["request_id"], {"Unary": False, "Stream": True})
Handler = Callable[[Any, grpc.ServicerContext], Any]
Serve = Callable[..., Any]


@pytest.fixture(params=["bare", "opaque", "transactional"])
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """Serves a handler, as ``Unary`` or ``Stream``; gives the client's side of it, which sends empty requests."""
    with ExitStack() as stack:
        policy = Policy(max_response_bytes=1_000)
        if request.param == "transactional":
            policy = Policy(max_response_bytes=1_000, effects=Effects.TRANSACTIONAL)

        def start(handler: Handler, *, streams: bool = False) -> Any:
            interceptors: list[grpc.ServerInterceptor] = []
            if request.param != "bare":
                store = MemoryStore()
                store.transaction = None  # type: ignore[attr-defined]  # so that such a policy is taken; none is begun
                interceptor = IdempotencyInterceptor(store, policy=policy)
                stack.callback(interceptor.close)
                interceptors.append(interceptor)
            pool = stack.enter_context(ThreadPoolExecutor(2, thread_name_prefix="of the server"))
            server = grpc.server(pool, interceptors=interceptors, options=[("grpc.so_reuseport", 0)])
            make: Any = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
            name = "Stream" if streams else "Unary"
            served = make(handler, Request.FromString, StringValue.SerializeToString)
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(f"{PACKAGE}.Service", {name: served}),)
            )
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda: server.stop(None).wait())
            channel: Any = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
            called = channel.unary_stream if streams else channel.unary_unary
            method = called(f"/{PACKAGE}.Service/{name}", Request.SerializeToString, StringValue.FromString)
            return lambda: method.future(Request(), timeout=60) if not streams else method(Request(), timeout=60)

        yield start


@pytest.mark.parametrize("asks", [True, False])
def test_a_stream_ends_with_its_client(serve: Serve, asks: bool) -> None:
    """A cancelled stream's generator ends, whether it asks for its client or not, and leaves no thread behind."""
    ended = threading.Event()

    def watch(_request: Any, context: grpc.ServicerContext) -> Iterator[StringValue]:
        try:
            while not asks or context.is_active():
                yield text("tick")
                time.sleep(0.005)
        finally:
            ended.set()

    call = serve(watch, streams=True)
    before = set(threading.enumerate())
    for _ in range(3):
        ticks = call()
        next(ticks)
        ticks.cancel()
        assert ended.wait(SOON)
        ended.clear()
    more = {thread.name for thread in set(threading.enumerate()) - before}
    assert {name for name in more if name.startswith("grpc-idempotency")} <= {"grpc-idempotency-sweeps"}


def test_nothing_bounds_a_stream(serve: Serve) -> None:
    """No limit on what is kept applies to what is not kept, and messages leave as they come."""
    seen = threading.Event()

    def export(_request: Any, _context: grpc.ServicerContext) -> Iterator[StringValue]:
        yield text("x" * 5_000)
        assert seen.wait(SOON)
        for _ in range(20):
            yield text("x" * 5_000)

    messages = serve(export, streams=True)()
    next(messages)
    seen.set()
    assert len(list(messages)) == 20


def test_a_handler_hears_of_its_client(serve: Serve) -> None:
    """``is_active`` and callbacks tell a handler that its client has gone."""
    began, gone = threading.Event(), threading.Event()
    told: list[bool] = []

    def do(_request: Any, context: grpc.ServicerContext) -> StringValue:
        assert context.is_active()
        context.add_callback(gone.set)
        began.set()
        assert gone.wait(SOON)
        told.append(context.is_active())
        return text("nobody reads this")

    call = serve(do)()
    assert began.wait(SOON)
    call.cancel()
    assert gone.wait(SOON)
    while not told:
        time.sleep(0.001)
    assert told == [False]


def test_it_runs_in_the_servers_thread(serve: Serve) -> None:
    """A handler finds what the pool's initializer left in its thread."""
    names = []

    def do(_request: Any, _context: grpc.ServicerContext) -> StringValue:
        names.append(threading.current_thread().name)
        return text("")

    serve(do)().result()
    assert names[0].startswith("of the server")


def _sets_and_returns_nothing(context: grpc.ServicerContext) -> Any:
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_details("no such thing")


def _sets_and_returns(context: grpc.ServicerContext) -> Any:
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_details("no such thing")
    return text("all the same")


def _returns_nothing(_context: grpc.ServicerContext) -> Any:
    return None


def _returns_another_type(_context: grpc.ServicerContext) -> Any:
    return "hunter2"


def _aborts(context: grpc.ServicerContext) -> Any:
    context.set_trailing_metadata((("x-mine", "1"),))
    context.abort(grpc.StatusCode.ABORTED, "come again")


def _sends_ahead(context: grpc.ServicerContext) -> Any:
    context.send_initial_metadata((("x-ahead", "1"),))
    return text("ok")


WAYS = {
    _sets_and_returns_nothing: ("NOT_FOUND", "no such thing"),
    _sets_and_returns: ("NOT_FOUND", "no such thing"),
    _returns_nothing: ("INTERNAL", "Failed to serialize response!"),
    _returns_another_type: ("INTERNAL", "Failed to serialize response!"),
    _aborts: ("ABORTED", "come again"),
    _sends_ahead: ("OK", ""),
}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_to_answer(serve: Serve, way: Callable[[grpc.ServicerContext], Any]) -> None:
    """Code, details and metadata are the handler's and gRPC's own, and nothing is added."""
    call = serve(lambda _request, context: way(context))()
    call.exception()
    assert (call.code().name, call.details()) == WAYS[way]
    assert [name for name, _ in call.trailing_metadata()] == (["x-mine"] if way is _aborts else [])
    assert [name for name, _ in call.initial_metadata()] == (["x-ahead"] if way is _sends_ahead else [])


@pytest.mark.parametrize(
    ("message", "told"),
    [(None, ("OK", "")), ("hunter2", ("INTERNAL", "Failed to serialize response!"))],
    ids=["nothing", "another type"],
)
def test_a_stream_of_what_is_no_message(serve: Serve, message: Any, told: tuple[str, str]) -> None:
    """A stream ends at what is no message: with OK at None, with INTERNAL at what can't be serialized."""

    def odd(_request: Any, _context: grpc.ServicerContext) -> Iterator[Any]:
        yield text("one")
        yield message
        yield text("two")

    got = []
    call = serve(odd, streams=True)()
    with suppress(grpc.RpcError):
        for one in call:
            got.append(one.value)
    assert (got, call.code().name, call.details()) == (["one"], *told)


def test_an_exceptions_text_stays(serve: Serve, request: pytest.FixtureRequest) -> None:
    """All that is not as it were without the interceptor: the text of an exception does not leave the server (4.7)."""

    def do(_request: Any, _context: grpc.ServicerContext) -> Any:
        raise LookupError("hunter2")

    call = serve(do)()
    call.exception()
    assert call.code() is grpc.StatusCode.UNKNOWN
    bare = request.node.callspec.params["serve"] == "bare"
    assert call.details() == ("Exception calling application: hunter2" if bare else "internal error")


# On grpc.aio


@pytest.fixture(params=["bare", "opaque", "transactional"])
async def serve_aio(request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """The same on ``grpc.aio``; the client is on asyncio, too."""
    async with AsyncExitStack() as stack:
        effects = Effects.TRANSACTIONAL if request.param == "transactional" else Effects.OPAQUE

        async def start(handler: Any, *, streams: bool = False) -> Any:
            interceptors: list[grpc.aio.ServerInterceptor] = []
            if request.param != "bare":
                store = aio.MemoryStore()
                store.transaction = None  # type: ignore[attr-defined]  # so that such a policy is taken; none is begun
                policy = Policy(max_response_bytes=1_000, effects=effects)
                interceptor = aio.IdempotencyInterceptor(store, policy=policy)
                stack.push_async_callback(interceptor.close)
                interceptors.append(interceptor)
            server, name = Server("async", interceptors), "Stream" if streams else "Unary"
            method = Method(run=handler, gives_stream=streams, native=True, request=Request)
            server.add(generic_handler("async", {name: method}, f"{PACKAGE}.Service"))
            target = await server.start()
            stack.push_async_callback(server.stop)
            channel: Any = await stack.enter_async_context(grpc.aio.insecure_channel(target))
            called = channel.unary_stream if streams else channel.unary_unary
            call = called(f"/{PACKAGE}.Service/{name}", Request.SerializeToString, StringValue.FromString)
            return lambda: call(Request(), timeout=60)

        yield start


class Ticking:
    """A stream that goes on until it is ended, as each kind of handler."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    async def generator(self, _request: Any, _context: Any) -> AsyncIterator[StringValue]:
        try:
            while True:
                yield text("tick")
                await asyncio.sleep(0.005)
        finally:
            self.ended.set()

    async def writer(self, _request: Any, context: Any) -> None:
        try:
            while True:
                await context.write(text("tick"))
                await asyncio.sleep(0.005)
        finally:
            self.ended.set()

    def on_thread(self, _request: Any, _context: Any) -> Iterator[StringValue]:
        try:
            while True:
                yield text("tick")
                time.sleep(0.005)
        finally:
            self.ended.set()


@pytest.mark.parametrize("how", ["generator", "writer", "on_thread"])
async def test_a_stream_ends_with_its_client_on_aio(serve_aio: Serve, how: str, request: pytest.FixtureRequest) -> None:
    """A cancelled stream's handler ends, of whichever kind it is."""
    if how == "on_thread" and request.node.callspec.params["serve_aio"] == "bare":
        pytest.skip("a bare grpc.aio server never ends a generator on a thread whose client is gone")
    ticking = Ticking()
    call = await serve_aio(getattr(ticking, how), streams=True)
    ticks = call()
    assert (await ticks.read()).value == "tick"
    ticks.cancel()
    with suppress(asyncio.CancelledError):
        await ticks.code()
    assert await asyncio.to_thread(ticking.ended.wait, SOON)


@pytest.mark.parametrize("how", ["async", "on_thread"])
async def test_nothing_bounds_a_stream_on_aio(serve_aio: Serve, how: str) -> None:
    """No limit on what is kept applies to what is not kept, and messages leave as they come."""
    seen = threading.Event()

    async def export(_request: Any, _context: Any) -> AsyncIterator[StringValue]:
        yield text("x" * 5_000)
        assert await asyncio.to_thread(seen.wait, SOON)
        for _ in range(20):
            yield text("x" * 5_000)

    def export_on_thread(_request: Any, _context: Any) -> Iterator[StringValue]:
        yield text("x" * 5_000)
        assert seen.wait(SOON)
        for _ in range(20):
            yield text("x" * 5_000)

    messages = aiter((await serve_aio(export if how == "async" else export_on_thread, streams=True))())
    await anext(messages)
    seen.set()
    assert len([message async for message in messages]) == 20


async def test_a_handler_is_cancelled_with_its_call_on_aio(serve_aio: Serve) -> None:
    """An un-keyed handler in the loop hears of its client as on a bare server: it is cancelled, and told."""
    began, over = asyncio.Event(), asyncio.Event()
    told: list[bool] = []

    async def do(_request: Any, context: Any) -> StringValue:
        context.add_done_callback(lambda _: over.set())
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append(True)
            raise
        return text("nobody reads this")

    call = (await serve_aio(do))()
    await began.wait()
    call.cancel()
    await over.wait()
    assert told == [True]
