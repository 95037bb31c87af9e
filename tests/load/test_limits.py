"""Limits on what runs: the execution limit, the drain limit, the cap on detached executions (4.4, 4.5, 4.11)."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, State
from grpc_idempotency._server.sync import interceptor as _sync

from ..harness.handlers import Method, server_stream, unary
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers, answered
from ..harness.waiting import Gate, ms, until

METHODS = ("Unary", "ServerStream")
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
every_method = pytest.mark.parametrize("method", METHODS)


class Stuck:
    """Handlers that run until they are let; ``stubborn`` ones don't let themselves be cancelled either."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.runs = 0
        self.began = Gate()
        self.go = Gate()
        self.ended = Gate()
        self._stubborn = stubborn

    def methods(self) -> dict[str, Method]:
        return {"Unary": unary(self.unary), "ServerStream": server_stream(self.server_stream)}

    async def unary(self, _request: Any, _context: Any) -> StringValue:
        self.runs += 1
        await self._linger()
        return text(f"run {self.runs}")

    async def server_stream(self, _request: Any, _context: Any) -> AsyncIterator[StringValue]:
        self.runs += 1
        yield text("one")
        await self._linger()
        yield text(f"run {self.runs}")

    async def _linger(self) -> None:
        self.began.open()
        while not self.go.opened:
            try:
                await self.go.wait(60)
            except asyncio.CancelledError:
                if not self._stubborn:
                    raise
        self.ended.open()


@every_method
@pytest.mark.parametrize("stubborn", [False, True])
async def test_an_opaque_handler_past_its_limit(serve: Servers, kind: str, method: str, stubborn: bool) -> None:
    """Past its execution limit an opaque handler's callers are answered, stopped or not; it is held (4.4, 4.5)."""
    stuck = Stuck(stubborn=stubborn)
    service = await serve(stuck.methods(), policy=Policy(execution_limit=ms(400)))
    key = new_key()
    first = service.start(method, "a", key=key)
    await stuck.began.wait()
    second = service.start(method, "a", key=key)
    replies = [await call.end() for call in (first, second)]
    for reply in replies:
        refused(reply, "OUTCOME_UNKNOWN", FAILED_PRECONDITION)
    assert await service.has_state(State.HELD)
    assert stuck.ended.opened is False
    stuck.go.open()


@every_method
async def test_a_late_end_of_what_is_held(serve: Servers, method: str) -> None:
    """The end of a handler that could not be stopped is the truth after all: it resolves what is held (4.2)."""
    stuck = Stuck(stubborn=True)
    service = await serve(stuck.methods(), policy=Policy(execution_limit=ms(200)))
    key = new_key()
    await service.call(method, "a", key=key)
    refused(await service.call(method, "a", key=key), "OUTCOME_UNKNOWN", FAILED_PRECONDITION)
    stuck.go.open()
    await until(lambda: service.has_state(State.COMPLETED))
    await until(service.is_idle)
    reply = await service.call(method, "a", key=key)
    assert (reply.texts[-1], reply.mark, stuck.runs) == ("run 1", "replayed", 1)


@every_method
@pytest.mark.parametrize("kind", ["async"])
async def test_a_repeatable_handler_past_its_limit(serve: Servers, method: str) -> None:
    """Past its execution limit a repeatable handler that could be stopped is released: a retry runs (4.5)."""
    stuck = Stuck()
    service = await serve(stuck.methods(), policy=Policy(execution_limit=ms(400), effects=Effects.REPEATABLE))
    key = new_key()
    first = await service.call(method, "a", key=key)
    assert (first.status, first.mark) == (grpc.StatusCode.UNAVAILABLE, "executed")
    assert await service.records() == []
    stuck.go.open()
    assert (await service.call(method, "a", key=key)).texts[-1] == "run 2"


