"""Steps in the tasks and threads of a handler: they may come in any order, and are waited for (5.2)."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, State, aio
from grpc_idempotency.errors import StepMisuse

from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, ms
from .operations import Here, here


def beside(operation: Here, name: str, fn: Any, **options: Any) -> "asyncio.Future[Any]":
    """Begins a step in a task of an ``async def`` handler, or in a thread of a ``def`` one."""
    step = operation.operation.step
    awaits = isinstance(operation.operation, aio.Operation)
    work = step(name, fn, **options) if awaits else asyncio.to_thread(step, name, fn, **options)
    begun: asyncio.Future[Any] = asyncio.ensure_future(work)
    return begun


async def test_another_order_of_branches(serve: Servers) -> None:
    """Branches may come to their steps in another order in the next run, though one was over before (5.2)."""
    runs, done = [], []

    async def do(_request: StringValue, context: Any) -> StringValue:
        runs.append(1)
        operation = here()
        await operation.step("begin", lambda: done.append("begin"))
        for name in ("a", "b") if len(runs) == 1 else ("b", "c", "a"):
            await beside(operation, name, lambda name=name: done.append(name))
        await operation.step("end", lambda: done.append("end"))
        if len(runs) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not just now")
        return text("done")

    service = await serve({"Do": do}, policy=Policy(effects=Effects.REPEATABLE, retry_delay=ms(20)))
    assert (await service.call("Do", key=new_key())).text == "done"
    assert done == ["begin", "a", "b", "end", "c"]


async def test_a_step_that_failed_takes_its_place(serve: Servers) -> None:
    """A step that failed, and whose failure the handler bore with, may succeed in the next run (5.2)."""
    runs, done = [], []

    async def do(_request: StringValue, context: Any) -> StringValue:
        runs.append(1)

        def optional() -> None:
            if len(runs) == 1:
                raise ConnectionError
            done.append("optional")

        with suppress(ConnectionError):
            await here().step("optional", optional)
        await here().step("b", lambda: done.append("b"))
        if len(runs) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not just now")
        return text("done")

    service = await serve({"Do": do}, policy=Policy(effects=Effects.REPEATABLE, retry_delay=ms(20)))
    assert (await service.call("Do", key=new_key())).text == "done"
    assert done == ["b", "optional"]


async def test_a_late_step_is_undone(serve: Servers) -> None:
    """A step that a handler's task or thread still runs when the handler fails is waited for, and undone (5.2)."""
    began, ends, done = Gate(), Gate(), []
    loop, pool = asyncio.get_running_loop(), ThreadPoolExecutor(1)
    left: list[Any] = []

    def in_thread() -> None:
        began.open()
        asyncio.run(ends.wait())
        done.append("slow")

    async def in_task() -> None:
        began.open()
        await ends.wait()
        done.append("slow")

    def undo(_result: object) -> None:
        done.append("undo")

    async def do(_request: StringValue, context: Any) -> StringValue:
        step = here().operation.step
        if serve.kind == "async":
            left.append(asyncio.ensure_future(step("slow", in_task, undo=undo)))
        else:
            left.append(pool.submit(step, "slow", in_thread, undo=undo))
        await began.wait()
        loop.call_soon_threadsafe(loop.call_later, 0.05, ends.open)  # the handler has ended by then
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        raise AssertionError

    service = await serve({"Do": do})
    key = new_key()
    replies = [await service.call("Do", key=key) for _ in range(2)]
    assert [(reply.details, reply.mark) for reply in replies] == [
        ("no such thing", "executed"),
        ("no such thing", "replayed"),
    ]
    assert done == ["slow", "undo"]
    pool.shutdown()


async def test_branches_are_undone_in_whatever_order_they_come(serve: Servers) -> None:
    """A run that only undoes lets a slow branch come to its finished step, though a fast one is through (5.2)."""
    tries, done = [], []

    def undo(_result: object) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        done.append("undo")

    async def do(_request: StringValue, context: Any) -> StringValue:
        operation = here()

        async def slow() -> None:
            await asyncio.sleep(0.05 if tries else 0)
            await beside(operation, "slow", lambda: done.append("slow"), undo=undo)

        branches: list[Any] = [asyncio.ensure_future(slow())]
        if not tries:
            await branches[0]
            await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        branches.append(beside(operation, "fast", lambda: done.append("fast")))
        await asyncio.gather(*branches)
        raise AssertionError

    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), max_tries=2)
    service = await serve({"Do": do}, policy=policy)
    reply = await service.call("Do", key=new_key())
    assert (reply.status, reply.details) == (grpc.StatusCode.NOT_FOUND, "no")
    assert done == ["slow", "undo"]
    assert (await service.the_record()).state is State.COMPLETED


async def test_a_step_within_a_step(serve: Servers) -> None:
    """A later run would not come to a step that is within another one: it is told so, and does not run (5.2)."""
    done: list[str] = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        operation = here().operation
        outer = (lambda: operation.step("inner", lambda: done.append("inner"))) if serve.kind != "async" else None

        async def awaited() -> None:
            task = asyncio.ensure_future(operation.step("inner", lambda: done.append("inner")))
            await task  # a task that the step has started is within it, too

        with pytest.raises(StepMisuse, match="'inner' can't begin within step 'outer'"):
            await here().step("outer", outer or awaited)
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert done == []


@pytest.mark.parametrize("kind", ["async"])
async def test_from_another_event_loop(serve: Servers) -> None:
    """A thread that awaits a step of an ``async def`` handler in a loop of its own is told so (5.2)."""
    done: list[str] = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        operation = here().operation

        async def step() -> None:
            await operation.step("a", lambda: done.append("a"))

        with pytest.raises(StepMisuse, match="in the handler's own event loop"):
            await asyncio.to_thread(lambda: asyncio.run(step()))
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert done == []


@pytest.mark.parametrize("kind", ["thread"])
async def test_from_the_event_loop(serve: Servers) -> None:
    """A step of a ``def`` handler that is begun in the server's event loop would block it for ever: it is told so."""
    done: list[str] = []
    loop = asyncio.get_running_loop()

    async def do(_request: StringValue, _context: Any) -> StringValue:
        operation = here().operation

        async def in_loop() -> None:
            operation.step("a", lambda: done.append("a"))

        with pytest.raises(StepMisuse, match="would block the server's event loop"):
            asyncio.run_coroutine_threadsafe(in_loop(), loop).result(10)
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert done == []
