"""Steps through real servers: each runs once, and its result is the same in every run (5.2)."""

import asyncio
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from grpc_idempotency import Database, Effects, Policy, State, StoreUnavailable, aio, current_operation
from grpc_idempotency.errors import StepMisuse
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore, SQLiteStore

from ..harness.handlers import server_stream
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers, answered
from ..harness.waiting import Gate, ms
from .operations import REPEATABLE, here, inserted, make_table


class Log:
    """What the handlers of a test did, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def does(self, what: str, result: Any = None) -> Any:
        """A step's function, or an undo."""

        def fn(*_: Any) -> Any:
            self.done.append(what)
            return result

        return fn


@pytest.fixture
def log() -> Log:
    return Log()


class Flaky:
    """Fails a few times, in a way that may pass."""

    def __init__(self, times: int = 1, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.runs = 0
        self._times = times
        self._code = code

    async def __call__(self, context: Any) -> None:
        self.runs += 1
        if self.runs <= self._times:
            await context.abort(self._code, "not just now")


# Results

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


# Misuse


class Told:
    """Keeps the StepMisuse that a handler met."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    async def hears(self, step: Any) -> None:
        try:
            await step
        except StepMisuse as exc:
            self.errors.append(str(exc))


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


@pytest.mark.parametrize("result", [object(), {"a": {1}}, float("nan"), bytearray(b"a")], ids=lambda one: type(one))
async def test_a_result_that_cant_be_kept(serve: Servers, result: object) -> None:
    """What is neither bytes nor message nor JSON is told as such, with its type (5.2)."""
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


# Concurrent


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
    failing, slow = Gate(), Gate()

    async def do(_request: StringValue, context: Any) -> StringValue:
        async def fails() -> None:
            await slow.wait()
            failing.open()
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

        async def succeeds() -> None:
            slow.open()
            await failing.wait()
            await asyncio.sleep(0.05)  # the handler has ended by then
            log.done.append("slow")

        await asyncio.gather(here().step("fails", fails), here().step("slow", succeeds, undo=log.does("undo slow")))
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
    """What a handler leaves behind, a task, begins no step any more (5.2)."""
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


# Transactions


def insert(value: str, *, then: Exception | None = None) -> Any:
    def fn(db: Database) -> str:
        db.execute("INSERT INTO things (value) VALUES (?)", (value,))
        if then is not None:
            raise then
        return f"row {value}"

    return fn


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
        except grpc_error() as exc:
            return text(str(exc))
        return text("done")

    service = await serve({"Do": do}, store=serve.store("memory"))
    assert "needs a store with transactions" in (await service.call("Do", key=new_key())).text


def grpc_error() -> type[Exception]:
    from grpc_idempotency import PolicyError

    return PolicyError


# Undo


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


# Waiting


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


async def test_back_off(serve: Servers, log: Log) -> None:
    """The waits between runs double (5.2)."""
    flaky, at = Flaky(3), []

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", log.does("a"))
        at.append(asyncio.get_running_loop().time())
        await flaky(context)
        return text("done")

    service = await serve({"Do": do}, policy=Policy(effects=Effects.REPEATABLE, retry_delay=ms(100)), attach=False)
    assert (await service.call("Do", key=new_key())).text == "done"
    gaps = [after - before for before, after in itertools.pairwise(at)]
    assert [gap > least * 0.9 for gap, least in zip(gaps, (0.1, 0.2, 0.4), strict=True)] == [True] * 3, gaps


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


# Limits, zombies


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


async def test_without_a_key_there_is_no_operation(serve: Servers) -> None:
    """A call without a key has no operation, and so no steps (2.4)."""
    from grpc_idempotency._operation.running import current

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text(str(current()))

    service = await serve({"Do": do})
    assert (await service.call("Do")).text == "None"
