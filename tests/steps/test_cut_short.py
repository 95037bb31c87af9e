"""A step that is cut short while the store writes it: what has been done is kept or undone, never forgotten (5.2)."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Database, Effects, FenceRefused, Policy, State, StoreUnavailable, aio
from grpc_idempotency.records import Step

from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, ms
from .operations import here, inserted, make_table

ASYNC = pytest.mark.parametrize("kind", ["async"])


class Slow(aio.SQLiteStore):
    """Holds up the write of the step ``charge``, or of another one."""

    def __init__(self, path: Any, name: str = "charge") -> None:
        super().__init__(path)
        self.began, self.go = Gate(), Gate()
        self._name = name

    async def _passes(self, name: str) -> None:
        if name == self._name:
            self.began.open()
            await self.go.wait()

    async def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        await self._passes(step.name)
        return await super().record_step(name, fence, step)

    async def transaction(self, fn: Any, *, step: Any = None) -> Any:
        await self._passes("charge" if step is not None else "")
        return await super().transaction(fn, step=step)


class Charge:
    """The step, plain or in a transaction, and what it has left."""

    def __init__(self, serve: Servers, transaction: bool) -> None:
        make_table(serve.path)
        self.done: list[str] = []
        self._path = serve.path
        self._transaction = transaction

    def step(self) -> Any:
        if self._transaction:
            return here().step("charge", self._insert, undo=self._delete, transaction=True)
        return here().step("charge", lambda: self.done.append("charge"), undo=lambda _: self.done.append("undo"))

    def check(self, *done: str) -> None:
        assert inserted(self._path) == [] if self._transaction else self.done == list(done)

    def _insert(self, db: Database) -> None:
        db.execute("INSERT INTO things (value) VALUES ('charge')")

    def _delete(self, db: Database, _result: object) -> None:
        assert db.execute("DELETE FROM things WHERE value = 'charge'").rowcount == 1


@ASYNC
@pytest.mark.parametrize("transaction", [False, True])
async def test_cancelled_while_it_is_written(serve: Servers, transaction: bool) -> None:
    """However often it is cancelled, a step ends when the store has answered; a failure then undoes it (5.2)."""
    store, charge = Slow(serve.path), Charge(serve, transaction)

    async def do(_request: StringValue, context: Any) -> StringValue:
        step = asyncio.ensure_future(charge.step())
        await store.began.wait()
        for _ in range(3):
            step.cancel()
            await asyncio.sleep(0)
        assert not step.done()
        store.go.open()
        with suppress(asyncio.CancelledError):
            await step
        assert step.cancelled()
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "too slow")
        raise AssertionError

    service = await serve({"Do": do}, store=store)
    reply = await service.call("Do", key=new_key())
    assert (reply.status, reply.details) == (grpc.StatusCode.FAILED_PRECONDITION, "too slow")
    charge.check("charge", "undo")
    assert await service.steps() == ["charge", "undo:charge"]


@ASYNC
async def test_a_timeout_goes_on_as_one(serve: Servers) -> None:
    """``asyncio.timeout`` around a step raises TimeoutError once the store has answered (5.2)."""
    store = Slow(serve.path)

    async def do(_request: StringValue, _context: Any) -> StringValue:
        asyncio.get_running_loop().call_later(0.05, store.go.open)
        with pytest.raises(asyncio.TimeoutError):  # before Python 3.11 not the built-in one
            await asyncio.wait_for(here().step("charge", lambda: 1), 0.001)
        return text(",".join(await service.steps()))

    service = await serve({"Do": do}, store=store)
    assert (await service.call("Do", key=new_key())).text == "charge"


@ASYNC
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("tries", [1, 2])
async def test_the_handler_is_cancelled(serve: Servers, transaction: bool, tries: int) -> None:
    """A handler that is cancelled while its step is written: the next run has the step, or it is undone (4.5, 5.2)."""
    store, charge = Slow(serve.path), Charge(serve, transaction)
    runs: list[int] = []

    async def cut(task: "asyncio.Task[Any]") -> None:
        await store.began.wait()
        task.cancel()
        asyncio.get_running_loop().call_later(0.02, store.go.open)

    async def do(_request: StringValue, context: Any) -> StringValue:
        runs.append(1)
        if len(runs) == 1:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(asyncio.create_task(cut(task)))
        await charge.step()
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    tasks: list[asyncio.Task[None]] = []
    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), max_tries=tries)
    service = await serve({"Do": do}, store=store, policy=policy)
    reply = await service.call("Do", key=new_key())
    assert reply.status is (grpc.StatusCode.ABORTED if tries == 1 else grpc.StatusCode.NOT_FOUND)
    charge.check("charge", "undo")
    assert len(runs) == tries


@ASYNC
async def test_left_running_by_a_handler_that_was_stopped(serve: Servers) -> None:
    """At the execution limit the steps in a handler's tasks are stopped too, and waited for (4.4, 5.2)."""
    ended: list[int] = []
    runs: list[int] = []

    async def stays() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ended.append(len(runs))

    async def do(_request: StringValue, _context: Any) -> StringValue:
        runs.append(1)
        if len(runs) == 1:
            tasks.append(asyncio.ensure_future(here().step("stays", stays)))
            await asyncio.sleep(60)
        return text("done")

    tasks: list[asyncio.Task[Any]] = []
    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), execution_limit=ms(150))
    service = await serve({"Do": do}, policy=policy)
    assert (await service.call("Do", key=new_key())).text == "done"
    assert (ended, len(runs)) == ([1], 2)
    assert tasks[0].cancelled()


