"""A run that fails between two steps: the operation waits, and runs again (4.6, 5.2)."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, State

from ..harness.handlers import server_stream
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers
from ..harness.waiting import ms
from .operations import REPEATABLE, Flaky, Log, here


@pytest.mark.parametrize("code", ["UNAVAILABLE", "ABORTED", "INTERNAL", "DEADLINE_EXCEEDED", "PERMISSION_DENIED"])
async def test_never_released_with_finished_steps(serve: Servers, log: Log, code: str) -> None:
    """A failure that may pass: the operation waits and runs again within its caller's wait budget (4.6, 5.2)."""
    flaky = Flaky(2, grpc.StatusCode[code])

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"), undo=log.does("undo a"))
        await flaky(context)
        return text(f"attempt {here().operation.attempt}")

    service = await serve({"Do": do}, policies={"Do": REPEATABLE}, attach=False)
    reply = await service.call("Do", key=new_key())
    assert reply.text == "attempt 3"
    assert log.done == ["a"]
    assert (await service.the_record()).attempts == 3


async def test_released_without_finished_steps(serve: Servers, log: Log) -> None:
    """A failure that may pass before any step has finished releases the operation, as ever (4.6)."""
    flaky = Flaky()

    async def do(_request: StringValue, context: Any) -> StringValue:
        await flaky(context)
        return text(str(await here().step("a", log.does("a", "A"))))

    service = await serve({"Do": do})
    key = new_key()
    assert (await service.call("Do", key=key)).status is grpc.StatusCode.UNAVAILABLE
    assert await service.records() == []
    assert (await service.call("Do", key=key)).text == "A"


async def test_the_wait_budget(serve: Servers, log: Log) -> None:
    """A call whose wait budget is spent before the operation is due again is told to come again (4.3, 5.2)."""

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not just now")
        raise AssertionError

    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(60_000), wait=ms(50))
    service = await serve({"Do": do}, policy=policy)
    reply = await service.call("Do", key=new_key())
    refused(reply, "IN_FLIGHT", grpc.StatusCode.UNAVAILABLE)
    assert (await service.the_record()).state is State.WAITING


async def test_back_off(serve: Servers, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between runs double (5.2)."""
    flaky, store, delays = Flaky(3), serve.store(), []
    wait = store.wait

    def noted(name: bytes, fence: bytes, delay: timedelta, *counts: int) -> Any:
        delays.append(delay)
        return wait(name, fence, delay, *counts)

    monkeypatch.setattr(store, "wait", noted)

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"))
        await flaky(context)
        return text("done")

    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(10))
    service = await serve({"Do": do}, store=store, policy=policy, attach=False)
    assert (await service.call("Do", key=new_key())).text == "done"
    assert delays == [ms(10), ms(20), ms(40)]


async def test_given_up_and_undone(serve: Servers, log: Log) -> None:
    """After ``max_tries`` failed runs the steps are undone and ABORTED is stored, with the last text (5.2)."""
    flaky = Flaky(99)

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"), undo=log.does("undo a"))
        await flaky(context)
        raise AssertionError

    service = await serve({"Do": do}, policy=Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), max_tries=3))
    key = new_key()
    first, second = [await service.call("Do", key=key) for _ in range(2)]
    assert first.status is grpc.StatusCode.ABORTED
    assert "failed 3 times and was given up" in first.details
    assert "not just now" in first.details
    assert (second.plain, second.mark) == (first.plain, "replayed")
    assert (log.done, flaky.runs) == (["a", "undo a"], 3)


@pytest.mark.parametrize("kind", ["async"])
async def test_the_execution_limit(serve: Servers, log: Log) -> None:
    """A run that is stopped at its execution limit leaves its finished steps: it runs again (5.2)."""
    runs = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        runs.append(1)
        await here().step("a", log.does("a"))
        if len(runs) == 1:
            await asyncio.sleep(60)
        return text("done")

    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), execution_limit=ms(300))
    service = await serve({"Do": do}, policy=policy)
    assert (await service.call("Do", key=new_key())).text == "done"
    assert (log.done, len(runs)) == (["a"], 2)


# Other kinds of methods


async def test_opaque_methods_may_have_steps(serve: Servers, log: Log) -> None:
    """An opaque handler's failure that may pass waits too; its unclear one is undone and stored (4.5, 4.6, 5.2)."""
    flaky = Flaky()

    async def passing(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"))
        await flaky(context)
        return text("done")

    async def unclear(_request: StringValue, _context: Any) -> StringValue:
        await here().step("b", log.does("b"), undo=log.does("undo b"))
        raise LookupError

    service = await serve({"Passing": passing, "Unclear": unclear}, policy=Policy(retry_delay=ms(20)))
    assert (await service.call("Passing", key=new_key())).text == "done"
    key = new_key()
    replies = [await service.call("Unclear", key=key) for _ in range(2)]
    assert [(reply.status, reply.mark) for reply in replies] == [
        (grpc.StatusCode.UNKNOWN, "executed"),
        (grpc.StatusCode.UNKNOWN, "replayed"),
    ]
    assert log.done == ["a", "b", "undo b"]


async def test_steps_of_a_stream(serve: Servers, log: Log) -> None:
    """A stream that fails between two steps before its first message is sent from its next run (4.8, 5.2)."""
    flaky = Flaky()

    async def do(_request: StringValue, context: Any) -> Any:
        a = await here().step("a", log.does("a", "A"))
        if serve.kind == "async":
            await flaky(context)
        elif not flaky.runs:
            flaky.runs += 1
            raise ConnectionError
        yield text(a)
        yield text(await here().step("b", log.does("b", "B")))

    service = await serve({"Do": server_stream(do)})
    key = new_key()
    for _ in range(2):
        assert (await service.call("Do", key=key)).texts == ["A", "B"]
    assert log.done == ["a", "b"]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_stream_that_was_begun_is_not_mixed(serve: Servers, log: Log) -> None:
    """A caller that has got a failed run's messages gets none of the next one's: it is refused (4.8, 5.2)."""
    flaky = Flaky()

    async def do(_request: StringValue, context: Any) -> Any:
        yield text(await here().step("a", log.does("a", "A")))
        flaky.runs += 1
        if flaky.runs == 1:
            raise ConnectionError
        yield text("B")

    service = await serve({"Do": server_stream(do)})
    key = new_key()
    first = await service.call("Do", key=key)
    assert (first.texts, first.status) == (["A"], grpc.StatusCode.UNAVAILABLE)
    assert (await service.call("Do", key=key)).texts == ["A", "B"]
    assert log.done == ["a"]