@every_method
@pytest.mark.parametrize("kind", ["thread", "sync"])
async def test_a_repeatable_handler_that_can_not_be_stopped(serve: Servers, kind: str, method: str) -> None:
    """A thread runs on past its limit: callers are answered, and no other run begins beside it (4.1)."""
    stuck = Stuck()
    policy = Policy(execution_limit=ms(200), effects=Effects.REPEATABLE, wait=ms(0))
    service = await serve(stuck.methods(), policy=policy)
    key = new_key()
    first = await service.call(method, "a", key=key)
    assert (first.status, first.mark) == (grpc.StatusCode.UNAVAILABLE, "executed")
    again = await service.call(method, "a", key=key)
    refused(again, "IN_FLIGHT", grpc.StatusCode.UNAVAILABLE)
    assert stuck.runs == 1
    stuck.go.open()
    await stuck.ended.wait()
    await until(lambda: service.has_state(State.COMPLETED))
    await until(service.is_idle)
    assert (await service.call(method, "a", key=key)).texts[-1] == "run 1"


@every_method
async def test_the_drain_limit(serve: Servers, kind: str, method: str, caplog: pytest.LogCaptureFixture) -> None:
    """At a stop what does not end within the drain limit is left as that of a dead server (4.4)."""
    stuck = Stuck()
    service = await serve(stuck.methods(), drain_limit=ms(300))
    call = service.start(method, "a", key=new_key())
    await stuck.began.wait()
    await service.stop()
    assert not stuck.ended.opened
    assert "1 operations did not end within the drain limit" in caplog.text
    assert (await call.end()).status is not grpc.StatusCode.OK
    store = serve.store()
    (record,) = await answered(store.list())
    await answered(store.close())
    assert record.state is State.RUNNING
    stuck.go.open()


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("kind", ["sync"])
async def test_the_drain_limit_of_a_transaction(
    serve: Servers, keyed: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that does not end keeps the store from being closed, and no server from stopping (4.4)."""
    monkeypatch.setattr(_sync, "STOPPING", 0.05)
    began, go = threading.Event(), threading.Event()
    store = serve.store()

    def do(_request: Any, _context: Any) -> StringValue:
        def fn(_db: Any) -> StringValue:
            began.set()
            assert go.wait(60)
            return text("done")

        reply: StringValue = store.transaction(fn)
        return reply

    policy = Policy(effects=Effects.TRANSACTIONAL, lease=ms(2_000), renew_every=ms(20))
    methods = {"Unary": unary(do, native=True)}
    service = await serve(methods, store=store, policy=policy, drain_limit=ms(50))
    call = service.start("Unary", "a", key=new_key() if keyed else None)
    assert await asyncio.to_thread(began.wait, 20)
    await service.stop()
    assert not go.is_set()
    assert "the store could not be closed within the drain limit" in caplog.text
    assert (await call.end()).status is not grpc.StatusCode.OK
    go.set()


@every_method
async def test_what_ends_within_the_drain_limit(
    serve: Servers, kind: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At a stop what nobody watches any more is run to its end, and stored (4.4)."""
    stuck = Stuck()
    service = await serve(stuck.methods(), drain_limit=ms(15_000))
    call = service.start(method, "a", key=new_key())
    await stuck.began.wait()
    call.cancel()
    stop = asyncio.ensure_future(service.stop())

    async def drains() -> bool:
        return "waiting for 1 operations to end" in caplog.text

    await until(drains)
    assert not stop.done()
    stuck.go.open()
    await stop
    store = serve.store()
    (record,) = await answered(store.list())
    await answered(store.close())
    assert record.state is State.COMPLETED


@every_method
async def test_so_many_detached_executions(serve: Servers, kind: str, method: str) -> None:
    """With as many detached executions as may be no further one is taken on; their duplicates attach (4.11)."""
    stuck, other = Stuck(), Stuck()
    other.go.open()
    methods = stuck.methods() | {"Other": unary(other.unary)}
    service = await serve(methods, max_detached=1)
    key = new_key()
    call = service.start(method, "a", key=key)
    await stuck.began.wait()
    call.cancel()
    await until(lambda: service.is_followed(0))
    refused(await service.call("Other", "a", key=new_key()), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert other.runs == 0
    assert (await service.call("Other", "a")).mark is None
    retry = service.start(method, "a", key=key)
    await until(lambda: service.is_followed(1))
    stuck.go.open()
    assert ((await retry.end()).mark, stuck.runs) == ("attached", 1)
    await until(service.is_idle)
    assert (await service.call("Other", "a", key=new_key())).mark == "executed"
