"""Streams of 100,000 messages run in bounded memory (4.8)."""

import asyncio
import resource
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Policy
from grpc_idempotency._methods.resolve import Methods
from grpc_idempotency._protocol.effects import Answered
from grpc_idempotency._server.aio.run import AioRun
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.sync.context import ThreadContext
from grpc_idempotency._server.sync.run import SyncRun
from grpc_idempotency._server.target import Target

from ..harness.handlers import server_stream
from ..harness.replies import new_key, text
from ..harness.servers import Servers

COUNT = 100_000
SIZE = 400
LIMIT = 64 * 1024
GROWTH = 16 * 1024 * 1024
"""The most that a process may grow; all messages are 40 MB."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells in /proc what it uses"),
]


class Peak:
    """How much memory this process had at most, beyond what it began with, whenever it was asked."""

    def __init__(self) -> None:
        self._before = resident()
        self.bytes = 0

    def ask(self) -> None:
        self.bytes = max(self.bytes, resident() - self._before)


def resident() -> int:
    """The bytes of memory that this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Silent:
    """A call's live context, as far as it is asked."""

    def time_remaining(self) -> None: ...

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def peer_identities(self) -> None: ...

    def peer_identity_key(self) -> None: ...

    def auth_context(self) -> dict[str, Any]:
        return {}


def target(behaviour: Callable[[Any, Any], Any]) -> Target:
    """A server-stream of bytes, of which little is kept."""
    methods = Methods(Policy(max_response_bytes=LIMIT), {}, lambda _policy: None)
    return Target.of(grpc.unary_stream_rpc_method_handler(behaviour), methods["/a.B/C"])


def snapshot() -> Snapshot:
    context: Any = Silent()
    return Snapshot("/a.B/C", context)


def messages() -> Iterator[bytes]:
    for number in range(COUNT):
        yield number.to_bytes(4, "big") * (SIZE // 4)


class Checking:
    """A follower that sees whether the messages are all there, in order."""

    def __init__(self, peak: Peak) -> None:
        self.seen = 0
        self._peak = peak

    def take(self, message: bytes) -> None:
        assert int.from_bytes(message[:4], "big") == self.seen
        self.seen += 1
        if self.seen % 1000 == 0:
            self._peak.ask()


async def test_100_000_messages_on_asyncio() -> None:
    """A run of 100,000 messages, followed by two, one of them slower, needs no room for all of them (4.8)."""

    async def generator(_request: Any, _context: Any) -> AsyncIterator[bytes]:
        for message in messages():
            yield message

    run, peak = AioRun.of(target(generator), [b""], snapshot()), Peak()
    quick, slow = Checking(peak), Checking(peak)

    async def quickly(message: bytes) -> None:
        quick.take(message)

    async def slowly(message: bytes) -> None:
        slow.take(message)
        await asyncio.sleep(0)

    end = asyncio.ensure_future(run.to_end(None))
    await asyncio.gather(run.play(quickly, end, None), run.play(slowly, end, None))
    assert (quick.seen, slow.seen) == (COUNT, COUNT)
    assert isinstance(end.result(), Answered)
    assert peak.bytes < GROWTH


def test_100_000_messages_on_threads() -> None:
    """The same on threads (4.8)."""
    run = SyncRun(target(lambda _request, _context: messages()), [b""], ThreadContext(snapshot()))
    run.moved, over, peak = threading.Condition(), threading.Event(), Peak()
    followers = [Checking(peak), Checking(peak)]
    assert run.buffer is not None

    def follow(follower: Checking) -> None:
        for message in run.play(over.is_set, None):
            follower.take(message)

    threads = [threading.Thread(target=follow, args=(follower,)) for follower in followers]
    for thread in threads:
        thread.start()
    while len(run.buffer._positions) < len(threads):
        time.sleep(0.001)
    run.to_end(None)
    over.set()
    with run.moved:
        run.moved.notify_all()
    for thread in threads:
        thread.join(60)
    assert [follower.seen for follower in followers] == [COUNT, COUNT]
    assert peak.bytes < GROWTH


LONG, LINE = 4_000, "x" * 10_000


async def test_a_long_stream_over_the_wire(serve: Servers, kind: str) -> None:
    """A real server's stream of 40 MB, of which 64 KiB may be kept, needs no room for all of it (4.8)."""

    async def awaited(_request: Any, _context: Any) -> AsyncIterator[StringValue]:
        for _ in range(LONG):
            yield text(LINE)

    def blocking(_request: Any, _context: Any) -> Iterator[StringValue]:
        for _ in range(LONG):
            yield text(LINE)

    handler = server_stream(awaited if kind == "async" else blocking, native=True)
    service = await serve({"Do": handler}, policy=Policy(max_response_bytes=LIMIT))
    key, seen, peak = new_key(), 0, Peak()
    call = service.start("Do", "a", key=key)
    while isinstance(await call.call.read(), bytes):
        seen += 1
        if seen % 100 == 0:
            peak.ask()
    assert ((await call.end()).mark, seen) == ("executed", LONG)
    assert peak.bytes < GROWTH
    assert (await service.call("Do", "a", key=key)).reason == "RESPONSE_NOT_RETAINED"
