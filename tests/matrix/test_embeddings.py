"""The shortest uses, around a service that knows nothing of idempotency or of the shop (8)."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

import grpc_idempotency
from grpc_idempotency import State, aio

from .echo import SHAPES, Echo, Play


def echo(kind: str) -> Any:
    """The echo service, for ``add_generic_rpc_handlers``."""
    service = Echo(kind, None)
    handlers: dict[str, Any] = {
        shape: service.service(type("Details", (), {"method": f"/echo.Echo/{shape}"})) for shape in SHAPES
    }
    return grpc.method_handlers_generic_handler("echo.Echo", handlers)


def speak(port: int) -> dict[str, list[tuple[list[str], Any]]]:
    """Calls each kind of method twice with one key, the bidirectional one without; what it said, and its mark."""
    said: dict[str, list[tuple[list[str], Any]]] = {}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        methods: dict[str, Any] = {
            "unary": channel.unary_unary,
            "server": channel.unary_stream,
            "client": channel.stream_unary,
            "bidi": channel.stream_stream,
        }
        for shape, method in methods.items():
            play = Play()
            raws = [message.SerializeToString() for message in play.request("a", "b")]
            metadata = (("idempotency-key", "k"), ("idempotency-message-count", "2")) if shape != "bidi" else ()
            said[shape] = []
            for _ in range(2):
                request = iter(raws) if shape in ("client", "bidi") else raws[0]
                stub = method(f"/echo.Echo/{shape}")
                if shape in ("server", "bidi"):
                    call = stub(request, metadata=metadata, timeout=20)
                    messages = list(call)
                else:
                    message, call = stub.with_call(request, metadata=metadata, timeout=20)
                    messages = [message]
                texts = [text for raw in messages for text in StringValue.FromString(raw).value.split("|")]
                said[shape].append((texts, dict(call.trailing_metadata()).get("idempotency-status")))
    return said


SAID = {
    "unary": [(["run 1", "a"], "executed"), (["run 1", "a"], "replayed")],
    "server": [(["run 1", "a"], "executed"), (["run 1", "a"], "replayed")],
    "client": [(["run 1", "a", "b"], "executed"), (["run 1", "a", "b"], "replayed")],
    "bidi": [(["run 1", "a", "b"], None), (["run 2", "a", "b"], None)],
}


@pytest.mark.parametrize("kind", ["aio", "def"])
async def test_ten_lines_on_aio(tmp_path: Path, kind: str) -> None:
    """Ten lines around a grpc.aio server make it safe to retry, and stop it cleanly (8)."""
    store = aio.SQLiteStore(tmp_path / "idempotency.db")
    interceptor = aio.IdempotencyInterceptor(store)
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    server.add_generic_rpc_handlers((echo(kind),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    said = await asyncio.to_thread(speak, port)
    await server.stop(grace=5)

    assert said == SAID
    assert await _states(tmp_path) == [State.COMPLETED] * 3


def test_ten_lines_on_threads(tmp_path: Path) -> None:
    """Ten lines around a grpc.server make it safe to retry, and stop it cleanly (8)."""
    before = set(threading.enumerate())
    store = grpc_idempotency.SQLiteStore(tmp_path / "idempotency.db")
    interceptor = grpc_idempotency.IdempotencyInterceptor(store)
    server = grpc.server(ThreadPoolExecutor(max_workers=8), interceptors=[interceptor])
    interceptor.attach(server)
    server.add_generic_rpc_handlers((echo("sync"),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    said = speak(port)
    server.stop(grace=5).wait()

    assert said == SAID
    assert asyncio.run(_states(tmp_path)) == [State.COMPLETED] * 3
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("grpc-idempotency"):
            thread.join(20)
            assert not thread.is_alive()


async def test_both_kinds_of_server_on_one_file(tmp_path: Path) -> None:
    """A grpc.server and a grpc.aio server in one process share one file: what one stored, the other replays (6.2)."""
    path = tmp_path / "idempotency.db"
    first = aio.IdempotencyInterceptor(aio.SQLiteStore(path))
    one = grpc.aio.server(interceptors=[first])
    first.attach(one)
    one.add_generic_rpc_handlers((echo("aio"),))
    port = one.add_insecure_port("127.0.0.1:0")
    await one.start()
    second = grpc_idempotency.IdempotencyInterceptor(grpc_idempotency.SQLiteStore(path))
    other = grpc.server(ThreadPoolExecutor(max_workers=8), interceptors=[second])
    second.attach(other)
    other.add_generic_rpc_handlers((echo("sync"),))
    other_port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    play = Play()
    raw = play.request("a")[0].SerializeToString()

    marks = []
    for address in (port, other_port, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{address}") as channel:
            stub: Any = channel.unary_unary("/echo.Echo/unary")
            call = stub(raw, metadata=(("idempotency-key", "k"),), timeout=20)
            assert StringValue.FromString(await call).value == "run 1|a"
            marks.append(dict(await call.trailing_metadata())["idempotency-status"])
    await one.stop(None)
    await asyncio.to_thread(other.stop(None).wait)
    assert (marks, play.runs) == (["executed", "replayed", "replayed"], 1)


async def _states(folder: Path) -> list[State]:
    store = aio.SQLiteStore(folder / "idempotency.db")
    try:
        return [record.state for record in await store.list()]
    finally:
        await store.close()
