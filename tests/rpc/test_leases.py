"""Leases and fences (4.2, 4.9)."""

import asyncio
import os
import socket
import time
from contextlib import closing
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

import grpc_idempotency
from grpc_idempotency import Effects, Policy, State, aio
from grpc_idempotency._server.recovery import EVERY
from grpc_idempotency.errors import FenceRefused
from grpc_idempotency.transactions import running_operation

from ..harness.handlers import Blocking
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers, claims
from ..harness.stores import FlakyStore
from ..harness.waiting import Gate, ms, until

again = pytest.mark.parametrize("effects", [Effects.TRANSACTIONAL, Effects.REPEATABLE], ids=lambda e: e.value)


def brief(effects: Effects = Effects.OPAQUE, **options: Any) -> Policy:
    """A policy with a lease that a test can wait for."""
    return Policy(**claims(effects), lease=ms(600), renew_every=ms(150), **options)


class Dead(FlakyStore):
    """The store as a server sees it that is cut off from it once it has claimed: its lease runs out."""

    def cut_off(self) -> None:
        self.down |= {"renew", "complete", "release", "hold", "get"}


def test_a_retry_sees_the_take_over_by_default() -> None:
    """It waits for longer than until another server has the operation, with time left for the handler (4.11)."""
    policy = Policy()
    seen = policy.lease + timedelta(seconds=1.5 * EVERY)
    assert seen + timedelta(seconds=10) < policy.wait


@pytest.mark.parametrize("kind", ["async"])
async def test_a_lease_is_renewed_while_the_handler_runs(serve: Servers) -> None:
    """A handler may run for longer than its lease: nobody takes it over (4.9)."""
    handler, store = Blocking(), FlakyStore(serve.path)
    policy = Policy(effects=Effects.TRANSACTIONAL, recover=True, lease=ms(1000), renew_every=ms(100))
    service = await serve({"Do": handler}, policy=policy, store=store)
    other = await serve({"Do": handler}, policy=policy)
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began.wait()
    second = asyncio.ensure_future(other.call("Do", key=key))

    async def renewed() -> bool:
        return store.asked["renew"] >= 14  # by then the first lease has run out

    await until(renewed)
    assert not (await service.the_record()).lapsed
    handler.go.open()
    assert ((await first).text, (await second).text) == ("done 1", "done 1")
    assert handler.runs == 1


@pytest.mark.parametrize("kind", ["async"])
async def test_a_handler_that_blocks_the_loop_keeps_its_lease(serve: Servers) -> None:
    """Leases are renewed while a handler keeps the server's event loop from everything else (4.9)."""
    store = FlakyStore(serve.path)

    async def do(_request: Any, _context: Any) -> StringValue:
        give_up_at = time.monotonic() + 20
        while store.asked["renew"] < 3 and time.monotonic() < give_up_at:
            time.sleep(0.002)  # noqa: ASYNC251  # the mistake that this is about
        return text(f"renewed {store.asked['renew'] >= 3}")

    service = await serve({"Do": do}, policy=Policy(renew_every=ms(10)), store=store)
    assert (await service.call("Do", key=new_key())).text == "renewed True"


@pytest.mark.parametrize("kind", ["async"])
async def test_a_blocked_loop_and_another_process(serve: Servers) -> None:
    """Nobody who looks at the file finds the lease run out while its owner's loop is blocked (4.9)."""
    seen: list[bool] = []

    async def do(_request: Any, _context: Any) -> StringValue:
        with closing(grpc_idempotency.SQLiteStore(serve.path)) as looker:
            give_up_at = time.monotonic() + 2 * brief().lease.total_seconds()
            while time.monotonic() < give_up_at:
                seen.extend(record.lapsed for record in looker.list())
                time.sleep(0.005)  # noqa: ASYNC251  # the mistake that this is about
        return text("done")

    service = await serve({"Do": do}, policy=brief())
    assert (await service.call("Do", key=new_key())).text == "done"
    assert seen
    assert not any(seen)


class Charging:
    """A handler whose one step comes when it is let; it tells in which attempts the step was run, and refused."""

    def __init__(self) -> None:
        self.began, self.go, self.refused = Gate(), Gate(), Gate()
        self.charged: list[int] = []

    async def __call__(self, _request: Any, _context: Any) -> StringValue:
        running: Any = running_operation()
        assert running is not None
        attempt = running.attempt
        if attempt == 1:
            self.began.open()
            await self.go.wait()
        try:
            operation: Any = aio.current_operation() if running.awaited else grpc_idempotency.current_operation()
            step = operation.step("charge", lambda: self.charged.append(attempt))
            if running.awaited:
                await step
        except FenceRefused:
            self.refused.open()
            raise
        return text(f"attempt {attempt}")


