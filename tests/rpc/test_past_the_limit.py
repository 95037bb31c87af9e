"""Handlers on ``grpc.aio`` that run on past their execution limit (4.1, 4.4, 4.9)."""

import asyncio

import grpc
import pytest

from grpc_idempotency import Effects, Policy, SQLiteStore, State
from grpc_idempotency._server.aio.executions import Execution

from ..harness.handlers import ALL_KINDS
from ..harness.replies import new_key, refused
from ..harness.servers import Servers, claims
from ..harness.waiting import ms, until
from .counting import EFFECTS, THREAD, Counting, cancel_all

KINDS = ("async", "thread")


@EFFECTS
async def test_past_its_limit_it_keeps_its_operation_as_long_as_it_runs(serve: Servers, effects: Effects) -> None:
    """Callers are answered at the limit; nothing runs beside what can't be stopped, and its end counts (4.1, 4.9)."""
    handler, key = Counting(stubborn=True), new_key()
    policy = Policy(
        **claims(effects), execution_limit=ms(50), lease=ms(300), renew_every=ms(100), wait=ms(900), wait_margin=ms(0)
    )
    service = await serve({"Do": handler}, policy=policy)
    first = await service.call("Do", key=key)
    assert first.status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION)
    # That is three leases long.
    second = await service.call("Do", key=key)
    refused(
        second,
        *(("OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION), ("IN_FLIGHT", grpc.StatusCode.UNAVAILABLE))[
            effects is not Effects.OPAQUE
        ],
    )
    handler.go.open()

    async def completed() -> bool:
        return [one.state for one in await service.records()] == [State.COMPLETED]

    await until(completed)
    assert (await service.call("Do", key=key)).text == "run 1"
    assert (handler.runs, handler.most_inside) == (1, 1)


@THREAD
async def test_past_its_limit_a_thread_keeps_its_lease_without_its_task(serve: Servers) -> None:
    """Whoever cancels its task, nothing runs beside a thread, and what it answers in the end counts (4.1, 4.9)."""
    handler, key = Counting(), new_key()
    policy = Policy(
        effects=Effects.REPEATABLE,
        execution_limit=ms(50),
        lease=ms(300),
        renew_every=ms(100),
        wait=ms(900),
        wait_margin=ms(0),
    )
    service = await serve({"Do": handler}, policy=policy)
    assert (await service.call("Do", key=key)).status is grpc.StatusCode.UNAVAILABLE
    cancel_all()
    refused(await service.call("Do", key=key), "IN_FLIGHT", grpc.StatusCode.UNAVAILABLE)
    handler.go.open()

    async def completed() -> bool:
        return [one.state for one in await service.records()] == [State.COMPLETED]

    await until(completed)
    assert (await service.call("Do", key=key)).text == "run 1"
    assert (handler.runs, handler.most_inside) == (1, 1)


@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_the_answer_at_the_limit_fails(
    serve: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls that wait are answered at the limit, even if the store breaks its contract (4.4)."""
    handler = Counting(stubborn=True)
    service = await serve({"Do": handler}, policy=Policy(execution_limit=ms(50)))

    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("broken, for the test")

    monkeypatch.setattr(service.store.twin or service.store, "hold", broken)
    refused(await service.call("Do", key=new_key()), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)

    async def logged() -> bool:
        return "RuntimeError: broken, for the test" in caplog.text

    await until(logged)
    caplog.clear()
    monkeypatch.undo()
    handler.go.open()


async def test_the_answer_at_the_limit_is_cancelled_before_its_first_step(
    serve: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that wait are answered at the limit, though the task that answers them is cancelled at once (4.4)."""
    handler = Counting(stubborn=True)
    service = await serve({"Do": handler}, policy=Policy(execution_limit=ms(50)))
    abandon = Execution._abandon

    def abandon_and_cancel(execution: Execution) -> None:
        before = asyncio.all_tasks()
        abandon(execution)
        for task in asyncio.all_tasks() - before:
            task.cancel()

    monkeypatch.setattr(Execution, "_abandon", abandon_and_cancel)
    refused(await service.call("Do", key=new_key()), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    handler.go.open()


async def test_handlers_past_their_limit_count_as_detached(serve: Servers) -> None:
    """They take up what they take, though their calls were answered; at its end a server waits for them (4.4, 4.11)."""
    handler = Counting(stubborn=True)
    service = await serve({"Do": handler}, policy=Policy(execution_limit=ms(50)), max_detached=1)
    refused(await service.call("Do", key=new_key()), "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
    refused(await service.call("Do", key=new_key()), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert handler.runs == 1
    stopping = asyncio.ensure_future(service.server.stop(0))
    await asyncio.wait((stopping,), timeout=0.05)
    assert not stopping.done()
    handler.go.open()
    await stopping
    store = SQLiteStore(service.store._path)
    (record,) = await asyncio.to_thread(store.list)
    assert record.state is State.COMPLETED
    await asyncio.to_thread(store.close)
