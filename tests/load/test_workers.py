"""The threads that a ``grpc.server``'s handlers run in: reused, and no trouble where none can be started (4.1, 4.4)."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, MemoryStore, Policy, State
from grpc_idempotency._server import workers as _workers
from grpc_idempotency._server.sync import interceptor as _sync
from grpc_idempotency._server.workers import Workers, within
from grpc_idempotency.records import Claim, Fingerprint, Record, Renewal, StoredRequest, Swept

from ..harness.handlers import Method, full, server_stream, unary
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, ms, until

SOON = 20.0
METHODS = ("Unary", "ServerStream")
every_method = pytest.mark.parametrize("method", METHODS)
on_threads = pytest.mark.parametrize("kind", ["sync"])


def ours() -> list[str]:
    """The names of the library's threads, as far as they are for handlers."""
    return [thread.name for thread in threading.enumerate() if thread.name == "grpc-idempotency-handler"]


# By hand


class Done:
    """Jobs that tell in which threads they ran."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self._ended = threading.Semaphore(0)

    def __call__(self) -> None:
        self.threads.append(threading.current_thread())
        self._ended.release()

    def wait(self) -> threading.Thread:
        assert self._ended.acquire(timeout=SOON)
        return self.threads[-1]


def idle(workers: Workers, count: int) -> None:
    """Waits until so many wait for a job, which no event tells of."""
    while len(workers._idle) != count:
        threading.Event().wait(0.001)


def test_a_thread_is_used_again() -> None:
    """The worker that became idle last gets the next job; at the end its thread ends (4.4)."""
    workers, done = Workers(), Done()
    for _ in range(3):
        workers.take().run(done)
        done.wait()
        idle(workers, 1)
    (thread,) = set(done.threads)
    workers.close()
    thread.join(SOON)
    assert not thread.is_alive()


def test_one_that_was_taken_in_vain() -> None:
    """A worker that was given back does the next job (4.4)."""
    workers, done = Workers(), Done()
    worker = workers.take()
    workers.give_back(worker)
    assert workers.take() is worker
    worker.run(done)
    done.wait()
    workers.close()


def test_one_that_works_when_they_are_closed() -> None:
    """A thread whose job ends after the closing ends as well (8)."""
    workers, done, go = Workers(), Done(), threading.Event()

    def job() -> None:
        done()
        assert go.wait(SOON)

    workers.take().run(job)
    thread = done.wait()
    workers.close()
    assert thread.is_alive()
    go.set()
    thread.join(SOON)
    assert not thread.is_alive()


def test_as_many_as_jobs_at_once() -> None:
    """No job waits for another's end (4.4)."""
    workers, done, together = Workers(), Done(), threading.Barrier(3, timeout=SOON)

    def job() -> None:
        together.wait()
        done()

    for _ in range(3):
        workers.take().run(job)
    for _ in range(3):
        done.wait()
    assert len(set(done.threads)) == 3
    workers.close()


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that nothing was given to for a while ends, and stands in nobody's way (4.4)."""
    monkeypatch.setattr(_workers, "IDLE", 0.01)
    workers, done = Workers(), Done()
    workers.take().run(done)
    first = done.wait()
    first.join(SOON)
    assert not first.is_alive()
    assert not workers._idle
    workers.take().run(done)
    assert done.wait() is not first


def test_a_thread_that_is_taken_as_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is taken at the moment in which it would end waits for its job instead (4.4)."""
    monkeypatch.setattr(_workers, "IDLE", 0.01)
    workers, done = Workers(), Done()
    for _ in range(3):
        worker = workers.take()
        threading.Event().wait(0.02)
        worker.run(done)
        done.wait()


def test_an_error_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    """A job that raises is logged, and its thread goes on (4.4)."""

    def broken() -> None:
        raise SystemExit("of a job")

    workers, done = Workers(), Done()
    workers.take().run(broken)
    idle(workers, 1)
    workers.take().run(done)
    done.wait()
    assert "of a job" in caplog.text
    workers.close()


def test_a_call_within_a_time() -> None:
    """A call that blocks is waited for no longer than that, and what it raises is raised (4.4)."""
    go, done = threading.Event(), list[str]()
    assert within(SOON, lambda: done.append("done"))
    assert not within(0.0, go.wait)
    go.set()
    with pytest.raises(LookupError, match="within"):
        within(SOON, raising)
    assert done == ["done"]


def raising() -> None:
    raise LookupError("within")


# In a server


class Slow:
    """Handlers that end when they are let, and count their runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.began, self.go = Gate(), Gate()

    def methods(self) -> dict[str, Method]:
        quick = {"Quick": unary(self.quick), "QuickStream": server_stream(self.quick_stream)}
        return {"Unary": unary(self.unary), "ServerStream": server_stream(self.server_stream)} | quick

    async def unary(self, _request: Any, _context: Any) -> StringValue:
        self.runs += 1
        self.began.open()
        await self.go.wait()
        return text("done")

    async def server_stream(self, _request: Any, _context: Any) -> AsyncIterator[StringValue]:
        yield await self.unary(_request, _context)

    async def quick(self, _request: Any, _context: Any) -> StringValue:
        self.runs += 1
        return text("quick")

    async def quick_stream(self, _request: Any, _context: Any) -> AsyncIterator[StringValue]:
        yield await self.quick(_request, _context)


