"""Calls and runs on ``grpc.aio``, cancelled at any await: nothing happens twice, and nothing is stuck (4.1, 4.4)."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy
from grpc_idempotency._server.aio.run import AioRun
from grpc_idempotency.aio import current_operation, store_from_url
from grpc_idempotency.transactions import Database

from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers
from ..harness.waiting import ms
from .conftest import ONE_SERVER

T = TypeVar("T")

on_each = pytest.mark.parametrize("url", ONE_SERVER, indirect=True)


@dataclass
class Cut:
    """Awaits a coroutine, and cancels the task that does so when it is suspended for the ``at``-th time."""

    at: int
    happened: bool = False

    async def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        result: T = await _Counted(work, self)
        return result


class _Counted:
    def __init__(self, work: Coroutine[Any, Any, Any], cut: Cut) -> None:
        self._work = work
        self._cut = cut

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        step, argument, suspensions = self._work.send, None, 0
        while True:
            try:
                waited_for = step(argument)
            except StopIteration as ended:
                return ended.value
            if suspensions == self._cut.at:
                self._cut.happened = True
                asyncio.get_running_loop().call_soon(task.cancel)
            suspensions += 1
            try:
                argument = yield waited_for
            except BaseException as error:
                step, argument = self._work.throw, error
            else:
                step = self._work.send


class Cutting(grpc.aio.ServerInterceptor):
    """Cuts calls off around the library's interceptor, as long as there is a cut."""

    cut: Cut | None = None

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        inner = handler.unary_unary

        async def behaviour(request: Any, context: Any) -> Any:
            if self.cut is None:
                return await inner(request, context)
            try:
                return await self.cut(inner(request, context))
            except asyncio.CancelledError:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut off")

        return grpc.unary_unary_rpc_method_handler(behaviour)


@on_each
@pytest.mark.parametrize("effects", [Effects.OPAQUE, Effects.REPEATABLE])
async def test_a_call_that_is_cut_off_at_any_await(serve: Servers, url: str, effects: Effects) -> None:
    """Wherever it is cut off, its retry gets the reply of one run: the operation has no caller, and goes on."""
    runs: Counter[str] = Counter()

    async def run(request: StringValue, _context: Any) -> StringValue:
        await asyncio.sleep(0)
        runs[request.value] += 1
        await asyncio.sleep(0.001)
        return text(f"{request.value}, run {runs[request.value]}")

    cutting = Cutting()
    service = await serve({"Do": run}, store=store_from_url(url), policy=Policy(effects=effects), outside=[cutting])
    for at in range(100):
        key, name = new_key(), f"order {at}"
        cutting.cut = cut = Cut(at)
        first = await service.call("Do", name, key=key)
        cutting.cut = None
        retry = await service.call("Do", name, key=key)
        assert retry.text == f"{name}, run 1"
        assert first.status is (grpc.StatusCode.UNAVAILABLE if cut.happened else grpc.StatusCode.OK)
        if not cut.happened:
            break
    assert at >= 1, "a call waits for its run"
    assert set(runs.values()) == {1}


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> dict[str, Cut]:
    """Cuts off the runs of operations, by the texts of their requests."""
    cuts: dict[str, Cut] = {}
    to_end = AioRun.to_end

    async def cut_off(self: AioRun, operation: Any) -> Any:
        work = to_end(self, operation)
        cut = cuts.pop(self.requests[0].value, None)
        return await (work if cut is None else cut(work))

    monkeypatch.setattr(AioRun, "to_end", cut_off)
    return cuts


@on_each
@pytest.mark.parametrize("effects", [Effects.OPAQUE, Effects.REPEATABLE])
async def test_a_run_that_is_cut_off_at_any_await(
    serve: Servers, url: str, effects: Effects, inside: dict[str, Cut]
) -> None:
    """Its steps are not run again. An opaque one is held, and a repeatable one is run again and has one reply."""
    steps: Counter[str] = Counter()

    async def run(request: StringValue, _context: Any) -> StringValue:
        operation = current_operation()
        assert operation is not None

        async def count() -> int:
            await asyncio.sleep(0)
            steps[request.value] += 1
            return steps[request.value]

        first = await operation.step("first", count)
        await asyncio.sleep(0.001)
        second = await operation.step("second", count)
        return text(f"{request.value}, steps {first} and {second}")

    service = await serve({"Do": run}, store=store_from_url(url), policy=Policy(effects=effects, retry_delay=ms(1)))
    for at in range(100):
        key, name = new_key(), f"order {at}"
        inside[name] = cut = Cut(at)
        await service.call("Do", name, key=key)
        retry = await service.call("Do", name, key=key)
        if cut.happened and effects is Effects.OPAQUE:
            refused(retry, "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
        else:
            assert retry.text.startswith(f"{name}, steps ")
            assert (await service.call("Do", name, key=key)).plain == retry.plain
        if not cut.happened:
            break
    assert at >= 5, "a run waits in both steps, for their results to be stored, and in between"
    assert max(steps.values()) <= 3, "a step that was cut off may run again, and one that is stored does not"


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("awaits", [False, True])
async def test_a_transaction_that_is_cut_off_at_any_await(
    serve: Servers, url: str, awaits: bool, inside: dict[str, Cut]
) -> None:
    """Its rows and its reply are there once, whichever of its runs has committed (5.1)."""
    store: Any = store_from_url(url)
    await store.open()
    await store.transaction(lambda db: db.execute("CREATE TABLE orders (name text)"))

    async def run(request: StringValue, _context: Any) -> StringValue:
        def fn(db: Database) -> StringValue:
            db.execute("INSERT INTO orders VALUES (%s)", (request.value,))
            return text(f"{request.value} is there")

        async def async_fn(connection: Any) -> StringValue:
            await connection.execute("INSERT INTO orders VALUES (%s)", (request.value,))
            return text(f"{request.value} is there")

        await asyncio.sleep(0)
        reply: StringValue = await store.transaction(async_fn if awaits else fn)
        await asyncio.sleep(0)
        return reply

    service = await serve({"Do": run}, store=store, policy=Policy(effects=Effects.TRANSACTIONAL))
    for at in range(100):
        key, name = new_key(), f"order {at}"
        inside[name] = cut = Cut(at)
        await service.call("Do", name, key=key)
        retry = await service.call("Do", name, key=key)
        assert retry.text == f"{name} is there"
        if not cut.happened:
            break
    assert at >= 3, "a run waits before its transaction, for it, and after it"
    rows = await store.read(lambda db: db.execute("SELECT name FROM orders").fetchall())
    assert Counter(name for (name,) in rows) == {f"order {n}": 1 for n in range(at + 1)}
