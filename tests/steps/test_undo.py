"""What was finished is undone for a failure, until nothing of it is left (5.2)."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, State, StoreUnavailable

from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers
from ..harness.stores import FlakyStore
from ..harness.waiting import ms, until
from .operations import Log, here, insert, inserted, make_table


@pytest.mark.parametrize("store", ["sqlite", "memory"])
async def test_undone_in_reverse_before_the_failure(serve: Servers, log: Log, store: str) -> None:
    """A failure for good: undos run in reverse order, each once, with its step's result; then it is stored (5.2)."""

    async def do(_request: StringValue, context: Any) -> StringValue:
        for name in "abc":
            undo = (lambda result: log.done.append(f"undo {result}")) if name != "b" else None
            await here().step(name, log.does(name, name.upper()), undo=undo)
        context.set_trailing_metadata((("x-mine", "1"), ("x-bin", b"\0")))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "too poor")
        raise AssertionError

    service = await serve({"Do": do}, store=serve.store(store))
    key = new_key()
    first, second = [await service.call("Do", key=key) for _ in range(2)]
    assert (first.status, first.details, first.mark) == (grpc.StatusCode.FAILED_PRECONDITION, "too poor", "executed")
    assert (first.trailer("x-mine"), first.trailer("x-bin")) == ("1", b"\0")
    assert (second.plain, second.mark) == (first.plain, "replayed")
    assert log.done == ["a", "b", "c", "undo C", "undo A"]


async def test_an_undos_own_result_does_not_matter(serve: Servers, log: Log) -> None:
    """An undo may return what it likes: nobody gets it (5.2)."""

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"), undo=log.does("undo a", object()))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).status is grpc.StatusCode.NOT_FOUND
    assert log.done == ["a", "undo a"]
    assert (await service.the_record()).state is State.COMPLETED