@ASYNC
async def test_an_undo_that_is_stopped_while_it_is_written(serve: Servers) -> None:
    """An undo that the execution limit stops while the store writes it is not done again (5.2)."""
    store, undone = Slow(serve.path, "undo:charge"), []

    def undo(_result: object) -> None:
        undone.append(1)
        asyncio.get_running_loop().call_later(0.3, store.go.open)

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("charge", lambda: None, undo=undo)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), execution_limit=ms(150))
    service = await serve({"Do": do}, store=store, policy=policy)
    reply = await service.call("Do", key=new_key())
    assert (reply.status, reply.details, undone) == (grpc.StatusCode.NOT_FOUND, "no", [1])


@pytest.mark.parametrize("lands", [True, False])
@pytest.mark.parametrize(
    ("error", "times"),
    [
        (StoreUnavailable("gone", landed=None), 1),
        (StoreUnavailable("gone", landed=None), 2),
        (asyncio.CancelledError(), 1),
    ],
)
async def test_an_answer_that_is_lost(
    serve: Servers, monkeypatch: pytest.MonkeyPatch, lands: bool, error: BaseException, times: int
) -> None:
    """A step that has been done, and nobody knows whether it was kept, is undone when the operation fails (5.2).

    Before that it is kept if the store can be asked.
    """
    if serve.kind == "sync" and isinstance(error, asyncio.CancelledError):
        pytest.skip("threads are not cancelled")
    store, done = serve.store(), []
    record = store.record_step
    errors = [error] * times

    async def loses(name: bytes, fence: bytes, step: Step) -> bool:
        if lands or not errors:
            assert await record(name, fence, step)
        if errors:
            raise errors.pop()
        return True

    def loses_on_threads(name: bytes, fence: bytes, step: Step) -> bool:
        if lands or not errors:
            assert record(name, fence, step)
        if errors:
            raise errors.pop()
        return True

    async def do(_request: StringValue, context: Any) -> StringValue:
        try:
            await here().step("charge", lambda: done.append("charge"), undo=lambda _: done.append("undo"))
        except (StoreUnavailable, asyncio.CancelledError):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "never mind")
        raise AssertionError

    monkeypatch.setattr(store, "record_step", loses_on_threads if serve.kind == "sync" else loses)
    service = await serve({"Do": do}, store=store)
    reply = await service.call("Do", key=new_key())
    assert (reply.status, reply.details) == (grpc.StatusCode.FAILED_PRECONDITION, "never mind")
    assert done == ["charge", "undo"]


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("lands", [True, False])
async def test_a_transaction_whose_answer_is_lost(serve: Servers, monkeypatch: pytest.MonkeyPatch, lands: bool) -> None:
    """Whether a step's transaction was committed after all, the store knows: it is undone just then (5.2)."""
    make_table(serve.path)
    store = serve.store()
    transaction = store.transaction
    undone: list[int] = []
    lost: list[int] = []

    def loses(fn: Any, *, step: Any = None) -> Any:
        if lost:
            return transaction(fn, step=step)
        lost.append(1)

        async def lose() -> None:
            if lands:
                await transaction(fn, step=step)
            raise StoreUnavailable("gone, for the test", landed=None)

        if serve.kind == "async":
            return lose()
        if lands:
            transaction(fn, step=step)
        raise StoreUnavailable("gone, for the test", landed=None)

    def insert(db: Database) -> None:
        db.execute("INSERT INTO things (value) VALUES ('charge')")

    def delete(db: Database, _result: object) -> None:
        undone.append(db.execute("DELETE FROM things").rowcount)

    async def do(_request: StringValue, context: Any) -> StringValue:
        with suppress(StoreUnavailable):
            await here().step("charge", insert, undo=delete, transaction=True)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "never mind")
        raise AssertionError

    monkeypatch.setattr(store, "transaction", loses)
    service = await serve({"Do": do}, store=store)
    reply = await service.call("Do", key=new_key())
    assert (reply.status, reply.details) == (grpc.StatusCode.FAILED_PRECONDITION, "never mind")
    assert (inserted(serve.path), undone) == ([], [1] if lands else [])


