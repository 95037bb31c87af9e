"""``serve`` stops a server in order on SIGTERM and Ctrl-C (4.4, 8)."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import grpc_idempotency
from grpc_idempotency import IdempotencyInterceptor, MemoryStore, Policy, PolicyError, SQLiteStore, State, aio

from ..harness.handlers import EACH_SERVER, full
from ..harness.replies import new_key
from ..harness.servers import Server
from ..harness.waiting import ms

KINDS = EACH_SERVER
PROGRAM = Path(__file__).parents[1] / "harness" / "programs" / "serve.py"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to send")


@contextmanager
def program(kind: str, folder: Path, *arguments: str) -> "Iterator[tuple[subprocess.Popen[str], Any]]":
    """Runs the program, and yields it with a call under way in its handler."""
    command = [sys.executable, "-W", "error", str(PROGRAM), kind, *arguments]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        try:
            address = running.stdout.readline().split()[-1]
            with grpc.insecure_channel(address) as channel:
                method: Any = channel.unary_unary(full("Do"))
                call = method.future(b"", metadata=(("idempotency-key", new_key()),), timeout=30, wait_for_ready=True)
                assert running.stdout.readline() == "began\n"
                yield running, call
        finally:
            if running.poll() is None:
                running.kill()


def said(running: "subprocess.Popen[str]", lines: int) -> list[str]:
    """The next lines that the program prints."""
    assert running.stdout is not None
    return [running.stdout.readline().rstrip() for _ in range(lines)]


def proceed(running: "subprocess.Popen[str]") -> None:
    """Lets the program's handler end."""
    assert running.stdin is not None
    running.stdin.close()
    running.stdin = None  # or communicate() would flush it


def stored(folder: Path) -> State:
    """The state of the only operation."""
    store = SQLiteStore(folder / "idempotency.db")
    try:
        (record,) = store.list()
        return record.state
    finally:
        store.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_call_gets_its_answer(kind: str, tmp_path: Path, number: signal.Signals) -> None:
    """The signal comes in the middle of a call: it is answered and stored, and the exit code is 0 (4.4)."""
    with program(kind, tmp_path) as (running, call):
        running.send_signal(number)
        assert said(running, 2) == ["about to stop", "stopping"]
        proceed(running)
        assert call.result() == b"done"
        out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (0, "stopped\n", "")
    assert stored(tmp_path) is State.COMPLETED


@pytest.mark.slow
def test_a_call_that_is_cut_off_is_drained(kind: str, tmp_path: Path) -> None:
    """After the grace the call is gone; its operation comes to its end all the same, and is stored (4.4)."""
    with program(kind, tmp_path, "--grace", "0") as (running, call):
        running.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            call.result()
        proceed(running)
        out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (0, "")
    assert out.endswith("stopped\n")
    assert stored(tmp_path) is State.COMPLETED


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(kind: str, tmp_path: Path, number: signal.Signals) -> None:
    """What runs is left as that of a dead server (4.4)."""
    with program(kind, tmp_path) as (running, call):
        running.send_signal(signal.SIGTERM)
        assert said(running, 2) == ["about to stop", "stopping"]
        running.send_signal(number)
        assert running.wait(30) == -number
        with pytest.raises(grpc.RpcError):
            call.result()
    assert stored(tmp_path) is State.RUNNING


# In this process


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.fixture(autouse=True)
def _handlers_are_restored() -> Iterator[None]:
    """``serve`` leaves the process's own handlers as they were."""
    before = handlers()
    yield
    assert handlers() == before


def bare(kind: str) -> Any:
    """A server without services, on a free port."""
    server = Server(kind).real
    server.add_insecure_port("127.0.0.1:0")
    return server


def test_it_returns_when_other_code_stops_the_server(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``server.stop`` ends it, as it ends ``wait_for_termination``. Nothing is left to be done before the stop."""
    monkeypatch.setattr("grpc_idempotency._server.sync.serving._LOOK_EVERY", 0.01)

    def not_called() -> Any:
        raise AssertionError

    async def on_aio() -> None:
        server = bare(kind)
        starts = server.start

        async def starts_and_is_stopped() -> None:
            await starts()
            await server.stop(0)

        server.start = starts_and_is_stopped
        await aio.serve(server, before_stop=not_called)

    if kind == "async":
        asyncio.run(on_aio())
        return
    server = bare(kind)
    starts = server.start

    def starts_and_is_stopped() -> None:
        starts()
        server.stop(0)

    server.start = starts_and_is_stopped
    grpc_idempotency.serve(server, before_stop=not_called)


@pytest.mark.slow
def test_what_comes_before_the_stop_may_fail(kind: str, tmp_path: Path) -> None:
    """The server is stopped, and its operations are drained, all the same (4.4)."""
    with program(kind, tmp_path, "--fails") as (running, call):
        running.send_signal(signal.SIGTERM)
        assert said(running, 2) == ["about to stop", "stopping"]
        proceed(running)
        assert call.result() == b"done"
        out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (1, "")
    assert "before the stop" in err
    assert stored(tmp_path) is State.COMPLETED


def test_a_server_that_can_not_start(kind: str) -> None:
    """Its error is raised, and the process's own handlers are back."""
    methods = {"/no.such/Method": Policy()}

    def on_threads() -> None:
        server = bare(kind)
        IdempotencyInterceptor(MemoryStore(), methods=methods).attach(server)
        grpc_idempotency.serve(server)

    async def on_aio() -> None:
        server = bare(kind)
        aio.IdempotencyInterceptor(aio.MemoryStore(), methods=methods).attach(server)
        await aio.serve(server)

    with pytest.raises(PolicyError):
        on_threads() if kind == "sync" else asyncio.run(on_aio())


def test_a_cancelled_task_stops_the_server() -> None:
    """On asyncio, as a program does that has its own way to end."""

    async def on_aio() -> None:
        server, started = bare("async"), asyncio.Event()
        starts = server.start

        async def starts_and_tells() -> None:
            await starts()
            started.set()

        server.start = starts_and_tells
        told = asyncio.Event()

        async def tells() -> None:
            told.set()

        serving = asyncio.ensure_future(aio.serve(server, grace=ms(0), before_stop=tells))
        await started.wait()
        await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert told.is_set()
        assert not await server.wait_for_termination()

    asyncio.run(on_aio())


def test_it_needs_the_main_thread(kind: str) -> None:
    """Only that can handle signals: another one is told so before anything has started."""
    errors: list[BaseException] = []

    def other() -> None:
        try:
            if kind == "sync":
                grpc_idempotency.serve(bare(kind))
            else:

                async def on_aio() -> None:
                    await aio.serve(bare(kind))

                asyncio.run(on_aio())
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert "main thread" in str(errors[0])
