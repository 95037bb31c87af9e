"""What a step keeps: its result, the same in every run, and rows together with it (5.2)."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from grpc_idempotency import Database, PolicyError

from ..harness.replies import new_key, text
from ..harness.servers import Servers
from .operations import Flaky, Log, Told, here, insert, inserted, make_table

RESULTS = {
    "bytes": b"\0\xff",
    "no bytes": b"",
    "message": Int64Value(value=7),
    "text": "a wörd",
    "number": 1.5,
    "none": None,
    "nested": {"a": [1, {"b": None}], "c": True},
}


@pytest.mark.parametrize("store", ["sqlite", "memory"])
async def test_results_are_the_same_in_every_run(serve: Servers, log: Log, store: str) -> None:
    """Bytes, messages and JSON values come back as they were, in the run that made them and in the next (5.2)."""
    flaky, seen = Flaky(), []

    async def do(_request: StringValue, context: Any) -> StringValue:
        got = {name: await here().step(name, log.does(name, result)) for name, result in RESULTS.items()}
        seen.append(got)
        await flaky(context)
        return text("done")

    service = await serve({"Do": do}, store=serve.store(store))
    reply = await service.call("Do", key=new_key())
    assert reply.text == "done"
    assert seen == [RESULTS, RESULTS]
    assert type(seen[1]["message"]) is Int64Value
    assert log.done == list(RESULTS)


async def test_a_result_is_as_kept_in_its_first_run_too(serve: Servers) -> None:
    """A tuple becomes a list and a number in a key a text at once, and not only after a crash (5.2)."""

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text(repr(await here().step("a", lambda: {1: (2, 3)})))

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "{'1': [2, 3]}"


@pytest.mark.parametrize("kind", ["async"])
async def test_a_coroutine_is_awaited(serve: Servers) -> None:
    """An ``async def`` function of a step is awaited, and so is an undo (5.2)."""
    undone = []

    async def later() -> str:
        await asyncio.sleep(0)
        return "later"

    async def undo(result: str) -> None:
        await asyncio.sleep(0)
        undone.append(result)

    async def do(_request: StringValue, context: Any) -> StringValue:
        value = await here().step("a", later, undo=undo)
        await context.abort(grpc.StatusCode.NOT_FOUND, value)
        raise AssertionError

    service = await serve({"Do": do})
    reply = await service.call("Do", key=new_key())
    assert (reply.status, reply.details, undone) == (grpc.StatusCode.NOT_FOUND, "later", ["later"])


@pytest.mark.parametrize("result", [object(), {"a": {1}}, float("nan"), bytearray(b"a")], ids=lambda one: type(one))
async def test_a_result_that_cant_be_kept(serve: Servers, result: object) -> None:
    """A result that is neither bytes nor message nor JSON raises an error that names its type (5.2)."""
    told = Told()

    async def do(_request: StringValue, _context: Any) -> StringValue:
        await told.hears(here().step("a", lambda: result))
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert told.errors[0].startswith("a step's result is kept as bytes, a protobuf message or a JSON value")
    assert type(result).__name__ in told.errors[0]


async def test_a_message_that_nobody_could_read_again(serve: Servers) -> None:
    """A message of a type that is in another pool than the default one is told before it is kept (5.2)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    told = Told()
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="elsewhere.proto", package="elsewhere")
    file.message_type.add(name="Odd")
    pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    odd = message_factory.GetMessageClass(pool.FindMessageTypeByName("elsewhere.Odd"))

    async def do(_request: StringValue, _context: Any) -> StringValue:
        await told.hears(here().step("a", odd))
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert "elsewhere.Odd" in told.errors[0]


# With rows


async def test_rows_and_result_together(serve: Servers) -> None:
    """A step with ``transaction=True`` keeps rows and result together, once over several runs (5.2)."""
    make_table(serve.path)
    flaky, seen = Flaky(2), []

    async def do(_request: StringValue, context: Any) -> StringValue:
        seen.append(await here().step("a", insert("a"), transaction=True))
        seen.append(await here().step("b", insert("b"), transaction=True))
        await flaky(context)
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert inserted(serve.path) == ["a", "b"]
    assert seen == ["row a", "row b"] * 3
    assert await service.steps() == ["a", "b"]


async def test_rows_and_result_or_neither(serve: Servers) -> None:
    """A step's function that raises leaves neither rows nor result: it runs again (5.2)."""
    make_table(serve.path)
    runs = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        runs.append(1)
        await here().step("a", insert("a"), transaction=True)
        return text(
            await here().step("b", insert("b", then=ValueError("x") if len(runs) == 1 else None), transaction=True)
        )

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "row b"
    assert inserted(serve.path) == ["a", "b"]
    assert len(runs) == 2


async def test_a_result_that_cant_be_kept_rolls_back(serve: Servers) -> None:
    """Rows whose step's result can't be kept are rolled back (5.2)."""
    make_table(serve.path)
    told = Told()

    def fn(db: Database) -> object:
        insert("a")(db)
        return object()

    async def do(_request: StringValue, _context: Any) -> StringValue:
        await told.hears(here().step("a", fn, transaction=True))
        return text("done")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key())).text == "done"
    assert (inserted(serve.path), len(told.errors)) == ([], 1)


async def test_a_store_without_transactions(serve: Servers) -> None:
    """``transaction=True`` on a store that has none is told as such (5.2)."""

    async def do(_request: StringValue, _context: Any) -> StringValue:
        try:
            await here().step("a", insert("a"), transaction=True)
        except PolicyError as exc:
            return text(str(exc))
        return text("done")

    service = await serve({"Do": do}, store=serve.store("memory"))
    assert "needs a store with transactions" in (await service.call("Do", key=new_key())).text