@pytest.mark.slow
@ASYNC
async def test_no_further_undo_of_a_run_that_lost_its_lease(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that could not renew while it undid, and was taken over from, begins no further undo (4.9, 5.2)."""
    began, over, done = Gate(), Gate(), []

    async def cut_off(*_: Any) -> bool:
        raise StoreUnavailable("cut off, for the test")

    async def do(_request: StringValue, context: Any) -> StringValue:
        async def undo_b(_result: object) -> None:
            done.append("undo b")
            began.open()
            if done.count("undo b") == 1:
                await over.wait()

        await here().step("a", lambda: None, undo=lambda _: done.append("undo a"))
        await here().step("b", lambda: None, undo=undo_b)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        raise AssertionError

    # The lease is long, so that it holds until the first undo begins, on a busy machine too.
    policy = Policy(effects=Effects.REPEATABLE, lease=ms(4000), renew_every=ms(100))
    store = serve.store()
    monkeypatch.setattr(store, "renew", cut_off)
    one = await serve({"Do": do}, policy=policy, store=store, attach=False)
    another = await serve({"Do": do}, policy=policy, attach=False)
    key = new_key()
    first = asyncio.ensure_future(one.call("Do", key=key))

    await began.wait()
    assert (await another.call("Do", key=key)).details == "no"
    over.open()
    assert (await first).details == "no"
    assert done == ["undo b", "undo b", "undo a"]
    assert (await another.the_record()).state is State.COMPLETED


@ASYNC
async def test_no_step_of_a_run_that_lost_its_lease(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its lease has run out, a run begins no step, though nobody has taken over and told it so (4.9)."""
    done, errors = [], []

    async def cut_off(*_: Any) -> bool:
        raise StoreUnavailable("cut off, for the test")

    async def do(_request: StringValue, _context: Any) -> StringValue:
        done.append("run")
        await here().step("a", lambda: done.append("a"))
        if len(done) == 2:
            await asyncio.sleep(0.25)
        try:
            await here().step("b", lambda: done.append("b"))
        except FenceRefused as exc:
            errors.append(str(exc))
            raise
        return text("done")

    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), lease=ms(200), renew_every=ms(50))
    store = serve.store()
    monkeypatch.setattr(store, "renew", cut_off)
    service = await serve({"Do": do}, policy=policy, store=store, attach=False)
    assert (await service.call("Do", key=new_key())).text == "done"
    assert [one for one in done if one != "run"] == ["a", "b"]
    assert done[0] == "run"
    assert done.count("run") == 1 + len(errors)  # on a slow machine the lease of a further run may run out, too
    assert errors
    assert all("lease has run out" in error for error in errors)