async def test_a_run_that_was_replaced_begins_no_step(serve: Servers) -> None:
    """Its server was cut off from the store, and another one has run the operation meanwhile (4.2, 4.9, 5.2)."""
    handler, dead = Charging(), Dead(serve.path)
    service = await serve({"Do": handler}, policy=brief(Effects.REPEATABLE), store=dead)
    alive = await serve({"Do": handler}, policy=brief(Effects.REPEATABLE))
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began.wait()
    dead.cut_off()
    assert (await alive.call("Do", key=key)).text == "attempt 2"
    dead.down.clear()
    handler.go.open()
    await handler.refused.wait()
    assert ((await first).text, handler.charged) == ("attempt 2", [2])


async def test_a_run_that_may_have_been_replaced_begins_no_step(serve: Servers) -> None:
    """Its lease has run out, by its own clock, and it can't know that nobody was there to take over (4.9, 5.2)."""
    handler, dead = Charging(), Dead(serve.path)
    service = await serve({"Do": handler}, policy=brief(Effects.REPEATABLE), store=dead, attach=False)
    first = asyncio.ensure_future(service.call("Do", key=new_key()))
    await handler.began.wait()
    dead.down.add("renew")

    async def lapsed() -> bool:
        return (await service.the_record()).lapsed

    await until(lapsed)
    handler.go.open()
    await handler.refused.wait()
    await first
    assert (handler.charged, await service.records()) == ([], [])  # nothing has happened, and a retry may run it


class Twice:
    """Each run waits for a gate of its own."""

    def __init__(self) -> None:
        self.began = [Gate(), Gate()]
        self.go = [Gate(), Gate()]
        self.attempts: list[int] = []

    async def __call__(self, _request: Any, _context: Any) -> StringValue:
        number = len(self.attempts)
        operation: Any = running_operation()
        assert operation is not None
        self.attempts.append(operation.attempt)
        self.began[number].open()
        await self.go[number].wait()
        return text(f"run {number + 1}")


@again
async def test_a_lapsed_lease_is_taken_over(serve: Servers, effects: Effects) -> None:
    """Where nothing remains of a dead run, the next call runs again; the zombie changes nothing (4.2, 4.9)."""
    handler, dead = Twice(), Dead(serve.path)
    service = await serve({"Do": handler}, policy=brief(effects), store=dead)
    alive = await serve({"Do": handler}, policy=brief(effects))
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began[0].wait()
    dead.cut_off()
    second = asyncio.ensure_future(alive.call("Do", key=key))
    await handler.began[1].wait()
    dead.down.clear()
    handler.go[0].open()  # the zombie has an answer; its fence is refused, and it hears the truth with the others

    async def refused_by_its_fence() -> bool:
        return dead.asked["complete"] > 0

    await until(refused_by_its_fence)
    assert (await alive.the_record()).state is State.RUNNING
    handler.go[1].open()
    assert ((await second).text, (await second).mark) == ("run 2", "executed")
    assert ((await first).text, (await first).mark) == ("run 2", "attached")
    assert handler.attempts == [1, 2]
    record = await alive.the_record()
    assert (record.attempts, record.state) == (2, State.COMPLETED)


async def test_a_lapsed_opaque_lease_is_held(serve: Servers) -> None:
    """An opaque run whose server is gone is held; were it only slow, its own completion is the truth (4.2, 4.9)."""
    handler, dead = Twice(), Dead(serve.path)
    service = await serve({"Do": handler}, policy=brief(), store=dead)
    alive = await serve({"Do": handler}, policy=brief())
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began[0].wait()
    dead.cut_off()
    refused(await alive.call("Do", key=key), "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
    assert (await alive.the_record()).state is State.HELD
    dead.down.clear()
    handler.go[0].open()
    assert (await first).text == "run 1"
    reply = await alive.call("Do", key=key)
    assert (reply.text, reply.mark, handler.attempts) == ("run 1", "replayed", [1])


async def test_another_request_does_not_take_over(serve: Servers) -> None:
    """A call with another request does not run in the place of a dead one: its key is reused (3.2, 4.9)."""
    handler, dead = Twice(), Dead(serve.path)
    service = await serve({"Do": handler}, policy=brief(Effects.REPEATABLE), store=dead)
    alive = await serve({"Do": handler}, policy=brief(Effects.REPEATABLE))
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", "buy one of them", key=key))
    await handler.began[0].wait()
    dead.cut_off()

    async def lapsed() -> bool:
        return (await alive.the_record()).lapsed

    await until(lapsed)
    reply = await alive.call("Do", "buy two of them", key=key)
    refused(reply, "KEY_REUSED", grpc.StatusCode.FAILED_PRECONDITION)
    assert len(handler.attempts) == 1
    dead.down.clear()
    handler.go[0].open()
    assert (await first).text == "run 1"


async def test_a_record_names_the_process_that_runs_it(serve: Servers) -> None:
    """Host and process id, for an operator who wonders where it runs, or ran (6.4)."""
    handler, store = Blocking(), FlakyStore(serve.path)
    service = await serve({"Do": handler}, store=store)
    call = service.start("Do", key=new_key())
    await handler.began.wait()
    (record,) = await store.list()
    assert record.owner == f"{socket.gethostname()}:{os.getpid()}"
    handler.go.open()
    await call.end()
    (record,) = await store.list()
    assert record.owner == ""
