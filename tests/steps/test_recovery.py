"""Operations whose server is gone, or that wait, are finished by a live server without their client (5.4)."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, PolicyError, SQLiteStore, State

from ..harness.handlers import server_stream
from ..harness.replies import new_key, refused, secrets_told, text
from ..harness.servers import Servers, claims
from ..harness.waiting import Gate, ms, until
from .operations import here
from .recovery import LEASE, SHORT, Stops, completed, dead, some_rounds

pytestmark = pytest.mark.usefixtures("promptly")


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
    await until(another.is_idle)  # a call may attach until then
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
    await until(service.is_idle)  # a call may attach until then
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