@every_method
@on_threads
async def test_a_client_that_goes_frees_the_servers_thread(serve: Servers, method: str) -> None:
    """On a server of one thread a call whose client has gone keeps nobody waiting, and runs to its end (4.4)."""
    slow = Slow()
    service = await serve(slow.methods(), workers=1)
    key = new_key()
    call = service.start(method, "a", key=key)
    await slow.began.wait()
    call.cancel()
    assert (await service.call("Quick")).texts == ["quick"]
    assert (await service.call("Quick", key=new_key())).texts == ["quick"]
    slow.go.open()
    await until(lambda: service.has_state(State.COMPLETED, State.COMPLETED))
    assert (await service.call(method, "a", key=key)).mark == "replayed"


@every_method
@on_threads
async def test_a_handler_past_its_limit_frees_the_servers_thread(serve: Servers, method: str) -> None:
    """A call whose handler can't be stopped at its limit is answered, and its thread serves others (4.4, 4.5)."""
    slow = Slow()
    service = await serve(slow.methods(), workers=1, policy=Policy(execution_limit=ms(50)))
    reply = await service.call(method, "a", key=new_key())
    refused(reply, "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
    assert (await service.call("Quick")).texts == ["quick"]
    slow.go.open()


@every_method
@on_threads
async def test_what_overran_counts_as_detached(serve: Servers, method: str) -> None:
    """A handler that runs on past its limit counts among the detached ones until it ends (4.11)."""
    slow = Slow()
    policies = {method: Policy(execution_limit=ms(50))}
    service = await serve(slow.methods(), max_detached=1, policies=policies)
    assert (await service.call(method, "a", key=new_key())).reason == "OUTCOME_UNKNOWN"
    refused(await service.call("Quick", key=new_key()), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    slow.go.open()

    async def taken_on() -> bool:
        return (await service.call("Quick", key=new_key())).mark == "executed"

    await until(taken_on)


@on_threads
async def test_calls_one_after_another_need_few_threads(serve: Servers) -> None:
    """Threads for handlers are used again (4.4)."""
    slow = Slow()
    service = await serve(slow.methods())
    before = len(ours())
    for number in range(30):
        await service.call("Quick" if number % 2 else "QuickStream", "a", key=new_key())
    assert len(ours()) - before <= 3


class Stuck(MemoryStore):
    """A store whose sweeps and looks for lost operations come to no end until they are let; it counts renewals."""

    def __init__(self) -> None:
        super().__init__()
        self.sweeping, self.looking, self.go = Gate(), Gate(), threading.Event()
        self.renewals = 0
        self.renewed = Gate()

    def sweep(self, limit: int = 500) -> Swept:
        self.sweeping.open()
        self.go.wait(SOON)
        return super().sweep(limit)

    def pending(self, methods: Collection[str], limit: int = 100) -> Sequence[Record]:
        self.looking.open()
        self.go.wait(SOON)
        return super().pending(methods, limit)

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> Renewal:
        self.renewals += 1
        if self.renewals == 3:
            self.renewed.open()
        return super().renew(name, fence, lease)


@on_threads
async def test_what_is_slow_delays_no_renewal_and_no_limit(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep and a look for lost operations may take as long as they like (4.9, 4.11)."""
    monkeypatch.setattr(_sync, "EVERY", 0.001)
    store, slow = Stuck(), Slow()
    policy = Policy(effects=Effects.REPEATABLE, renew_every=ms(10), execution_limit=ms(200), wait=ms(0))
    service = await serve(slow.methods(), store=store, policy=policy, sweep_every=ms(1))
    assert (await service.call("Quick", key=new_key())).texts == ["quick"]
    await store.sweeping.wait()
    await store.looking.wait()
    call = asyncio.ensure_future(service.call("Unary", "a", key=new_key()))
    await store.renewed.wait()
    assert (await call).status is grpc.StatusCode.UNAVAILABLE  # past its limit
    store.go.set()
    slow.go.open()


@on_threads
async def test_what_runs_past_its_limit_keeps_its_lease(serve: Servers) -> None:
    """As long as the handler runs on nobody takes its operation over; then a retry may run it (4.1, 4.9)."""
    store, slow = Stuck(), Slow()
    store.go.set()
    policy = Policy(effects=Effects.REPEATABLE, renew_every=ms(10), execution_limit=ms(30), wait=ms(0))
    service = await serve(slow.methods(), store=store, policy=policy)
    key = new_key()
    assert (await service.call("Unary", "a", key=key)).status is grpc.StatusCode.UNAVAILABLE
    before = store.renewals

    async def renewed() -> bool:
        return store.renewals > before + 2

    await until(renewed)
    refused(await service.call("Unary", "a", key=key), "IN_FLIGHT", grpc.StatusCode.UNAVAILABLE)
    slow.go.open()
    await until(lambda: service.has_state(State.COMPLETED))
    assert slow.runs == 1
    reply = await service.call("Unary", "a", key=key)
    assert (reply.texts, reply.mark) == (["done"], "replayed")
    assert service.interceptor._executions.leases._kept == {}


# Without threads


class Scarce:
    """Lets no thread of the library's begin, as where a limit on them is reached."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scarce = False
        self.failed: list[str] = []
        self._start = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", lambda thread: self._begin(thread))

    def _begin(self, thread: threading.Thread) -> None:
        if self.scarce and thread.name.startswith("grpc-idempotency"):
            self.failed.append(thread.name)
            raise RuntimeError("can't start new thread")
        self._start(thread)


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scarce]:
    scarce = Scarce(monkeypatch)
    yield scarce
    scarce.scarce = False


@pytest.mark.parametrize("first", [True, False], ids=["from the first call on", "later"])
@pytest.mark.parametrize("method", ["Quick", "QuickStream"])
@on_threads
async def test_no_thread_can_be_started(serve: Servers, method: str, first: bool, scarce: Scarce) -> None:
    """The call is refused and nothing is claimed; once threads can be started again, its key is as good as ever."""
    slow = Slow()
    service = await serve(slow.methods())
    if not first:
        assert (await service.call(method, "a", key=new_key())).mark == "executed"
        service.interceptor._executions._workers.close()
    key, runs = new_key(), slow.runs
    scarce.scarce = True
    for _ in range(2):
        refused(await service.call(method, "a", key=key), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert scarce.failed
    assert slow.runs == runs
    assert len(await service.records()) == (not first)
    scarce.scarce = False
    assert (await service.call(method, "a", key=key)).mark == "executed"
    assert (await service.call(method, "a", key=key)).mark == "replayed"


@pytest.mark.parametrize("kind", ["async"])
@pytest.mark.parametrize("method", ["Quick", "QuickStream"])
async def test_no_thread_can_be_started_beside_a_loop(serve: Servers, method: str, scarce: Scarce) -> None:
    """Without the thread that would renew its lease no operation is claimed, and its handler does not begin (4.9)."""
    slow, key = Slow(), new_key()
    service = await serve(slow.methods())
    await service.records()  # the store has its threads
    scarce.scarce = True
    for _ in range(2):
        refused(await service.call(method, "a", key=key), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert set(scarce.failed) == {"grpc-idempotency-leases"}
    assert slow.runs == 0
    assert await service.records() == []
    scarce.scarce = False
    assert (await service.call(method, "a", key=key)).mark == "executed"
    assert (await service.call(method, "a", key=key)).mark == "replayed"


@on_threads
async def test_recovery_tries_again(serve: Servers, scarce: Scarce, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation that recovery has no thread for is left as it is, and finished later (5.4)."""
    monkeypatch.setattr(_sync, "EVERY", 0.01)
    store, slow = MemoryStore(), Slow()
    request = StoredRequest(principal=b"", metadata=(), messages=(text("a").SerializeToString(),))
    fingerprint = Fingerprint(raw=bytes(32), canonical=bytes(32))
    lost = Claim(
        name=bytes(16),
        method=full("Quick"),
        fence=bytes(16),
        fingerprint=fingerprint,
        effects=Effects.REPEATABLE,
        lease=ms(60_000),
        request=request,
    )
    store.claim(lost)
    service = await serve(slow.methods(), store=store, policy=Policy(effects=Effects.REPEATABLE))
    scarce.scarce = True
    assert store.renew(lost.name, lost.fence, ms(1)) is Renewal.RENEWED  # not before: recovery has begun to look

    async def failed() -> bool:
        return len(scarce.failed) > 1

    await until(failed)
    assert (slow.runs, await service.has_state(State.RUNNING)) == (0, True)
    scarce.scarce = False
    await until(lambda: service.has_state(State.COMPLETED))
    assert slow.runs == 1


@on_threads
async def test_a_stop_without_a_thread(serve: Servers, scarce: Scarce) -> None:
    """A server that can't have a thread to stop in stops all the same: ``stop`` itself then waits for the drain (8)."""
    service = await serve(Slow().methods())
    await service.call("Quick", "a", key=new_key())
    scarce.scarce = True
    await service.stop()
    assert scarce.failed == ["grpc-idempotency-stop", "grpc-idempotency-close"]
