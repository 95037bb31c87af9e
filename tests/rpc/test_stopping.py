"""Servers of ``grpc.aio`` that stop, and loops that end, while handlers run (4.4)."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, SQLiteStore, State, aio
from grpc_idempotency._server.aio import executions as _aio_executions
from grpc_idempotency._server.aio import interceptor as _aio

from ..harness.handlers import full
from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.stores import FlakyStore
from ..harness.waiting import Gate, ms, until
from .counting import Counting

KINDS = ("async", "thread")


async def test_a_transaction_that_does_not_end_keeps_no_server_from_stopping(
    serve: Servers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the store from being closed: that is waited for within the drain limit (4.4)."""
    for module in (_aio, _aio_executions):
        monkeypatch.setattr(module, "STOPPING", 0.05)
    began, go = Gate(), threading.Event()
    store = FlakyStore(serve.path)

    def fn(_db: Any) -> StringValue:
        began.open()
        assert go.wait(60)
        return text("done")

    async def handler(_request: Any, _context: Any) -> StringValue:
        return await store.transaction(fn)

    service = await serve(
        {"Do": handler}, store=store, drain_limit=ms(50), policy=Policy(effects=Effects.TRANSACTIONAL)
    )
    call = service.start("Do", key=new_key())
    await began.wait()
    try:
        await service.server.stop(0)
        assert "the store could not be closed within the drain limit" in caplog.text
        assert (await call.end()).status is not grpc.StatusCode.OK
    finally:
        go.set()


async def test_a_handler_that_does_not_end_does_not_keep_a_server_from_stopping(serve: Servers) -> None:
    """After the drain limit what can't finish is left as that of a dead server (4.4)."""
    handler = Counting(stubborn=True)
    service = await serve({"Do": handler}, drain_limit=ms(50))
    first = service.start("Do", key=new_key())
    await handler.began.wait()
    await service.server.stop(0)
    assert handler.inside == 1
    assert (await first.end()).status is not grpc.StatusCode.OK
    store = SQLiteStore(service.store._path)
    (record,) = await asyncio.to_thread(store.list)
    assert record.state is State.RUNNING
    handler.go.open()

    async def ended() -> bool:
        return not handler.inside

    await until(ended)
    await asyncio.to_thread(store.close)


async def test_a_cancelled_wait_drains(serve: Servers) -> None:
    """Ctrl-C cancels ``wait_for_termination``: what runs comes to its end and is stored before that goes on (4.4)."""
    handler, key = Counting(), new_key()
    service = await serve({"Do": handler})
    waiting = asyncio.ensure_future(service.server.wait_for_termination())
    first = service.start("Do", key=key)
    await handler.began.wait()
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    handler.go.open()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await first.end()).text == "run 1"
    store = SQLiteStore(service.store._path)
    (record,) = await asyncio.to_thread(store.list)
    assert record.state is State.COMPLETED
    await asyncio.to_thread(store.close)


def test_the_end_of_the_loop_releases_no_thread(kind: str, tmp_path: Path) -> None:
    """``asyncio.run`` ends with a handler under way: no thread holds it up, or has its operation released (4.1, 8)."""
    path, key = tmp_path / "end.db", new_key()
    began, go, ended, runs = threading.Event(), threading.Event(), threading.Event(), []

    def on_thread(_request: bytes, _context: Any) -> bytes:
        runs.append(1)
        began.set()
        assert go.wait(20)
        ended.set()
        return b"done"

    async def in_loop(_request: bytes, _context: Any) -> bytes:
        runs.append(1)
        began.set()
        await asyncio.sleep(20)
        return b"done"

    port, renewed = list[int](), FlakyStore(path)

    async def serve_and_forget() -> None:
        policy = Policy(effects=Effects.REPEATABLE, lease=ms(800), renew_every=ms(100))
        server = grpc.aio.server(interceptors=[aio.IdempotencyInterceptor(renewed, policy=policy)])
        handler: Any = grpc.unary_unary_rpc_method_handler(on_thread if kind == "thread" else in_loop)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {"Do": handler}),))
        port.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await asyncio.to_thread(began.wait, 20)

    serving = threading.Thread(target=asyncio.run, args=(serve_and_forget(),))
    serving.start()
    while not port:
        time.sleep(0.001)
    with grpc.insecure_channel(f"127.0.0.1:{port[0]}") as channel:
        method: Any = channel.unary_unary(full("Do"))
        call = method.future(b"", metadata=(("idempotency-key", key),), timeout=20)
        assert began.wait(20)
        store = SQLiteStore(path)
        serving.join(20)
        assert not serving.is_alive()
        call.cancel()
        states = [one.state for one in store.list()]
        assert states == ([State.RUNNING] if kind == "thread" else [])
        if kind == "thread":
            # Its lease is renewed until the thread ends; then it runs out.
            while renewed.asked["renew"] < 10:
                time.sleep(0.01)
            assert not store.list()[0].lapsed
            go.set()
            while not store.list()[0].lapsed:
                time.sleep(0.01)
            assert ended.is_set()
        store.close()
    assert len(runs) == 1
