"""From start to stop (8)."""

import asyncio
import logging
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import grpc_idempotency
from grpc_idempotency import Effects, Policy, PolicyError, State, StoreError, aio

from ..harness.handlers import EACH_SERVER, Blocking, Counting, full, generic_handler
from ..harness.replies import new_key
from ..harness.servers import Server, Servers
from ..harness.stores import FlakyStore
from ..harness.waiting import ms, until

KINDS = EACH_SERVER


INTERCEPTORS: dict[str, Any] = {"async": aio.IdempotencyInterceptor, "sync": grpc_idempotency.IdempotencyInterceptor}
STORES: dict[str, Any] = {"async": aio.SQLiteStore, "sync": grpc_idempotency.SQLiteStore}
MEMORIES: dict[str, Any] = {"async": aio.MemoryStore, "sync": grpc_idempotency.MemoryStore}


async def started(kind: str, interceptor: Any) -> None:
    """Starts a server with the interceptor attached, and stops it."""
    server = Server(kind, [interceptor])
    interceptor.attach(server.real)
    server.add(generic_handler(kind, {"Do": Counting()}))
    try:
        await server.start()
    finally:
        await server.stop()


# Start


@pytest.mark.parametrize("name", [full("Undo"), "/test.other.*", "/*/do"])
async def test_a_policy_for_an_unknown_method(tmp_path: Path, kind: str, name: str) -> None:
    """A policy for a method that the server does not have is an error at start, which names it (7, 8)."""
    store = STORES[kind](tmp_path / "x.db")
    with pytest.raises(PolicyError) as raised:
        await started(kind, INTERCEPTORS[kind](store, methods={full("Do"): Policy(), name: Policy()}))
    assert name in str(raised.value)
    assert full("Do") not in str(raised.value)


async def test_globs_that_match(tmp_path: Path, kind: str) -> None:
    """A glob that matches a method is fine (7)."""
    globs = {"/test.*": Policy(), "*/Do": Policy(), "/*": Policy()}
    with pytest.raises(PolicyError):
        INTERCEPTORS[kind](STORES[kind](tmp_path / "x.db"), methods=globs)
    del globs["*/Do"]
    await started(kind, INTERCEPTORS[kind](STORES[kind](tmp_path / "x.db"), methods=globs))


async def test_transactional_needs_transactions(kind: str) -> None:
    """TRANSACTIONAL on a store without transactions is an error at start (7)."""
    policy = Policy(effects=Effects.TRANSACTIONAL)
    with pytest.raises(PolicyError, match="transactions"):
        INTERCEPTORS[kind](MEMORIES[kind](), policy=policy)
    with pytest.raises(PolicyError, match="transactions"):
        INTERCEPTORS[kind](MEMORIES[kind](), methods={full("Do"): policy})


async def test_a_store_that_can_not_be_opened(tmp_path: Path, kind: str) -> None:
    """A store that can't be opened is an error at start, not at the first call (8)."""
    with pytest.raises(StoreError, match="does not exist"):
        await started(kind, INTERCEPTORS[kind](STORES[kind](tmp_path / "missing" / "x.db")))


async def test_what_is_no_store(kind: str) -> None:
    """Something that is no store, or one for the other kind of server, is an error when the interceptor is made (8)."""
    other = STORES["async" if kind == "sync" else "sync"]("idempotency.db")
    for store in ("idempotency.db", other):
        with pytest.raises(PolicyError, match="no store"):
            INTERCEPTORS[kind](store)


async def test_a_store_in_memory(serve: Servers) -> None:
    """The memory store serves as any other (6.2)."""
    service = await serve({"Do": Counting()}, store=aio.MemoryStore())
    key = new_key()
    assert [(await service.call("Do", key=key)).mark for _ in range(2)] == ["executed", "replayed"]


# Stop