async def test_a_failing_undo_is_tried_again(serve: Servers, log: Log) -> None:
    """An undo that fails is tried again, and those before it are not; the failure stays what it was (5.2)."""
    tries = []

    def undo_a(_result: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("not reachable")
        log.done.append("undo a")

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"), undo=undo_a)
        await here().step("b", log.does("b"), undo=log.does("undo b"))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no" if not tries else "something else by now")
        raise AssertionError

    service = await serve({"Do": do})
    reply = await service.call("Do", key=new_key())
    assert (reply.status, reply.details) == (grpc.StatusCode.NOT_FOUND, "no")
    assert log.done == ["a", "b", "undo b", "undo a"]


async def test_an_undo_that_keeps_failing_is_held(serve: Servers, log: Log) -> None:
    """Only an undo that fails ``max_tries`` times makes an operation held, with a reason that says so (5.2)."""
    tries = []

    def undo(_result: Any) -> None:
        tries.append(1)
        raise ConnectionError("a secret")

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"), undo=undo)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), max_tries=3)
    service = await serve({"Do": do}, policy=policy)
    reply = await service.call("Do", key=new_key())
    refused(reply, "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
    record = await service.the_record()
    assert record.state is State.HELD
    assert record.reason == "it has failed and could not be undone: an undo failed with ConnectionError"
    assert record.reason in reply.details
    assert "a secret" not in reply.details
    assert (len(tries), log.done) == (3, ["a"])


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, StopIteration, TimeoutError])
async def test_whatever_an_undo_raises(serve: Servers, log: Log, error: type[BaseException]) -> None:
    """An undo that raises what would end a thread or a loop has failed as any other has (4.7, 5.2)."""
    tries = []

    def undo(_result: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise error
        log.done.append("undo a")

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"), undo=undo)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).status is grpc.StatusCode.NOT_FOUND
    assert log.done == ["a", "undo a"]


async def test_an_undo_that_is_not_made_known(serve: Servers, log: Log) -> None:
    """A handler that takes another path while it is undone is told so, and in the end held with that reason (5.2)."""
    tries = []

    def undo(_result: Any) -> None:
        tries.append(1)
        raise ConnectionError

    async def do(_request: StringValue, context: Any) -> StringValue:
        if not tries:
            await here().step("charge", log.does("charge"), undo=undo)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    service = await serve({"Do": do}, policy=Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), max_tries=2))
    refused(await service.call("Do", key=new_key()), "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
    reason = (await service.the_record()).reason
    assert "step 'charge' has to be undone, but the handler has not come to it" in reason


async def test_what_has_failed_does_not_succeed_after_all(serve: Servers, log: Log) -> None:
    """Once an operation is being undone, a later run begins no step and commits nothing (5.2)."""
    make_table(serve.path)
    store, tries, runs = serve.store(), [], []

    def undo(_result: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        log.done.append("undo a")

    async def do(_request: StringValue, context: Any) -> StringValue:
        runs.append(1)
        await here().step("a", log.does("a"), undo=undo)
        if len(runs) == 1:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        if serve.kind == "thread":  # which has no store for threads
            await here().step("b", insert("b"), transaction=True)
            return text("done")
        reply = store.transaction(lambda db: text(insert("b")(db)))
        return reply if serve.kind == "sync" else await reply  # type: ignore[no-any-return]  # a store of either kind

    service = await serve({"Do": do}, store=store)
    reply = await service.call("Do", key=new_key())
    assert (reply.status, reply.details) == (grpc.StatusCode.NOT_FOUND, "no")
    assert (log.done, inserted(serve.path), len(runs)) == (["a", "undo a"], [], 2)


async def test_a_success_is_not_undone(serve: Servers, log: Log) -> None:
    """Undos are for failures alone (5.2)."""

    async def do(_request: StringValue, _context: Any) -> StringValue:
        await here().step("a", log.does("a"), undo=log.does("undo a"))
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert log.done == ["a"]


@pytest.mark.parametrize("kind", ["async"])
async def test_the_execution_limit_of_an_undo(serve: Servers, log: Log) -> None:
    """An undo that does not end is stopped at the execution limit and tried again (4.4, 5.2)."""
    tries = []

    async def undo(_result: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            await asyncio.sleep(60)
        log.done.append("undo a")

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"), undo=undo)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), execution_limit=ms(300))
    service = await serve({"Do": do}, policy=policy)
    assert (await service.call("Do", key=new_key())).status is grpc.StatusCode.NOT_FOUND
    assert log.done == ["a", "undo a"]


async def test_a_run_that_lost_its_lease_is_no_failed_undo(serve: Servers, log: Log) -> None:
    """A run that is refused its steps, since its lease ran out, has undone nothing, and is not counted (5.2)."""
    runs: list[int] = []
    tries: list[int] = []

    def undo(_result: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        log.done.append("undo a")

    async def do(_request: StringValue, context: Any) -> StringValue:
        operation = here()
        runs.append(1)
        if len(runs) == 2:
            store.down.add("renew")

            async def lapsed() -> bool:
                return not operation.operation._running._leased()

            await until(lapsed)
        try:
            await operation.step("a", log.does("a"), undo=undo)
        finally:
            store.down.discard("renew")
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    store = FlakyStore(serve.path)
    policy = Policy(
        effects=Effects.REPEATABLE, retry_delay=ms(20), lease=ms(300), renew_every=ms(100), max_tries=2, wait=ms(15_000)
    )
    service = await serve({"Do": do}, policy=policy, store=store)
    assert (await service.call("Do", key=new_key())).status is grpc.StatusCode.NOT_FOUND
    assert (len(tries), log.done) == (2, ["a", "undo a"])
    assert len(runs) >= 3


async def test_a_step_that_could_not_be_kept_is_undone_however_often_that_is_tried(serve: Servers, log: Log) -> None:
    """It took effect, and the store could not be asked. It is kept before its undo, which may fail and come again."""
    tries: list[int] = []

    def undo(_result: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        log.done.append("undo a")

    async def do(_request: StringValue, context: Any) -> StringValue:
        if not tries:
            store.down.add("record_step")
        try:
            await here().step("a", log.does("a"), undo=undo)
        except StoreUnavailable:
            pass
        finally:
            store.down.discard("record_step")
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    store = FlakyStore(serve.path)
    service = await serve({"Do": do}, store=store)
    assert (await service.call("Do", key=new_key())).status is grpc.StatusCode.NOT_FOUND
    assert (len(tries), log.done) == (2, ["a", "undo a"])
    assert await service.steps() == ["a", "undo:a"]
