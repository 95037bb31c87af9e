"""Keyed calls are answered as un-keyed ones are, our trailers aside (2.4, 4.7)."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from hypothesis import example, given, settings
from hypothesis import strategies as st

import grpc_idempotency
from grpc_idempotency import Policy, aio

from ..harness.replies import CREATED, KEY, STATUS
from .rig import COUNT

pytestmark = pytest.mark.asyncio(loop_scope="module")

Trailers = tuple[tuple[str, str | bytes], ...]
LARGEST = 4 << 20
WIDE = [("grpc.max_receive_message_length", LARGEST + 1024), ("grpc.max_send_message_length", LARGEST + 1024)]


@dataclass(frozen=True)
class Script:
    """What the handler says: first messages, of these sizes; then how it ends."""

    sizes: tuple[int, ...] = (0,)
    end: str = "return"
    code: str = "NOT_FOUND"
    details: str = ""
    trailers: Trailers = ()

    @property
    def messages(self) -> list[bytes]:
        return [bytes([number % 256]) * size for number, size in enumerate(self.sizes)]

    def settle(self, context: Any) -> None:
        """What both kinds of context have."""
        if self.trailers:
            context.set_trailing_metadata(self.trailers)
        if self.end == "set":
            context.set_code(grpc.StatusCode[self.code])
            context.set_details(self.details)
        if self.end == "raise":
            raise LookupError("password=hunter2")


class Saying:
    """A service that says what its script says, in each kind of call; requests and responses are bytes."""

    script = Script()

    # A handler reads its stream to the end: a client of grpc.aio that still writes when its call ends may hear of an
    # internal error instead.

    async def one(self, requests: Any, context: Any) -> bytes:
        if not isinstance(requests, bytes):
            [message async for message in requests]
        self.script.settle(context)
        if self.script.end == "abort":
            await context.abort(grpc.StatusCode[self.script.code], self.script.details)
        return b"".join(self.script.messages)

    async def many(self, _requests: Any, context: Any) -> AsyncIterator[bytes]:
        for message in self.script.messages:
            yield message
        self.script.settle(context)
        if self.script.end == "abort":
            await context.abort(grpc.StatusCode[self.script.code], self.script.details)

    def one_on_thread(self, requests: Any, context: Any) -> bytes:
        list(requests)
        self.script.settle(context)
        if self.script.end == "abort":
            context.abort(grpc.StatusCode[self.script.code], self.script.details)
        return b"".join(self.script.messages)

    def many_on_thread(self, _requests: Any, context: Any) -> Iterator[bytes]:
        yield from self.script.messages
        self.script.settle(context)
        if self.script.end == "abort":
            context.abort(grpc.StatusCode[self.script.code], self.script.details)

    def handlers(self, kind: str) -> Any:
        one, many = (self.one, self.many) if kind == "aio" else (self.one_on_thread, self.many_on_thread)
        handlers: dict[str, Any] = {
            "unary": grpc.unary_unary_rpc_method_handler(one),
            "server": grpc.unary_stream_rpc_method_handler(many),
            "client": grpc.stream_unary_rpc_method_handler(one),
        }
        return grpc.method_handlers_generic_handler("test.Saying", handlers)


@dataclass(frozen=True)
class Said:
    """What a client heard."""

    status: grpc.StatusCode
    details: str
    messages: tuple[bytes, ...]
    trailers: Trailers

    @property
    def plain(self) -> "Said":
        return replace(self, trailers=tuple(entry for entry in self.trailers if entry[0] not in (STATUS, CREATED)))


class Service:
    def __init__(self, saying: Saying, channel: grpc.aio.Channel) -> None:
        self._saying = saying
        self._keys = itertools.count()
        self._calls: dict[str, Any] = {
            "unary": channel.unary_unary("/test.Saying/unary"),
            "server": channel.unary_stream("/test.Saying/server"),
            "client": channel.stream_unary("/test.Saying/client"),
        }

    async def says_the_same(self, shape: str, script: Script) -> None:
        """Asserts that two calls with one key hear what a call without a key hears."""
        self._saying.script = script
        keyed = ((KEY, f"key {next(self._keys)}"), (COUNT, "2"))
        bare, first, second = [await self._said(shape, metadata) for metadata in ((), keyed, keyed)]
        assert first.plain == bare
        assert second.plain == bare
        assert dict(first.trailers)[STATUS] == "executed"

    async def _said(self, shape: str, metadata: Any) -> Said:
        request: Any = iter([b"a", b"b"]) if shape == "client" else b"a"
        call = self._calls[shape](request, metadata=metadata, timeout=60)
        messages: list[bytes] = []
        try:
            if shape == "server":
                async for message in call:
                    messages.append(message)
            else:
                messages.append(await call)
        except grpc.aio.AioRpcError:
            pass
        return Said(
            await call.code(), await call.details() or "", tuple(messages), tuple(await call.trailing_metadata())
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["aio", "sync"])
async def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    saying, path = Saying(), tmp_path_factory.mktemp("same") / "idempotency.db"
    policy = Policy(max_response_bytes=2 * LARGEST)
    async with AsyncExitStack() as stack:
        port = await (_on_asyncio if request.param == "aio" else _on_threads)(stack, saying, path, policy)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=WIDE)
        yield Service(saying, await stack.enter_async_context(channel))


async def _on_asyncio(stack: AsyncExitStack, saying: Saying, path: Path, policy: Policy) -> int:
    interceptor = aio.IdempotencyInterceptor(aio.SQLiteStore(path), policy=policy)
    server = grpc.aio.server(interceptors=[interceptor], options=WIDE)
    interceptor.attach(server)
    server.add_generic_rpc_handlers((saying.handlers("aio"),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return port


async def _on_threads(stack: AsyncExitStack, saying: Saying, path: Path, policy: Policy) -> int:
    interceptor = grpc_idempotency.IdempotencyInterceptor(grpc_idempotency.SQLiteStore(path), policy=policy)
    server = grpc.server(stack.enter_context(ThreadPoolExecutor(4)), interceptors=[interceptor], options=WIDE)
    interceptor.attach(server)
    server.add_generic_rpc_handlers((saying.handlers("sync"),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    async def stop() -> None:
        await asyncio.to_thread(server.stop(None).wait)

    stack.push_async_callback(stop)
    return port


names = st.from_regex(r"x-[a-z0-9_.]{1,12}", fullmatch=True).filter(lambda name: not name.endswith("-bin"))
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
entries = st.one_of(st.tuples(names, values), st.tuples(names.map(lambda name: f"{name}-bin"), st.binary(max_size=40)))
sizes = st.one_of(st.integers(0, 2000), st.sampled_from([0, 1, 16_383, 16_384, 65_535, 65_536]))
scripts = st.builds(
    Script,
    sizes=st.lists(sizes, max_size=6).map(tuple),
    end=st.sampled_from(["return", "set", "abort", "raise"]),
    code=st.sampled_from([code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]),
    details=st.text(st.characters(exclude_categories=["Cs"]), max_size=100),
    trailers=st.lists(entries, max_size=6).map(tuple),
)
SHAPES = ["unary", "server", "client"]


@settings(max_examples=60, deadline=None)
@given(shape=st.sampled_from(SHAPES), script=scripts)
@example(shape="server", script=Script(sizes=()))
@example(
    shape="server", script=Script(sizes=(0, 0, 0), end="abort", details="ümlaut", trailers=(("x-b-bin", b"\x00"),))
)
@example(shape="unary", script=Script(sizes=()))
async def test_keyed_as_unkeyed(service: Service, shape: str, script: Script) -> None:
    """Statuses, details, trailers (-bin), messages and streams of a keyed call are those of an un-keyed one."""
    await service.says_the_same(shape, script)


@pytest.mark.parametrize("shape", SHAPES)
async def test_large_messages(service: Service, shape: str) -> None:
    """So are messages of 1 and 4 MiB, and streams of them."""
    await service.says_the_same(shape, Script(sizes=(LARGEST,)))
    if shape == "server":
        await service.says_the_same(shape, Script(sizes=(1 << 20, LARGEST, 0, 1 << 20), end="set", details="enough"))