async def test_outcomes_outlive_the_server(serve: Servers) -> None:
    """Another server on the same file replays what the first one stored (4.1)."""
    handler = Counting()
    service = await serve({"Do": handler})
    key = new_key()
    first = await service.call("Do", key=key)
    await service.server.stop(None)
    second = await (await serve({"Do": handler})).call("Do", key=key)
    assert (second.plain, second.mark, handler.runs) == (first.plain, "replayed", 1)


async def test_stop_drains_what_nobody_watches(serve: Servers) -> None:
    """``stop`` lets detached operations end, then closes the store; so does ``wait_for_termination`` (4.4, 8)."""
    handler = Blocking()
    service = await serve({"Do": handler})
    termination = asyncio.ensure_future(service.server.wait_for_termination())
    key = new_key()
    call = service.start("Do", key=key)
    await handler.began.wait()
    call.cancel()
    await until(service.has_detached)
    stopping = asyncio.ensure_future(service.server.stop(None))
    done, _ = await asyncio.wait([stopping, termination], timeout=0.2)
    assert not done
    handler.go.open()
    await stopping
    await termination
    reader = await serve({"Do": handler})
    assert (await reader.the_record()).state is State.COMPLETED
    assert ((await reader.call("Do", key=key)).mark, handler.runs) == ("replayed", 1)


async def test_stop_without_grace_and_a_call_under_way(serve: Servers) -> None:
    """A stop without grace ends the calls; their operations are drained all the same (4.4)."""
    handler = Blocking()
    service = await serve({"Do": handler})
    key = new_key()
    call = service.start("Do", key=key)
    await handler.began.wait()
    stopping = asyncio.ensure_future(service.server.stop(None))
    assert (await call.end()).status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert not stopping.done()
    handler.go.open()
    await stopping
    assert ((await (await serve({"Do": handler})).call("Do", key=key)).mark, handler.runs) == ("replayed", 1)


async def test_stop_with_grace(serve: Servers) -> None:
    """A stop with grace lets a call under way get its reply (8)."""
    handler = Blocking()
    service = await serve({"Do": handler, "Other": Counting()})
    call = asyncio.ensure_future(service.call("Do", key=new_key()))
    await handler.began.wait()
    stopping = asyncio.ensure_future(service.server.stop(15))
    newcomer = await serve.client(service)

    async def stops() -> bool:
        # Refused, or left without an answer: a connection that comes while the server stops listening may be neither
        # served nor closed, and gRPC waits 20 s for it.
        return (await newcomer.call("Other", timeout=1)).status is not grpc.StatusCode.OK

    await until(stops)
    handler.go.open()
    assert (await call).mark == "executed"
    await stopping


async def test_a_cancelled_stop_is_not_cut_short(serve: Servers) -> None:
    """A cancelled ``stop`` does not cut the drain short, and a second ``stop`` waits for it (8)."""
    handler = Blocking()
    service = await serve({"Do": handler})
    key = new_key()
    call = service.start("Do", key=key)
    await handler.began.wait()
    call.cancel()
    await until(service.has_detached)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(service.server.stop(None), 0.1)
    handler.go.open()
    await service.server.stop(None)
    assert (await (await serve({"Do": handler})).call("Do", key=key)).mark == "replayed"


async def test_the_drain_limit(serve: Servers, caplog: pytest.LogCaptureFixture) -> None:
    """An execution that does not end within the drain limit is left as a dead server's, and the log says so (4.4)."""
    handler = Blocking()
    service = await serve({"Do": handler}, drain_limit=ms(100))
    call = service.start("Do", key=new_key())
    await handler.began.wait()
    call.cancel()
    await until(service.has_detached)
    await service.server.stop(None)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "1 operations did not end within the drain limit" in line
    assert (await (await serve({"Do": handler})).the_record()).state is State.RUNNING


