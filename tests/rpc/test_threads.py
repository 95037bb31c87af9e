"""The threads in which an asyncio server runs ``def`` handlers (2.4, 4.1)."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import grpc
import pytest

from grpc_idempotency._operation.sync import wait_in_thread

from ..harness.replies import new_key, refused
from ..harness.servers import Servers
from ..harness.waiting import Gate
from .counting import THREAD, Counting, streaming
from .test_keys import Request

KINDS = ("async", "thread")


@THREAD
async def test_an_unkeyed_generator_stays_in_its_thread(serve: Servers) -> None:
    """An un-keyed generator runs in one thread with its context variables, and ends there with its client (2.4)."""
    seen, ended = set(), Gate()
    variable: ContextVar[str] = ContextVar("variable", default="lost")

    def export(_request: Any, _context: Any) -> Iterator[Any]:
        token = variable.set("kept")
        try:
            while True:
                seen.add((threading.get_ident(), variable.get()))
                yield Request(body="x")
        finally:
            variable.reset(token)
            seen.add((threading.get_ident(), "kept"))
            ended.open()

    service = await streaming(serve, export)
    call = service.start("Do", Request())
    await call.read()
    seen.clear()
    call.cancel()
    await ended.wait()
    assert {value for _, value in seen} == {"kept"}
    assert len(seen) == 1


@THREAD
async def test_a_thread_that_can_not_be_started(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is refused, nothing is claimed, and the next one runs (4.1, 4.4)."""
    handler, key = Counting(), new_key()
    handler.go.open()
    service = await serve({"Do": handler})
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == "grpc-idempotency-handler":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    refused(await service.call("Do", key=key), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert await service.records() == []
    monkeypatch.undo()
    assert (await service.call("Do", key=key)).text == "run 1"


@THREAD
async def test_no_handler_waits_for_the_loops_own_threads(serve: Servers) -> None:
    """A keyed handler begins at once, whatever takes up the threads of the loop's executor (4.1)."""
    busy = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    taken = loop.run_in_executor(None, busy.wait)
    handler, key = Counting(), new_key()
    handler.go.open()
    service = await serve({"Do": handler})
    assert (await service.call("Do", key=key)).text == "run 1"
    busy.set()
    await taken


@THREAD
async def test_a_timeout_that_a_thread_waits_for_is_told(kind: str) -> None:
    """An error of a store's call reaches the handler's thread, a TimeoutError of its own too."""

    async def fails() -> None:
        raise asyncio.TimeoutError("its own")

    with pytest.raises(asyncio.TimeoutError, match="its own"):
        await asyncio.to_thread(wait_in_thread, fails, asyncio.get_running_loop())
