"""Runs that can not be stopped, and servers that were cut off from the store (4.2, 4.9, 5.2)."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, StoreUnavailable
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore, SQLiteStore

from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, ms
from .operations import Log, here

CutOff = Callable[[], None]


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> CutOff:
    """From when it is called, this process can renew no lease."""

    async def refused(*_: Any, **__: Any) -> bool:
        raise StoreUnavailable("cut off")

    def refused_in_thread(*_: Any, **__: Any) -> bool:
        raise StoreUnavailable("cut off")

    def cut() -> None:
        monkeypatch.setattr(AsyncSQLiteStore, "renew", refused)
        monkeypatch.setattr(SQLiteStore, "renew", refused_in_thread)

    return cut


@pytest.mark.parametrize("kind", ["thread", "sync"])
async def test_an_undo_that_cant_be_stopped(serve: Servers, log: Log, cut_off: CutOff) -> None:
    """An undo on a thread that does not end keeps its operation while its lease is renewed; cut off, it is taken over.

    Clauses 4.1, 4.4, 4.9, 5.2.
    """
    go, ended, tries = Gate(), Gate(), []

    def undo(_result: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            asyncio.run(go.wait())
            ended.open()
        log.done.append("undo a")

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"), undo=lambda result: in_thread(undo, result))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    policy = Policy(effects=Effects.REPEATABLE, lease=ms(400), renew_every=ms(100), execution_limit=ms(300))
    service = await serve({"Do": do}, policy=policy)
    key = new_key()
    first = await service.call("Do", key=key)
    assert first.status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    cut_off()
    assert (await service.call("Do", key=key)).details == "no"
    go.open()
    await ended.wait()
    assert (await service.call("Do", key=key)).mark == "replayed"
    assert len(tries) == 2


def in_thread(fn: Any, *args: Any) -> Any:
    """Runs it in a thread without a loop, as a plain handler's undo is run."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(fn, *args).result()


@pytest.mark.parametrize("kind", ["thread", "sync"])
async def test_a_zombies_step_is_refused(serve: Servers, log: Log, cut_off: CutOff) -> None:
    """A run that can't be stopped, was cut off and taken over begins no further step (4.2, 4.9, 5.2)."""
    go, ended, runs, errors = Gate(), Gate(), [], []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        runs.append(1)
        mine = len(runs)
        await here().step("a", log.does("a"))
        if mine == 1:
            await go.wait()
        try:
            await here().step("b", log.does(f"b of run {mine}", mine))
        except Exception as exc:
            errors.append(type(exc).__name__)
            ended.open()
            raise
        return text(f"done in run {mine}")

    policy = Policy(effects=Effects.REPEATABLE, lease=ms(400), renew_every=ms(100), execution_limit=ms(300))
    service = await serve({"Do": do}, policy=policy)
    key = new_key()
    first = await service.call("Do", key=key)
    assert first.status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    cut_off()
    reply = await service.call("Do", key=key)
    assert reply.text == "done in run 2"
    go.open()
    await ended.wait()
    assert errors == ["FenceRefused"]
    assert log.done == ["a", "b of run 2"]
    assert (await service.call("Do", key=key)).text == "done in run 2"


@pytest.mark.parametrize("kind", ["async"])
async def test_a_step_of_a_server_that_was_cut_off(serve: Servers, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that could not renew its lease, and was taken over from, begins no further step (4.2, 4.9, 5.2)."""
    go, began, ended, errors = Gate(), Gate(), Gate(), []

    async def slow(_request: StringValue, _context: Any) -> StringValue:
        await here().step("a", log.does("a"))
        began.open()
        await go.wait()
        try:
            await here().step("b", log.does("b, too late"))
        except Exception as exc:
            errors.append(type(exc).__name__)
            ended.open()
            raise
        return text("slow")

    async def quick(_request: StringValue, _context: Any) -> StringValue:
        await here().step("a", log.does("a again"))
        return text(await here().step("b", log.does("b", "quick")))

    async def cut_off(*_: Any) -> bool:
        raise StoreUnavailable("cut off, for the test")

    policy = Policy(effects=Effects.REPEATABLE, lease=ms(300), renew_every=ms(100))
    store = serve.store()
    monkeypatch.setattr(store, "renew", cut_off)
    one = await serve({"Do": slow}, policy=policy, store=store)
    another = await serve({"Do": quick}, policy=policy)
    key = new_key()
    first = asyncio.ensure_future(one.call("Do", key=key))
    await began.wait()
    assert (await another.call("Do", key=key)).text == "quick"
    go.open()
    await ended.wait()
    assert errors == ["FenceRefused"]
    assert (await first).text == "quick"
    assert log.done == ["a", "b"]
