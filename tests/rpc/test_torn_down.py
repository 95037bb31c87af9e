"""Handlers on ``grpc.aio`` whose tasks are cancelled from inside the server, and servers that end (4.1, 4.4, 4.5)."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, SQLiteStore, State, aio
from grpc_idempotency._operation.sync import wait_in_thread
from grpc_idempotency._server.aio import executions as _aio_executions
from grpc_idempotency._server.aio import interceptor as _aio
from grpc_idempotency._server.aio.executions import Execution, Executions
from grpc_idempotency.records import Claim

from ..harness.handlers import full, server_stream
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers, Service, claims
from ..harness.stores import FlakyStore
from ..harness.waiting import Gate, ms, until
from .test_keys import PACKAGE, Request

KINDS = ("async", "thread")
THREAD = pytest.mark.parametrize("kind", ["thread"])
EFFECTS = pytest.mark.parametrize("effects", Effects)


class Counting:
    """A handler that can be held up, and that knows how many of its runs there are."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.began, self.go = Gate(), Gate()
        self.runs = self.inside = self.most_inside = 0
        self._stubborn = stubborn
        """Whether it swallows cancellations."""
        self._lock = threading.Lock()

    async def __call__(self, _request: StringValue, _context: Any) -> StringValue:
        with self._lock:
            self.runs += 1
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            run = self.runs
        try:
            self.began.open()
            while not self.go.opened:
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    if not self._stubborn:
                        raise
        finally:
            with self._lock:
                self.inside -= 1
        return text(f"run {run}")


def tasks_of_the_library() -> list["asyncio.Task[Any]"]:
    """The tasks that run the library's own coroutines."""
    folder = str(Path(aio.__file__).parent)
    return [
        task
        for task in asyncio.all_tasks()
        if getattr(getattr(task.get_coro(), "cr_code", None), "co_filename", "").startswith(folder)
    ]


def cancel_all() -> None:
    """Cancels them, as a server does that cancels whatever it finds."""
    tasks = tasks_of_the_library()
    assert tasks
    for task in tasks:
        task.cancel()


@THREAD
@EFFECTS
async def test_a_threads_operation_is_not_released(serve: Servers, effects: Effects) -> None:
    """Its task is cancelled, and its thread runs on: it stays claimed, and duplicates get its reply (4.1, 4.3)."""
    handler, key = Counting(), new_key()
    service = await serve({"Do": handler}, policy=Policy(**claims(effects)))
    first = service.start("Do", key=key)
    await handler.began.wait()
    cancel_all()
    await asyncio.sleep(0)
    assert not tasks_of_the_library()  # nothing that a loop would wait for at its end
    assert (await service.the_record()).state is State.RUNNING
    second = service.start("Do", key=key)
    handler.go.open()
    assert (await first.end()).text == (await second.end()).text == "run 1"
    assert (handler.runs, handler.most_inside) == (1, 1)


@EFFECTS
async def test_a_handler_that_swallows_its_cancellation_is_not_released(serve: Servers, effects: Effects) -> None:
    """It still executes, so nothing runs beside it (4.1)."""
    handler, key = Counting(stubborn=True), new_key()
    service = await serve({"Do": handler}, policy=Policy(**claims(effects)))
    first = service.start("Do", key=key)
    await handler.began.wait()
    cancel_all()
    second = service.start("Do", key=key)
    handler.go.open()
    assert (await first.end()).text == (await second.end()).text == "run 1"
    assert (handler.runs, handler.most_inside) == (1, 1)


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


