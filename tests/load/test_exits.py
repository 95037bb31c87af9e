"""Handlers that raise what ends a process: their clients hear of it at once all the same (4.7)."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from ..harness.clients import Client
from ..harness.handlers import SERVICE, Method
from ..harness.processes import Process
from ..harness.replies import new_key

each_error = pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("async", "SystemExit"),
        ("thread", "KeyboardInterrupt"),
        ("sync", "SystemExit"),
        pytest.param("async", "KeyboardInterrupt", marks=pytest.mark.slow),
        pytest.param("thread", "SystemExit", marks=pytest.mark.slow),
        pytest.param("sync", "KeyboardInterrupt", marks=pytest.mark.slow),
    ],
)


@pytest.fixture
def process(kind: str, tmp_path: Path) -> Iterator[Process]:
    process = Process(kind, str(tmp_path / "records.db"), program="exiting")
    yield process
    process.discard()


@pytest.fixture
async def client(process: Process) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(await process.ready()) as channel:
        yield Client(channel, {"Unary": Method(run=lambda *_: None)}, SERVICE)


@each_error
async def test_with_a_key(process: Process, client: Client, error: str) -> None:
    """With a key SystemExit and KeyboardInterrupt are an unclear failure, stored; the server goes on (4.5, 4.7)."""
    key = new_key()
    for mark in ("executed", "replayed"):
        reply = await client.call("Unary", error, key=key)
        assert (reply.status, reply.details, reply.mark) == (grpc.StatusCode.UNKNOWN, "internal error", mark)
    assert (await client.call("Unary", "all is well")).texts == ["all is well"]


@each_error
async def test_without_a_key(process: Process, client: Client, kind: str, error: str) -> None:
    """Without a key the client hears the same; an aio server ends, as without the interceptor (2.4, 4.7)."""
    reply = await client.call("Unary", error)
    assert (reply.status, reply.details) == (grpc.StatusCode.UNKNOWN, "internal error")
    if kind == "sync":
        assert (await client.call("Unary", "all is well")).texts == ["all is well"]
    else:
        await process.line(f"ended by {error}")
