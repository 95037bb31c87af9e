"""Keyed calls are answered as un-keyed ones are, our trailers aside (2.4, 4.7)."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from grpc_idempotency import Policy

from ..harness.handlers import ALL_KINDS, Method, client_stream, server_stream, unary, whole
from ..harness.replies import Trailers, new_key
from ..harness.servers import Servers, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

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


class Saying:
    """A service that says what its script says, in each kind of call; requests and responses are bytes."""

    script = Script()

    async def one(self, requests: Any, context: Any) -> bytes:
        await whole(requests)
        await self.settle(context)
        return b"".join(self.script.messages)

    async def many(self, _requests: Any, context: Any) -> AsyncIterator[bytes]:
        for message in self.script.messages:
            yield message
        await self.settle(context)

    async def settle(self, context: Any) -> None:
        code = grpc.StatusCode[self.script.code]
        if self.script.end == "abort with trailers":
            await context.abort(code, self.script.details, self.script.trailers)
        if self.script.trailers:
            context.set_trailing_metadata(self.script.trailers)
        if self.script.end == "set":
            context.set_code(code)
            context.set_details(self.script.details)
        if self.script.end == "raise":
            raise LookupError("password=hunter2")
        if self.script.end == "abort":
            await context.abort(code, self.script.details)

    def methods(self) -> dict[str, Method]:
        raw: dict[str, Any] = {"request": None, "reply": None}
        return {
            "unary": unary(self.one, **raw),
            "server": server_stream(self.many, **raw),
            "client": client_stream(self.one, **raw),
        }


class Spoken:
    """The service, and calls of it."""

    def __init__(self, saying: Saying, service: Service) -> None:
        self._saying = saying
        self._service = service
        self.kind = service.server.kind

    async def says_the_same(self, shape: str, script: Script) -> None:
        """Asserts that two calls with one key hear what a call without a key hears."""
        self._saying.script = script
        requests, key = (b"a", b"b") if shape == "client" else (b"a",), new_key()
        bare, first, second = [await self._service.call(shape, *requests, key=one) for one in (None, key, key)]
        assert first.plain == replace(bare, initial=())
        assert second.plain == first.plain
        assert first.mark == "executed"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ALL_KINDS)
async def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Spoken]:
    saying = Saying()
    async with AsyncExitStack() as stack:
        serve = Servers(request.param, tmp_path_factory.mktemp("same"), stack)
        policy = Policy(max_response_bytes=2 * LARGEST)
        yield Spoken(saying, await serve(saying.methods(), policy=policy, grpc_options=WIDE))


names = st.from_regex(r"x-[a-z0-9_.]{1,12}", fullmatch=True).filter(lambda name: not name.endswith("-bin"))
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
entries = st.one_of(st.tuples(names, values), st.tuples(names.map(lambda name: f"{name}-bin"), st.binary(max_size=40)))
sizes = st.one_of(st.integers(0, 2000), st.sampled_from([0, 1, 16_383, 16_384, 65_535, 65_536]))
scripts = st.builds(
    Script,
    sizes=st.lists(sizes, max_size=6).map(tuple),
    end=st.sampled_from(["return", "set", "abort", "abort with trailers", "raise"]),
    code=st.sampled_from([code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]),
    details=st.text(st.characters(exclude_categories=["Cs"]), max_size=100),
    trailers=st.lists(entries, max_size=6).map(tuple),
)
SHAPES = ["unary", "server", "client"]


@settings(max_examples=settings().max_examples // 5)
@given(shape=st.sampled_from(SHAPES), script=scripts)
@example(shape="server", script=Script(sizes=()))
@example(
    shape="server", script=Script(sizes=(0, 0, 0), end="abort", details="ümlaut", trailers=(("x-b-bin", b"\x00"),))
)
@example(shape="unary", script=Script(sizes=()))
async def test_keyed_as_unkeyed(service: Spoken, shape: str, script: Script) -> None:
    """Statuses, details, trailers (-bin), messages and streams of a keyed call are those of an un-keyed one."""
    # A bare grpc.aio server may leave a call hanging whose generator on a thread raises after a message.
    assume(service.kind != "thread" or shape != "server" or script.end in ("return", "set"))
    await service.says_the_same(shape, script)


@pytest.mark.parametrize("shape", SHAPES)
async def test_large_messages(service: Spoken, shape: str) -> None:
    """A keyed call with messages of 1 and 4 MiB, or a stream of them, is answered as an un-keyed one."""
    await service.says_the_same(shape, Script(sizes=(LARGEST,)))
    if shape == "server":
        await service.says_the_same(shape, Script(sizes=(1 << 20, LARGEST, 0, 1 << 20), end="set", details="enough"))
