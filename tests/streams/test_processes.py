"""Server processes whose handlers ask their contexts everything, long after their calls (4.4)."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from ..harness.clients import OWN_CONNECTION, Client
from ..harness.handlers import ALL_KINDS, SERVICE, Method
from ..harness.processes import Process
from ..harness.replies import new_key

pytestmark = pytest.mark.slow

METHODS = {
    "Unary": Method(run=lambda *_: None),
    "ServerStream": Method(run=lambda *_: None, gives_stream=True),
    "ClientStream": Method(run=lambda *_: None, takes_stream=True),
    "Let": Method(run=lambda *_: None),
}


@pytest.fixture
async def clients() -> AsyncIterator[Callable[[str], Client]]:
    channels: list[grpc.aio.Channel] = []

    def client(target: str) -> Client:
        channels.append(grpc.aio.insecure_channel(target, options=OWN_CONNECTION))
        return Client(channels[-1], METHODS, SERVICE)

    yield client
    for channel in channels:
        await channel.close()


@pytest.mark.parametrize(
    ("method", "ending"),
    [
        ("Unary", "cancel"),
        ("Unary", "deadline"),
        ("ServerStream", "cancel"),
        ("ServerStream", "deadline"),
        ("ServerStream", "disconnect"),
        ("ClientStream", "cancel"),
    ],
)
@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_every_method_of_a_context_after_its_call(
    clients: Callable[[str], Client], tmp_path: Path, kind: str, method: str, ending: str
) -> None:
    """After its call a handler of any kind may ask its context anything: no crash, its outcome is recorded (4.4)."""
    process = Process(kind, str(tmp_path / "records.db"), program="asking")
    try:
        target = await process.ready()
        client, again = clients(target), clients(target)
        key = new_key()
        call = client.start(method, "a", key=key, timeout=1.0 if ending == "deadline" else 60)
        await process.line("began")
        if ending == "cancel":
            call.cancel()
        elif ending == "disconnect":
            await client.channel.close()
        else:
            assert (await call.end()).status is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await again.call("Let")).status is grpc.StatusCode.OK
        await process.line("asked abort_with_status")
        contexts: dict[str, type[Any]] = {"async": grpc.aio.ServicerContext}
        asked = {line.removeprefix("asked ") for line in process.seen if line.startswith("asked ")}
        assert asked == {name for name in dir(contexts.get(kind, grpc.ServicerContext)) if not name.startswith("_")}
        reply = await again.call(method, "a", key=key)
        assert reply.mark in ("attached", "replayed")
        if kind == "sync":  # one of the questions was to cancel the call
            assert (reply.status, reply.plain.trailers) == (grpc.StatusCode.CANCELLED, ())
        else:
            assert (reply.status, reply.details) == (grpc.StatusCode.OUT_OF_RANGE, "asked everything")
            assert reply.plain.trailers == (("x-asked", "1"),)
        sent = ["before", ""] if kind == "async" else ["before"]  # the question whether it may write was answered
        assert reply.texts == (sent if method == "ServerStream" else [])
        process.terminate()
        assert await process.ended() == 0, process.seen
    finally:
        process.discard()
