"""Operations whose server is gone, or that wait, are finished or held by a live server without their client (5.4)."""

import asyncio
import logging
import secrets
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, PolicyError, SQLiteStore, State, StoreUnavailable
from grpc_idempotency.records import Claim, Fingerprint, StoredRequest

from ..harness.handlers import SERVICE, server_stream
from ..harness.replies import new_key, refused, secrets_told, text
from ..harness.servers import Servers, Service, claims
from ..harness.waiting import Gate, ms, until
from .operations import here

pytestmark = pytest.mark.usefixtures("promptly")

LEASE: dict[str, Any] = {"lease": ms(600), "renew_every": ms(150)}
TRANSACTIONAL = Policy(effects=Effects.TRANSACTIONAL, **LEASE)
SHORT = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), **LEASE)


class Stops:
    """A handler whose first run never ends, as that of a killed server; the others answer how they were begun."""

    def __init__(self) -> None:
        self.began = Gate()
        self.go = Gate()
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, request: StringValue, context: Any) -> StringValue:
        operation = here().operation
        self.seen.append(
            {
                "principal": operation.principal,
                "attempt": operation.attempt,
                "metadata": context.invocation_metadata(),
                "entries": tuple((entry.key, entry.value) for entry in context.invocation_metadata()),
                "time": context.time_remaining(),
                "peer": context.peer(),
                "request": request.value,
            }
        )
        if len(self.seen) == 1:
            self.began.open()
            await self.go.wait()
        return text(f"run {len(self.seen)}")


def dead(
    store: SQLiteStore,
    method: str = "Do",
    *,
    runs: int = 1,
    messages: tuple[bytes, ...] = (b"",),
    effects: Effects = Effects.REPEATABLE,
    stored: bool = True,
) -> bytes:
    """Leaves what servers leave that were killed in so many runs of one operation; answers its name."""
    name, over = secrets.token_bytes(16), None
    for _ in range(runs):
        claim = Claim(
            name=name,
            method=f"/{SERVICE}/{method}",
            fence=secrets.token_bytes(16),
            fingerprint=Fingerprint(raw=b"r" * 32, canonical=b"c" * 32),
            effects=effects,
            lease=timedelta(microseconds=1),
            request=StoredRequest(principal=b"ada", metadata=(), messages=messages) if stored else None,
        )
        while store.claim(claim, over=over) is not None:
            time.sleep(0.001)  # the lease has to run out first
        over = claim.fence
    return name


@pytest.fixture
def left_behind(serve: Servers) -> Any:
    """The store of servers that are gone."""
    store = SQLiteStore(serve.path)
    yield store
    store.close()


async def completed(store: SQLiteStore, name: bytes) -> bool:
    record = await asyncio.to_thread(store.get, name)
    return record is not None and record.state is State.COMPLETED


async def held(store: SQLiteStore, name: bytes) -> bool:
    record = await asyncio.to_thread(store.get, name)
    return record is not None and record.state is State.HELD


async def some_rounds(service: Service) -> None:
    """Until the server has looked for operations a few times more."""
    looked, count = service.store.pending, 0

    def counted(*args: Any) -> Any:
        nonlocal count
        count += 1
        return looked(*args)

    service.store.pending = counted

    async def enough() -> bool:
        return count > 3

    await until(enough)
    service.store.pending = looked


# What the handler sees