async def test_a_task_that_is_cancelled_before_its_first_step(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is refused at once, and its key stays free (4.1)."""
    handler, key = Counting(), new_key()
    handler.go.open()
    service = await serve({"Do": handler})
    spawn = Executions.spawn

    def spawn_and_cancel(executions: Executions, *given: Any) -> Any:
        task = spawn(executions, *given)
        task.cancel()
        return task

    monkeypatch.setattr(Executions, "spawn", spawn_and_cancel)
    refused(await service.call("Do", key=key), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    monkeypatch.undo()
    assert (await service.call("Do", key=key)).text == "run 1"


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


class Held(FlakyStore):
    """A store whose claims, or completions, wait."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path)
        self._name = name
        self.held, self.go = Gate(), Gate()

    async def _hold(self, name: str) -> None:
        if name == self._name:
            self.held.open()
            await self.go.wait()

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Any:
        found = await super().claim(claim, over=over)
        await self._hold("claim")
        return found

    async def complete(self, *given: Any, **named: Any) -> datetime | None:
        done = await super().complete(*given, **named)
        await self._hold("complete")
        return done


async def test_what_is_cancelled_in_its_claim_never_begins(serve: Servers, tmp_path: Path) -> None:
    """The claim may be there, and nothing ran: it is taken back, so that a retry runs (4.1, 5.5)."""
    handler, key = Counting(), new_key()
    handler.go.open()
    store = Held(tmp_path / "held.db", "claim")
    service = await serve({"Do": handler}, store=store)
    first = service.start("Do", key=key)
    await store.held.wait()
    cancel_all()
    refused(await first.end(), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert handler.runs == 0
    store.go.open()
    assert (await service.call("Do", key=key)).text == "run 1"


@EFFECTS
async def test_what_is_cancelled_in_its_completion_is_completed(
    serve: Servers, tmp_path: Path, effects: Effects
) -> None:
    """The handler's answer is stored and told, whoever cancels (4.4)."""
    handler, key = Counting(), new_key()
    handler.go.open()
    store = Held(tmp_path / "held.db", "complete")
    service = await serve({"Do": handler}, store=store, policy=Policy(**claims(effects)))
    first = service.start("Do", key=key)
    await store.held.wait()
    cancel_all()
    store.go.open()
    assert (await first.end()).text == "run 1"
    assert (await service.call("Do", key=key)).mark == "replayed"
    assert handler.runs == 1


async def streaming(serve: Servers, export: Any, **options: Any) -> Service:
    """A server of one stream of a ``def`` generator."""
    method = server_stream(export, native=True, request=Request, reply=Request)
    return await serve({"Do": method}, service=f"{PACKAGE}.Service", **options)


@THREAD
@pytest.mark.parametrize("effects", [Effects.OPAQUE, Effects.REPEATABLE])
async def test_a_stream_whose_thread_waits_for_its_readers(serve: Servers, effects: Effects) -> None:
    """A stream goes on to its end and is stored, whatever is cancelled in the loop meanwhile (4.5, 4.8)."""
    emitted = []

    def export(_request: Any, _context: Any) -> Iterator[Any]:
        for number in range(400):
            emitted.append(number)
            yield Request(body="x" * 65536)

    async def held_up() -> bool:
        before = len(emitted)
        await asyncio.sleep(0.05)
        return 0 < before == len(emitted)

    service = await streaming(serve, export, policy=Policy(**claims(effects)))
    call = service.start("Do", Request(request_id=new_key()))
    await call.read()
    await until(held_up)
    assert len(emitted) < 400
    cancel_all()
    reply = await call.end()
    assert (len(reply.messages), reply.status) == (400, grpc.StatusCode.OK)


@THREAD
async def test_an_unkeyed_generator_stays_in_its_thread(serve: Servers) -> None:
    """An un-keyed generator runs in one thread with its context variables, and ends there with its client (2.4)."""
    seen, ended = set(), Gate()
    variable: ContextVar[str] = ContextVar("variable", default="lost")

    def export(_request: Any, _context: Any) -> Iterator[Any]:
        token = variable.set("kept")
        try:
            while True:
                seen.add((threading.get_ident(), variable.get()))
                yield Request(body="x")
        finally:
            variable.reset(token)
            seen.add((threading.get_ident(), "kept"))
            ended.open()

    service = await streaming(serve, export)
    call = service.start("Do", Request())
    await call.read()
    seen.clear()
    call.cancel()
    await ended.wait()
    assert {value for _, value in seen} == {"kept"}
    assert len(seen) == 1


async def test_a_transaction_that_does_not_end_keeps_no_server_from_stopping(
    serve: Servers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the store from being closed: that is waited for within the drain limit (4.4)."""
    for module in (_aio, _aio_executions):
        monkeypatch.setattr(module, "STOPPING", 0.05)
    began, go = Gate(), threading.Event()
    store = FlakyStore(serve.path)

    def fn(_db: Any) -> StringValue:
        began.open()
        assert go.wait(60)
        return text("done")

    async def handler(_request: Any, _context: Any) -> StringValue:
        return await store.transaction(fn)

    service = await serve(
        {"Do": handler}, store=store, drain_limit=ms(50), policy=Policy(effects=Effects.TRANSACTIONAL)
    )
    call = service.start("Do", key=new_key())
    await began.wait()
    try:
        await service.server.stop(0)
        assert "the store could not be closed within the drain limit" in caplog.text
        assert (await call.end()).status is not grpc.StatusCode.OK
    finally:
        go.set()


async def test_sweeps_and_recovery_go_on(serve: Servers) -> None:
    """Cancelled with all other tasks, they begin again with the next keyed call (5.4)."""
    handler = Counting()
    handler.go.open()
    service = await serve({"Do": handler}, policy=Policy(effects=Effects.REPEATABLE))
    before = len(tasks_of_the_library())
    cancel_all()
    await asyncio.sleep(0)
    await service.call("Do", key=new_key())

    async def again() -> bool:
        return len(tasks_of_the_library()) == before

    assert before == 2
    await until(again)


@THREAD
async def test_a_thread_that_can_not_be_started(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is refused, nothing is claimed, and the next one runs (4.1, 4.4)."""
    handler, key = Counting(), new_key()
    handler.go.open()
    service = await serve({"Do": handler})
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == "grpc-idempotency-handler":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    refused(await service.call("Do", key=key), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert await service.records() == []
    monkeypatch.undo()
    assert (await service.call("Do", key=key)).text == "run 1"


@THREAD
async def test_no_handler_waits_for_the_loops_own_threads(serve: Servers) -> None:
    """A keyed handler begins at once, whatever takes up the threads of the loop's executor (4.1)."""
    busy = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    taken = loop.run_in_executor(None, busy.wait)
    handler, key = Counting(), new_key()
    handler.go.open()
    service = await serve({"Do": handler})
    assert (await service.call("Do", key=key)).text == "run 1"
    busy.set()
    await taken


async def test_a_handler_that_does_not_end_does_not_keep_a_server_from_stopping(serve: Servers) -> None:
    """After the drain limit what can't finish is left as that of a dead server (4.4)."""
    handler = Counting(stubborn=True)
    service = await serve({"Do": handler}, drain_limit=ms(50))
    first = service.start("Do", key=new_key())
    await handler.began.wait()
    await service.server.stop(0)
    assert handler.inside == 1
    assert (await first.end()).status is not grpc.StatusCode.OK
    store = SQLiteStore(service.store._path)
    (record,) = await asyncio.to_thread(store.list)
    assert record.state is State.RUNNING
    handler.go.open()

    async def ended() -> bool:
        return not handler.inside

    await until(ended)
    await asyncio.to_thread(store.close)


async def test_a_cancelled_wait_drains(serve: Servers) -> None:
    """Ctrl-C cancels ``wait_for_termination``: what runs comes to its end and is stored before that goes on (4.4)."""
    handler, key = Counting(), new_key()
    service = await serve({"Do": handler})
    waiting = asyncio.ensure_future(service.server.wait_for_termination())
    first = service.start("Do", key=key)
    await handler.began.wait()
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    handler.go.open()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await first.end()).text == "run 1"
    store = SQLiteStore(service.store._path)
    (record,) = await asyncio.to_thread(store.list)
    assert record.state is State.COMPLETED
    await asyncio.to_thread(store.close)


def test_the_end_of_the_loop_releases_no_thread(kind: str, tmp_path: Path) -> None:
    """``asyncio.run`` ends with a handler under way: no thread holds it up, or has its operation released (4.1, 8)."""
    path, key = tmp_path / "end.db", new_key()
    began, go, ended, runs = threading.Event(), threading.Event(), threading.Event(), []

    def on_thread(_request: bytes, _context: Any) -> bytes:
        runs.append(1)
        began.set()
        assert go.wait(20)
        ended.set()
        return b"done"

    async def in_loop(_request: bytes, _context: Any) -> bytes:
        runs.append(1)
        began.set()
        await asyncio.sleep(20)
        return b"done"

    port, renewed = list[int](), FlakyStore(path)

    async def serve_and_forget() -> None:
        policy = Policy(effects=Effects.REPEATABLE, lease=ms(800), renew_every=ms(100))
        server = grpc.aio.server(interceptors=[aio.IdempotencyInterceptor(renewed, policy=policy)])
        handler: Any = grpc.unary_unary_rpc_method_handler(on_thread if kind == "thread" else in_loop)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {"Do": handler}),))
        port.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await asyncio.to_thread(began.wait, 20)

    serving = threading.Thread(target=asyncio.run, args=(serve_and_forget(),))
    serving.start()
    while not port:
        time.sleep(0.001)
    with grpc.insecure_channel(f"127.0.0.1:{port[0]}") as channel:
        method: Any = channel.unary_unary(full("Do"))
        call = method.future(b"", metadata=(("idempotency-key", key),), timeout=20)
        assert began.wait(20)
        store = SQLiteStore(path)
        serving.join(20)
        assert not serving.is_alive()
        call.cancel()
        states = [one.state for one in store.list()]
        assert states == ([State.RUNNING] if kind == "thread" else [])
        if kind == "thread":
            # Its lease is renewed until the thread ends; then it runs out.
            while renewed.asked["renew"] < 10:
                time.sleep(0.01)
            assert not store.list()[0].lapsed
            go.set()
            while not store.list()[0].lapsed:
                time.sleep(0.01)
            assert ended.is_set()
        store.close()
    assert len(runs) == 1


@THREAD
async def test_a_timeout_that_a_thread_waits_for_is_told(kind: str) -> None:
    """An error of a store's call reaches the handler's thread, a TimeoutError of its own too."""

    async def fails() -> None:
        raise asyncio.TimeoutError("its own")

    with pytest.raises(asyncio.TimeoutError, match="its own"):
        await asyncio.to_thread(wait_in_thread, fails, asyncio.get_running_loop())
