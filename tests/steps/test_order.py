"""A run's steps: which may come, in which order, and when no more (5.2)."""

import asyncio
import logging
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Database, aio, current_operation
from grpc_idempotency.errors import StepMisuse

from ..harness.replies import new_key, text
from ..harness.servers import Servers, answered
from ..harness.waiting import Gate
from .operations import Flaky, Log, Told, here, inserted, make_table


async def test_a_repeated_name(serve: Servers, log: Log) -> None:
    """Two steps of one name in a run are told as such, and the second does not run (5.2)."""
    told = Told()

    async def do(_request: StringValue, _context: Any) -> StringValue:
        await here().step("charge", log.does("charge"))
        await told.hears(here().step("charge", log.does("charge again")))
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert told.errors == ["there are two steps 'charge' in one run: each needs a name of its own"]
    assert log.done == ["charge"]


@pytest.mark.parametrize("name", ["", "undo:a"])
async def test_reserved_names(serve: Servers, log: Log, name: str) -> None:
    """A name that is empty or the library's own is told as such (5.2)."""
    told = Told()

    async def do(_request: StringValue, _context: Any) -> StringValue:
        await told.hears(here().step(name, log.does("it")))
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert "can't be a step's name" in told.errors[0]
    assert log.done == []


async def test_another_order_in_a_later_run(serve: Servers, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """A run whose finished steps come in another order is told so, by name, and the log names the handler (5.2)."""
    runs = []

    async def do(_request: StringValue, context: Any) -> StringValue:
        runs.append(1)
        for name in ("a", "b") if len(runs) != 2 else ("b", "a"):
            await here().step(name, log.does(name))
        if len(runs) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not just now")
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert log.done == ["a", "b"]
    (raised,) = [record for record in caplog.records if record.exc_info]
    assert "the handler of /test.Service/Do raised" in raised.getMessage()
    assert raised.exc_info is not None
    assert "step 'a' came before step 'b' in an earlier run and comes after it" in str(raised.exc_info[1])


async def test_left_out_steps_are_logged(serve: Servers, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that takes another path in a later run is told of the steps that it left out, in the log (5.2)."""
    flaky = Flaky()

    async def do(_request: StringValue, context: Any) -> StringValue:
        if not flaky.runs:
            await here().step("a", log.does("a"))
        await flaky(context)
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert [record.levelno for record in caplog.records if "left out steps" in record.getMessage()] == [logging.ERROR]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_step_after_the_reply_was_committed(serve: Servers, log: Log) -> None:
    """Once a handler's transaction has committed its reply, a step is too late, and told so (5.1, 5.2)."""
    make_table(serve.path)
    told, store = Told(), serve.store()

    async def do(_request: StringValue, _context: Any) -> StringValue:
        reply = await answered(store.transaction(lambda _db: text("committed")))
        await told.hears(here().step("late", log.does("late")))
        return reply  # type: ignore[no-any-return]  # a store of either kind

    service = await serve({"Do": do}, store=store)
    assert (await service.call("Do", key=new_key())).text == "committed"
    assert "committed its reply" in told.errors[0]
    assert log.done == []


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_the_handlers_own_transaction_within_a_step(serve: Servers, log: Log) -> None:
    """``store.transaction`` in a step would make the step's rows the reply: it raises, and says what to write (5.2)."""
    make_table(serve.path)
    store = serve.store()

    def insert(db: Database) -> StringValue:
        db.execute("INSERT INTO things (value) VALUES ('x')")
        return text("not a reply")

    async def do(_request: StringValue, _context: Any) -> StringValue:
        try:
            await here().step("a", lambda: store.transaction(insert))
        except Exception as exc:
            return text(f"{type(exc).__name__}: {exc}")
        return text("done")

    service = await serve({"Do": do}, store=store)
    reply = await service.call("Do", key=new_key())
    assert reply.text.startswith("TransactionMisuse: ")
    assert "transaction=True" in reply.text
    assert inserted(serve.path) == []


# Concurrent steps


@pytest.mark.parametrize("kind", ["async"])
async def test_concurrent_steps(serve: Servers, log: Log) -> None:
    """Steps that run at the same time may end in any order, and begin in another one in the next run (5.2)."""
    runs = []

    async def do(_request: StringValue, context: Any) -> StringValue:
        runs.append(1)
        gates = {name: Gate() for name in "abc"}

        async def ends_last_to_first(name: str) -> str:
            log.done.append(name)
            if name != "c":
                await gates[chr(ord(name) + 1)].wait()
            gates[name].open()
            return name.upper()

        names = "abc" if len(runs) == 1 else "cab"
        got = await asyncio.gather(*(here().step(name, lambda n=name: ends_last_to_first(n)) for name in names))
        if len(runs) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not just now")
        return text("".join(got))

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "CAB"
    assert log.done == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["async"])
async def test_a_step_that_still_runs_when_another_failed(serve: Servers, log: Log) -> None:
    """An operation is settled once none of its steps runs: one that ends late is undone as the others (5.2)."""
    slow, ended = Gate(), Gate()

    async def do(_request: StringValue, context: Any) -> StringValue:
        async def fails() -> None:
            await slow.wait()
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

        async def succeeds() -> None:
            slow.open()
            await ended.wait()
            log.done.append("slow")

        try:
            await asyncio.gather(here().step("fails", fails), here().step("slow", succeeds, undo=log.does("undo slow")))
        finally:
            ended.open()
        raise AssertionError

    service = await serve({"Do": do})
    key = new_key()
    replies = [await service.call("Do", key=key) for _ in range(2)]
    assert [(reply.details, reply.mark) for reply in replies] == [
        ("no such thing", "executed"),
        ("no such thing", "replayed"),
    ]
    assert log.done == ["slow", "undo slow"]


@pytest.mark.parametrize("kind", ["async"])
async def test_no_step_begins_when_the_handler_has_ended(serve: Servers, log: Log) -> None:
    """A task that a handler leaves behind begins no step any more (5.2)."""
    told, ended, asked = Told(), Gate(), Gate()

    async def do(_request: StringValue, _context: Any) -> StringValue:
        operation = here()

        async def left_behind() -> None:
            await ended.wait()
            await told.hears(operation.step("late", log.does("late")))
            asked.open()

        tasks.append(asyncio.create_task(left_behind()))
        return text("done")

    tasks: list[asyncio.Task[None]] = []
    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    ended.open()
    await asked.wait()
    assert "has ended" in told.errors[0]
    assert log.done == []


# The handler's operation


async def test_which_current_operation(serve: Servers) -> None:
    """A handler that asks for the operation of the other kind is told which function is its own (5.2)."""
    is_async = serve.kind == "async"
    right, wrong = (
        (aio.current_operation, current_operation) if is_async else (current_operation, aio.current_operation)
    )

    async def do(_request: StringValue, _context: Any) -> StringValue:
        assert right() is here().operation
        with pytest.raises(StepMisuse) as told:
            wrong()
        return text(str(told.value))

    service = await serve({"Do": do})
    told = (await service.call("Do", key=new_key())).text
    assert told.endswith(
        "grpc_idempotency.aio.current_operation()" if is_async else "grpc_idempotency.current_operation()"
    )


async def test_a_handler_sees_only_what_it_may_use(serve: Servers) -> None:
    """Of its operation it has the name, the attempt, the principal and the steps; asked again, it is the same one."""
    record: list[tuple[bytes, int, bytes]] = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        operation = here().operation
        assert here().operation is operation
        record.append((operation.name, operation.attempt, operation.principal))
        with pytest.raises(AttributeError):
            operation.attempt = 2
        return text(" ".join(name for name in dir(operation) if not name.startswith("_")))

    service = await serve({"Do": do}, principal=lambda _: "alice")
    assert (await service.call("Do", key=new_key())).text == "attempt name principal step"
    ((name, attempt, principal),) = record
    assert (name, attempt, principal) == ((await service.the_record()).name, 1, b"alice")


async def test_without_a_key_there_is_no_operation(serve: Servers) -> None:
    """A call without a key has no operation, and so no steps (2.4)."""
    from grpc_idempotency.transactions import running_operation

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text(str(running_operation()))

    service = await serve({"Do": do})
    assert (await service.call("Do")).text == "None"
