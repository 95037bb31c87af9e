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

import grpc_idempotency
from grpc_idempotency import State, aio

from ..harness.clients import blocking_call
from ..harness.handlers import generic_handler
from ..harness.replies import COUNT, KEY
from ..harness.servers import Server, interceptor_of
from .echo import BIDI, CLIENT, SHAPES, Echo, Play
from .rig import said


def echo(kind: str) -> Any:
    """Returns the echo service, for ``add_generic_rpc_handlers``."""
    return generic_handler(kind, Echo().methods(), "echo.Echo")


async def speak(port: int) -> dict[str, list[tuple[list[str], Any]]]:
    """Calls each method twice with one key, the bidirectional one without; returns the replies and their marks."""
    heard: dict[str, list[tuple[list[str], Any]]] = {}
    for shape in SHAPES:
        messages = Play().request("a", "b")[: 2 if shape in (CLIENT, BIDI) else 1]
        metadata = ((KEY, "k"), (COUNT, "2")) if shape != BIDI else ()
        replies = [
            await blocking_call(f"127.0.0.1:{port}", f"/echo.Echo/{shape}", *messages, metadata=metadata)
            for _ in range(2)
        ]
        heard[shape] = [(said(reply), reply.mark) for reply in replies]
    return heard


SAID = {
    "unary": [(["run 1", "a"], "executed"), (["run 1", "a"], "replayed")],
    "server": [(["run 1", "a"], "executed"), (["run 1", "a"], "replayed")],
    "client": [(["run 1", "a", "b"], "executed"), (["run 1", "a", "b"], "replayed")],
    "bidi": [(["run 1", "a", "b"], None), (["run 2", "a", "b"], None)],
}


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_ten_lines_on_aio(tmp_path: Path, kind: str) -> None:
    """Ten lines around a grpc.aio server make it safe to retry, and stop it cleanly (8)."""
    store = aio.SQLiteStore(tmp_path / "idempotency.db")
    interceptor = aio.IdempotencyInterceptor(store)
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    server.add_generic_rpc_handlers((echo(kind),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    heard = await speak(port)
    await server.stop(grace=5)

    assert heard == SAID
    assert await _states(tmp_path) == [State.COMPLETED] * 3


async def test_ten_lines_on_threads(tmp_path: Path) -> None:
    """Ten lines around a grpc.server make it safe to retry, and stop it cleanly (8)."""
    before = set(threading.enumerate())
    store = grpc_idempotency.SQLiteStore(tmp_path / "idempotency.db")
    interceptor = grpc_idempotency.IdempotencyInterceptor(store)
    server = grpc.server(ThreadPoolExecutor(max_workers=8), interceptors=[interceptor])
    interceptor.attach(server)
    server.add_generic_rpc_handlers((echo("sync"),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    heard = await speak(port)
    await asyncio.to_thread(server.stop(grace=5).wait)

    assert heard == SAID
    assert await _states(tmp_path) == [State.COMPLETED] * 3
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("grpc-idempotency"):
            thread.join(20)
            assert not thread.is_alive()


async def test_both_kinds_of_server_on_one_file(tmp_path: Path) -> None:
    """A grpc.server and a grpc.aio server in one process share one file: what one stored, the other replays (6.2)."""
    path = tmp_path / "idempotency.db"
    stores = {"async": aio.SQLiteStore(path), "sync": grpc_idempotency.SQLiteStore(path)}
    servers: list[Server] = []
    for kind, store in stores.items():
        interceptor = interceptor_of(kind, store)
        servers.append(Server(kind, [interceptor]))
        interceptor.attach(servers[-1].real)
        servers[-1].add(echo(kind))
        await servers[-1].start()
    one, other = servers
    play = Play()
    marks = []
    for server in (one, other, one):
        reply = await blocking_call(server.target, "/echo.Echo/unary", *play.request("a"), metadata=((KEY, "k"),))
        assert reply.text == "run 1|a"
        marks.append(reply.mark)
    for server in servers:
        await server.stop()
    assert (marks, play.runs) == (["executed", "replayed", "replayed"], 1)


async def _states(folder: Path) -> list[State]:
    store = aio.SQLiteStore(folder / "idempotency.db")
    try:
        return [record.state for record in await store.list()]
    finally:
        await store.close()