async def test_without_attach_the_embedder_closes(serve: Servers) -> None:
    """Without ``attach`` the embedder calls ``close`` after ``stop``, and it drains too; again it does nothing (8)."""
    handler = Blocking()
    service = await serve({"Do": handler}, attach=False)
    key = new_key()
    call = service.start("Do", key=key)
    await handler.began.wait()
    call.cancel()
    await until(service.has_detached)
    await service.server.stop(None)
    closing_ = asyncio.ensure_future(service.close_interceptor())
    handler.go.open()
    await closing_
    await service.close_interceptor()
    assert (await (await serve({"Do": handler})).call("Do", key=key)).mark == "replayed"


# In between


def stored(path: Path) -> int:
    """How many rows the store has, expired ones too."""
    with closing(sqlite3.connect(path)) as db:
        (count,) = db.execute("SELECT count(*) FROM grpc_idempotency_operations").fetchone()
    return int(count)


async def test_expired_records_are_swept(serve: Servers, caplog: pytest.LogCaptureFixture) -> None:
    """The interceptor deletes expired records from time to time, and says what it did (6.3)."""
    brief = {"Brief": Policy(ttl=ms(1))}
    service = await serve({"Do": Counting(), "Brief": Counting()}, policies=brief, sweep_every=ms(30))
    await service.call("Do", key=new_key())
    for _ in range(5):
        await service.call("Brief", key=new_key())

    async def swept() -> bool:
        lines = [re.match(r"swept (\d+) expired", record.getMessage()) for record in caplog.records]
        return sum(int(line[1]) for line in lines if line) == 5

    await until(swept)
    assert stored(serve.path) == 1


async def test_an_attached_server_sweeps_from_its_start_on(serve: Servers) -> None:
    """It needs no call for that (6.3, 8)."""
    store = FlakyStore(serve.path)
    await serve({"Do": Counting()}, store=store, sweep_every=ms(1))

    async def swept() -> bool:
        return store.asked["sweep"] > 1

    await until(swept)


async def test_without_attach_sweeps_begin_with_the_first_keyed_call(serve: Servers) -> None:
    """Before it the store is not touched (8)."""
    store = FlakyStore(serve.path)
    service = await serve({"Do": Counting()}, store=store, sweep_every=ms(1), attach=False)
    await service.call("Do")
    assert store.asked["sweep"] == 0
    await service.call("Do", key=new_key())

    async def swept() -> bool:
        return store.asked["sweep"] > 0

    await until(swept)


async def test_no_sweeps(serve: Servers) -> None:
    """``sweep_every=None`` leaves them to others, also with ``attach`` (6.3)."""
    store = FlakyStore(serve.path)
    service = await serve({"Do": Counting()}, store=store, sweep_every=None)
    await service.call("Do", key=new_key())
    assert store.asked["sweep"] == 0
    assert service.interceptor._sweep_every is None


async def test_an_expired_operation_is_absent(serve: Servers) -> None:
    """From its expiry on an operation is absent, swept or not: its key may name another request (6.3)."""
    handler = Counting()
    service = await serve({"Do": handler}, policy=Policy(ttl=ms(50)), sweep_every=None)
    key = new_key()
    await service.call("Do", "buy one of them", key=key)

    async def gone() -> bool:
        return not await service.records()

    await until(gone)
    reply = await service.call("Do", "buy two of them", key=key)
    assert (reply.mark, handler.runs) == ("executed", 2)


async def test_a_sweep_that_fails_is_tried_again(serve: Servers, caplog: pytest.LogCaptureFixture) -> None:
    """A sweep that fails is logged, and the next one comes (6.3)."""
    store = FlakyStore(serve.path)
    service = await serve({"Do": Counting()}, store=store, sweep_every=ms(20))
    store.down.add("sweep")
    await service.call("Do", key=new_key())
    await store.failed["sweep"].wait()
    store.down.clear()

    async def again() -> bool:
        return store.asked["sweep"] > store.failures["sweep"]

    await until(again)
    assert [r for r in caplog.records if r.getMessage().startswith("a sweep failed")]
