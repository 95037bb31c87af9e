"""Only a handler itself and its steps have the operation; what they start has transactions of its own (5.1)."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode

from grpc_idempotency import Database, Effects, Policy
from grpc_idempotency.errors import TransactionMisuse
from grpc_idempotency.transactions import running_operation

from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.waiting import Gate
from .operations import here, inserted, make_table

EFFECTS = pytest.mark.parametrize("effects", [Effects.OPAQUE, Effects.TRANSACTIONAL])


class Rows:
    """The store's transactions, as a handler of each kind makes them."""

    def __init__(self, serve: Servers) -> None:
        make_table(serve.path)
        self.store = serve.store()
        self._kind = serve.kind
        self._loop = asyncio.get_running_loop()

    async def transact(self, fn: Callable[[Database], Any]) -> Any:
        if self._kind == "async":
            return await self.store.transaction(fn)
        return self.transact_on_thread(fn)

    def transact_on_thread(self, fn: Callable[[Database], Any]) -> Any:
        if self._kind == "sync":
            return self.store.transaction(fn)
        return asyncio.run_coroutine_threadsafe(self.store.transaction(fn), self._loop).result(10)

    def start(self, fn: Callable[[Database], Any], when: Gate, told: list[Any], over: Gate) -> object:
        """Begins what an ``async def`` handler leaves to a task, and a ``def`` one to a thread that copies contexts."""

        async def work() -> None:
            await when.wait()
            told.append(running_operation())
            try:
                told.append(await self.transact(fn))
            except TransactionMisuse as exc:
                told.append(exc)
            over.open()

        if self._kind == "async":
            return asyncio.ensure_future(work())
        here = contextvars.copy_context()
        thread = threading.Thread(target=lambda: here.run(asyncio.run, work()), daemon=True)
        thread.start()
        return thread


def insert(value: str, reply: Any = None) -> Callable[[Database], Any]:
    def fn(db: Database) -> Any:
        db.execute("INSERT INTO things (value) VALUES (?)", (value,))
        return reply

    return fn


@EFFECTS
@pytest.mark.parametrize("moment", ["while it runs", "after it"])
async def test_a_background_transaction(serve: Servers, effects: Effects, moment: str) -> None:
    """A transaction in a task or a thread that a handler started is just a transaction, and never the reply (5.1)."""
    rows, go, over, told, kept = Rows(serve), Gate(), Gate(), [], []  # type: ignore[var-annotated]  # all sorts of things

    async def do(_request: StringValue, _context: Any) -> StringValue:
        kept.append(rows.start(insert("audit", "a value"), go, told, over))
        if moment == "while it runs":
            go.open()
            await over.wait()
        return text("reply")

    service = await serve({"Do": do}, store=rows.store, policy=Policy(effects=effects))
    key = new_key()
    first = await service.call("Do", key=key)
    go.open()
    await over.wait()
    again = await service.call("Do", key=key)
    assert [(one.text, one.mark) for one in (first, again)] == [("reply", "executed"), ("reply", "replayed")]
    assert (told, inserted(serve.path)) == ([None, "a value"], ["audit"])


@EFFECTS
async def test_beside_the_handlers_own(serve: Servers, effects: Effects) -> None:
    """A background transaction and the handler's own one do not hinder each other (5.1)."""
    rows, go, over, told, kept = Rows(serve), Gate(), Gate(), [], []  # type: ignore[var-annotated]  # all sorts of things

    async def do(_request: StringValue, _context: Any) -> Any:
        kept.append(rows.start(insert("audit"), go, told, over))
        reply = await rows.transact(insert("own", text("reply")))
        go.open()
        await over.wait()
        return reply

    service = await serve({"Do": do}, store=rows.store, policy=Policy(effects=effects))
    key = new_key()
    replies = [await service.call("Do", key=key) for _ in range(2)]
    assert [(one.text, one.mark) for one in replies] == [("reply", "executed"), ("reply", "replayed")]
    assert (told, inserted(serve.path)) == ([None, None], ["own", "audit"])