@pytest.mark.parametrize(
    ("effects", "secret"), [(Effects.TRANSACTIONAL, None), (Effects.REPEATABLE, b"a secret of thirty-two bytes, ok!")]
)
async def test_finished_by_another_server(
    serve: Servers, effects: Effects, secret: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A live server finishes a dead one's operation: the stored principal and metadata, no deadline, no peer (5.4).

    The entries of metadata are gRPC's kind of tuple, with ``key`` and ``value``.
    """
    policy = Policy(**claims(effects), kept_metadata=("x-tenant", "x-tenant-bin"), **LEASE)
    options: dict[str, Any] = {"principal": lambda caller: dict(caller.metadata).get("x-user"), "policy": policy}
    options["secret"] = secret
    handler, key = Stops(), new_key()
    token = new_key()
    metadata = (("x-user", "ada"), ("authorization", token), ("x-tenant", "t1"), ("x-tenant-bin", b"\x00\xff"))
    one = await serve({"Do": handler}, drain_limit=ms(0), **options)
    call = one.start("Do", "the whole request", key=key, metadata=metadata)
    await handler.began.wait()
    call.cancel()
    await one.stop()
    another = await serve({"Do": handler}, **options)

    async def finished() -> bool:
        return (await another.the_record()).state is State.COMPLETED

    await until(finished)
    first, second = handler.seen
    assert (first["peer"][:4], first["time"] > 10, first["attempt"]) == ("ipv4", True, 1)
    remaining = second.pop("time")
    assert remaining is None or remaining > 1e18  # as each kind of server says that there is no deadline
    assert second == {
        "principal": b"ada",
        "attempt": 2,
        "metadata": (("x-tenant", "t1"), ("x-tenant-bin", b"\x00\xff")),
        "entries": (("x-tenant", "t1"), ("x-tenant-bin", b"\x00\xff")),
        "peer": "",
        "request": "the whole request",
    }
    reply = await another.call("Do", "the whole request", key=key, metadata=metadata)
    assert (reply.text, reply.mark) == ("run 2", "replayed")
    (told,) = [record for record in caplog.records if "without its client" in record.getMessage()]
    assert told.levelno == logging.INFO
    assert (await another.the_record()).name.hex() in told.getMessage()
    secrets_told.add("the whole request")
    handler.go.open()


async def test_a_waiting_operation(serve: Servers) -> None:
    """An operation that waits for its next run gets it without its client (5.2, 5.4)."""
    runs: list[int] = []

    async def do(_request: StringValue, context: Any) -> StringValue:
        await here().step("a", lambda: None)
        runs.append(1)
        if len(runs) < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not just now")
        return text(f"run {len(runs)}")

    policy = Policy(effects=Effects.REPEATABLE, retry_delay=ms(50), wait=ms(0))
    service = await serve({"Do": do}, policy=policy)
    key = new_key()
    refused(await service.call("Do", key=key), "IN_FLIGHT", grpc.StatusCode.UNAVAILABLE)

    async def finished() -> bool:
        return (await service.the_record()).state is State.COMPLETED

    await until(finished)
    reply = await service.call("Do", key=key)
    assert (reply.text, reply.mark) == ("run 3", "replayed")


async def test_a_stream(serve: Servers, left_behind: SQLiteStore) -> None:
    """A server-stream's operation is finished too: its messages are recorded (4.8, 5.4)."""

    async def do(_request: StringValue, _context: Any) -> Any:
        yield text("A")
        yield text("B")

    name = dead(left_behind)
    await serve({"Do": server_stream(do)}, policy=SHORT)
    await until(lambda: completed(left_behind, name))
    record = left_behind.get(name)
    assert record is not None
    assert record.outcome is not None
    assert record.outcome.message is not None
    assert record.outcome.message.count(b"\n\x01") == 2


# What is not finished


async def test_not_where_the_policy_says_no(serve: Servers) -> None:
    """``recover=False``: no request is stored, and the operation waits for its client (5.4)."""
    handler, key = Stops(), new_key()
    policy = Policy(effects=Effects.REPEATABLE, recover=False, kept_metadata=("x-tenant",), **LEASE)
    one = await serve({"Do": handler}, drain_limit=ms(0), policy=policy)
    call = one.start("Do", "the whole request", key=key, metadata=(("x-tenant", "t1"),))
    await handler.began.wait()
    with closing(sqlite3.connect(serve.path)) as db:
        assert list(db.execute("SELECT request FROM grpc_idempotency_operations")) == [(None,)]
    call.cancel()
    await one.stop()
    # Another server would recover it, were there anything to do it with.
    another = await serve({"Do": handler}, policy=SHORT)

    async def lapsed() -> bool:
        return (await another.the_record()).lapsed

    await until(lapsed)
    await some_rounds(another)
    assert len(handler.seen) == 1
    assert (await another.call("Do", "the whole request", key=key)).text == "run 2"
    handler.go.open()


async def test_stored_only_as_long_as_it_is_needed(serve: Servers) -> None:
    """The stored request goes when the outcome comes (5.4)."""

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text("done")

    service = await serve({"Do": do}, policy=SHORT)
    assert (await service.call("Do", "the whole request", key=new_key())).text == "done"
    with closing(sqlite3.connect(serve.path)) as db:
        assert list(db.execute("SELECT request FROM grpc_idempotency_operations")) == [(None,)]


# What is in doubt


@pytest.mark.parametrize("recover", [None, False, True])
async def test_what_is_in_doubt_is_held(
    serve: Servers, left_behind: SQLiteStore, caplog: pytest.LogCaptureFixture, recover: bool | None
) -> None:
    """An opaque operation that was running is nobody's to run again: an operator sees it, and can resolve it (5.4)."""
    runs: list[int] = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        runs.append(1)
        return text("done")

    names = [dead(left_behind, effects=Effects.OPAQUE, stored=stored) for stored in (True, False)]
    await serve({"Do": do}, policy=Policy(recover=recover, **LEASE))
    for name in names:
        await until(lambda name=name: held(left_behind, name))  # type: ignore[misc]  # the default binds it
    assert runs == []

    lines = {f"operation {name.hex()} of /{SERVICE}/Do is held until an operator resolves it" for name in names}

    async def told() -> bool:
        return lines <= {record.getMessage() for record in caplog.records}

    await until(told)  # each line comes when its record is held
    for record in left_behind.list(state=State.HELD):
        assert "its server stopped" in record.reason
        assert left_behind.resolve(record.name, record.fence, None, ms(1000))


async def test_all_that_is_in_doubt_is_held_at_once(serve: Servers, left_behind: SQLiteStore) -> None:
    """All operations in doubt are held at once, though a server is busy with as many as it can finish (5.4)."""
    go, gate = Gate(), Gate()
    begun: list[int] = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        begun.append(1)
        gate.open()
        await go.wait()
        return text("done")

    for _ in range(20):
        dead(left_behind)
        dead(left_behind, runs=20)
    names = [dead(left_behind, effects=Effects.OPAQUE) for _ in range(50)]
    await serve({"Do": do}, policy=SHORT)
    await gate.wait()
    for name in names:
        await until(lambda name=name: held(left_behind, name))  # type: ignore[misc]  # the default binds it
    go.open()


async def test_a_record_says_what_its_run_was(serve: Servers, left_behind: SQLiteStore) -> None:
    """A run that began as opaque is held, whatever the method's policy is by now; the reverse is left (4.5, 5.4)."""
    changed, left = dead(left_behind, effects=Effects.OPAQUE), dead(left_behind, "Opaque")

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text("done")

    service = await serve({"Do": do, "Opaque": do}, policies={"Do": SHORT, "Opaque": Policy(**LEASE)})
    await until(lambda: held(left_behind, changed))
    await some_rounds(service)
    record = left_behind.get(left)
    assert record is not None
    assert (record.state, record.attempts) == (State.RUNNING, 1)


async def test_what_runs_here_is_not_held(serve: Servers) -> None:
    """A server does not hold its own operation, though it could not renew its lease for a while (4.9, 5.4)."""
    handler = Stops()
    service = await serve({"Do": handler}, policy=Policy(**LEASE))
    renew, key = service.store.renew, new_key()

    def fails(*_args: Any) -> Any:
        raise StoreUnavailable("cut off")

    service.store.renew = fails
    call = asyncio.ensure_future(service.call("Do", "a", key=key))
    await handler.began.wait()

    async def lapsed() -> bool:
        return (await service.the_record()).lapsed

    await until(lapsed)
    await some_rounds(service)
    assert (await service.the_record()).state is State.RUNNING
    service.store.renew = renew
    handler.go.open()
    assert ((await call).text, (await call).mark) == ("run 1", "executed")


async def test_only_methods_that_are_served(serve: Servers, left_behind: SQLiteStore) -> None:
    """A server leaves alone what it has no method for, and what its policy does not recover (5.4)."""

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text("done")

    names = [dead(left_behind, "Elsewhere"), dead(left_behind, "Opaque")]
    mine = dead(left_behind)
    policies = {"Do": SHORT, "Opaque": Policy(**LEASE)}
    service = await serve({"Do": do, "Opaque": do}, policies=policies)
    await until(lambda: completed(left_behind, mine))
    await some_rounds(service)
    assert [record and record.attempts for record in map(left_behind.get, names)] == [1, 1]


async def test_only_with_attach(serve: Servers, left_behind: SQLiteStore) -> None:
    """Without ``attach`` a server finishes nothing but what it is called for (8)."""
    runs: list[int] = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        runs.append(1)
        return text("done")

    dead(left_behind)
    service = await serve({"Do": do}, policy=SHORT, attach=False)
    assert (await service.call("Do", key=new_key())).text == "done"
    await asyncio.sleep(0.3)  # there is nothing to wait for
    assert len(runs) == 1


# Bounds


async def test_poison(serve: Servers, left_behind: SQLiteStore, caplog: pytest.LogCaptureFixture) -> None:
    """An operation that was cut short 20 times is left to its client, logged once, and blocks no other one (5.4)."""
    poison = [dead(left_behind, runs=20) for _ in range(20)]
    good = dead(left_behind, runs=19)
    runs: list[int] = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        runs.append(1)
        return text("done")

    service = await serve({"Do": do}, policy=SHORT)
    await until(lambda: completed(left_behind, good))
    await some_rounds(service)
    assert len(runs) == 1
    told = [record.getMessage() for record in caplog.records if "is left to its client" in record.getMessage()]
    assert sorted(told) == sorted(
        f"operation {name.hex()} of /{SERVICE}/Do is left to its client: 20 runs of it were cut short"
        for name in poison
    )


async def test_so_many_at_one_time(serve: Servers, left_behind: SQLiteStore) -> None:
    """A server runs at most 16 operations for others at one time, and in the end all of them (5.4)."""
    names = [dead(left_behind) for _ in range(20)]
    begun: list[int] = []
    go, gate = Gate(), Gate()

    async def do(_request: StringValue, _context: Any) -> StringValue:
        begun.append(1)
        if len(begun) == bound:
            gate.open()
        await go.wait()
        return text("done")

    # An aio server's def handlers have the threads of the loop's executor, which are fewer.
    bound = 16 if serve.kind != "thread" else 4
    service = await serve({"Do": do}, policy=SHORT)
    await gate.wait()
    await some_rounds(service)
    assert len(begun) <= 16
    go.open()
    for name in names:
        await until(lambda name=name: completed(left_behind, name))  # type: ignore[misc]  # the default binds it
    assert len(begun) == 20


async def test_what_failed_often_is_not_poison(serve: Servers, left_behind: SQLiteStore) -> None:
    """Runs that failed in a way that may pass were not cut short: those are for ``max_tries`` to bound (5.2, 5.4)."""
    name = dead(left_behind)
    for tries in range(1, 25):
        record = left_behind.get(name)
        assert record is not None
        assert left_behind.wait(name, record.fence, timedelta(0), tries, 0)
        claim = Claim(
            name=name,
            method=f"/{SERVICE}/Do",
            fence=secrets.token_bytes(16),
            fingerprint=record.fingerprint,
            effects=Effects.REPEATABLE,
            lease=timedelta(microseconds=1),
        )
        assert left_behind.claim(claim, over=record.fence) is None

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text(f"attempt {here().operation.attempt}")

    await serve({"Do": do}, policy=SHORT)
    await until(lambda: completed(left_behind, name))


async def test_a_request_that_cant_be_read(
    serve: Servers, left_behind: SQLiteStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A stored request that is no message any more is told once; others are finished (5.4)."""
    bad, good = dead(left_behind, messages=(b"\xff\xff",)), dead(left_behind)

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text("done")

    service = await serve({"Do": do}, policy=SHORT)
    await until(lambda: completed(left_behind, good))
    await some_rounds(service)
    (told,) = [record.getMessage() for record in caplog.records if "is left to its client" in record.getMessage()]
    assert told == f"operation {bad.hex()} of /{SERVICE}/Do is left to its client: its request can't be read"


async def test_two_servers(serve: Servers, left_behind: SQLiteStore) -> None:
    """Two live servers on one store finish each operation once between them (4.1, 5.4)."""
    names = [dead(left_behind, messages=(text(str(number)).SerializeToString(),)) for number in range(12)]
    runs: list[str] = []

    async def do(request: StringValue, _context: Any) -> StringValue:
        runs.append(request.value)
        await asyncio.sleep(0.02)
        return text("done")

    for _ in range(2):
        await serve({"Do": do}, policy=SHORT)
    for name in names:
        await until(lambda name=name: completed(left_behind, name))  # type: ignore[misc]  # the default binds it
    assert sorted(runs) == sorted(str(number) for number in range(12))


async def test_the_store_is_down_for_a_while(
    serve: Servers, left_behind: SQLiteStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store can't be asked a server says so, and asks again (5.4, 5.5)."""
    store = serve.store()
    asked, failures = store.pending, []

    def fails(*args: Any) -> Any:
        failures.append(1)
        if len(failures) < 3:
            raise StoreUnavailable("down, for the test")
        return asked(*args)

    monkeypatch.setattr(store, "pending", fails)
    name = dead(left_behind)

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text("done")

    await serve({"Do": do}, policy=SHORT, store=store)
    await until(lambda: completed(left_behind, name))
    warned = [record for record in caplog.records if "could not look for operations" in record.getMessage()]
    assert [record.levelno for record in warned] == [logging.WARNING] * 2


async def test_something_else_goes_wrong(
    serve: Servers, left_behind: SQLiteStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody expected does not end recovery for good: it is logged, and the next look comes (5.4)."""
    store = serve.store()
    asked, failures = store.pending, []

    def fails(*args: Any) -> Any:
        failures.append(1)
        if len(failures) < 2:
            raise LookupError("a bug, for the test")
        return asked(*args)

    monkeypatch.setattr(store, "pending", fails)
    name = dead(left_behind)

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text("done")

    await serve({"Do": do}, policy=SHORT, store=store)
    await until(lambda: completed(left_behind, name))
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR]


async def test_a_caller_meets_recovery(serve: Servers, left_behind: SQLiteStore) -> None:
    """A caller that comes back while its operation is being finished attaches to that run (4.3, 5.4)."""
    handler, key = Stops(), new_key()
    again, go = Gate(), Gate()

    async def do(request: StringValue, context: Any) -> StringValue:
        reply = await handler(request, context)
        again.open()
        await go.wait()
        return reply

    one = await serve({"Do": do}, drain_limit=ms(0), policy=SHORT)
    call = one.start("Do", "the whole request", key=key)
    await handler.began.wait()
    call.cancel()
    await one.stop()
    another = await serve({"Do": do}, policy=SHORT)
    await again.wait()
    retry = another.start("Do", "the whole request", key=key)
    await until(lambda: another.is_followed(1))
    go.open()
    reply = await retry.end()
    assert (reply.text, reply.mark) == ("run 2", "attached")
    handler.go.open()


def test_a_name_list_is_no_text() -> None:
    """``kept_metadata="x-tenant"``, which would keep what is named by a part of it, is refused (7)."""
    with pytest.raises(PolicyError, match="kept_metadata"):
        Policy(kept_metadata="x-tenant")  # type: ignore[arg-type]  # the mistake that people make