async def test_a_response_from_elsewhere_is_refused(serve: Servers) -> None:
    """A transaction of a task or thread that makes the response is rolled back: its rows would lack the outcome."""
    rows, go, over, told, kept = Rows(serve), Gate(), Gate(), [], []  # type: ignore[var-annotated]  # all sorts of things

    async def do(_request: StringValue, _context: Any) -> StringValue:
        go.open()
        kept.append(rows.start(insert("lost", text("a response")), go, told, over))
        await over.wait()
        return text("reply")

    service = await serve({"Do": do}, store=rows.store)
    assert (await service.call("Do", key=new_key())).text == "reply"
    assert isinstance(told[1], TransactionMisuse)
    assert "Call store.transaction in the handler itself" in str(told[1])
    assert inserted(serve.path) == []


@pytest.mark.parametrize("kind", ["async"])
@pytest.mark.parametrize("way", ["wait_for", "gather", "shield", "task"])
async def test_awaited_in_another_task(serve: Servers, way: str) -> None:
    """Whose a transaction is, is decided when it is called: wherever it is awaited then, it commits the reply (5.1)."""
    rows = Rows(serve)

    async def do(_request: StringValue, _context: Any) -> Any:
        transaction = rows.store.transaction(insert("own", text("reply")))
        if way == "wait_for":
            reply = await asyncio.wait_for(transaction, 10)
        elif way == "gather":
            (reply,) = await asyncio.gather(transaction)
        elif way == "shield":
            reply = await asyncio.shield(transaction)
        else:
            reply = await asyncio.create_task(transaction)
        running = running_operation()
        assert running is not None
        assert running.committed is not None
        return reply

    service = await serve({"Do": do}, store=rows.store, policy=Policy(effects=Effects.TRANSACTIONAL))
    key = new_key()
    replies = [await service.call("Do", key=key) for _ in range(2)]
    assert [(one.text, one.mark) for one in replies] == [("reply", "executed"), ("reply", "replayed")]
    assert inserted(serve.path) == ["own"]


@pytest.mark.parametrize("kind", ["thread"])
async def test_run_in_the_loop_for_a_thread(serve: Servers) -> None:
    """A ``def`` handler that has its transaction awaited in the server's loop commits its reply with it (5.1)."""
    rows = Rows(serve)

    async def do(_request: StringValue, _context: Any) -> Any:
        reply = rows.transact_on_thread(insert("own", text("reply")))
        running = running_operation()
        assert running is not None
        assert running.committed is not None
        return reply

    service = await serve({"Do": do}, store=rows.store, policy=Policy(effects=Effects.TRANSACTIONAL))
    assert (await service.call("Do", key=new_key())).text == "reply"
    assert inserted(serve.path) == ["own"]


@pytest.mark.parametrize("kind", ["async"])
async def test_a_handler_that_a_wrapper_puts_into_a_task(serve: Servers) -> None:
    """A handler that runs in a task of a wrapper's is told that its reply can't be committed, and has no effect."""
    rows = Rows(serve)

    async def handler() -> Any:
        return await rows.store.transaction(insert("own", text("reply")))

    async def do(_request: StringValue, _context: Any) -> Any:
        with pytest.raises(TransactionMisuse):
            await asyncio.ensure_future(handler())
        return await handler()

    service = await serve({"Do": do}, store=rows.store, policy=Policy(effects=Effects.TRANSACTIONAL))
    assert (await service.call("Do", key=new_key())).text == "reply"
    assert inserted(serve.path) == ["own"]


async def test_steps_have_the_operation(serve: Servers) -> None:
    """A step has the operation, in whatever task or thread it runs; so has its undo, and a transaction's function."""
    seen: list[Any] = []
    make_table(serve.path)

    def look(*_: Any) -> None:
        seen.append(running_operation())

    async def do(_request: StringValue, context: Any) -> StringValue:
        operation = here()
        await operation.step("a", look, undo=look)
        await operation.step("b", look, undo=look, transaction=True)
        if serve.kind == "async":
            await asyncio.ensure_future(operation.step("c", look))
        else:
            await asyncio.to_thread(operation.operation.step, "c", look)
        seen.append(running_operation())
        await context.abort(StatusCode.NOT_FOUND, "no")
        raise AssertionError

    service = await serve({"Do": do})
    await service.call("Do", key=new_key())
    assert len(seen) == 6
    assert None not in seen
    assert len(set(map(id, seen))) == 1
