"""Completed outcomes are kept in memory: their replays do not ask the store, and differ in nothing (4.7)."""

from datetime import datetime, timedelta, timezone
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Caller, Code, Effects, Outcome, Policy
from grpc_idempotency._server import replays
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.replays import Replays

from ..harness.handlers import Counting
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers, answered
from ..harness.stores import FlakyStore

NOON = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)


async def says(request: StringValue, context: Any) -> StringValue:
    context.set_trailing_metadata((("x-said", "1"), ("x-said-bin", b"\x00\xff")))
    return text(f"said {request.value}")


async def test_a_kept_outcome_is_the_stores(serve: Servers) -> None:
    """An outcome is the same to the byte, cached when it was stored, cached when it was read, or read."""
    first = await serve({"Do": says})
    bare = await serve({"Do": says}, replay_cache_bytes=0)
    other = await serve({"Do": says})
    key = new_key()
    assert (await first.call("Do", text("a"), key=key)).mark == "executed"
    told = [await service.call("Do", text("a"), key=key) for service in (first, first, bare, other, other)]
    assert {reply.mark for reply in told} == {"replayed"}
    assert len(set(told)) == 1


@pytest.mark.parametrize("effects", Effects)
async def test_a_kept_outcome_needs_no_store(serve: Servers, effects: Effects) -> None:
    """A cached outcome is replayed while the store is down, without a claim or a read; another one is not."""
    if effects is Effects.TRANSACTIONAL:
        await FlakyStore(serve.path).transaction(lambda db: db.execute("CREATE TABLE things (value TEXT)").rowcount)
    store = FlakyStore(serve.path)

    async def do(_request: StringValue, _context: Any) -> StringValue:
        if effects is not Effects.TRANSACTIONAL:
            return text("done")
        return await store.transaction(lambda db: text(str(db.execute("INSERT INTO things VALUES (1)").rowcount)))

    service = await serve({"Do": do}, store=store, policy=Policy(effects=effects))
    key = new_key()
    first = await service.call("Do", text("a"), key=key)
    asked = store.asked.copy()
    replay = await service.call("Do", text("a"), key=key)
    assert (replay.plain, replay.mark) == (first.plain, "replayed")
    assert store.asked == asked
    store.down |= {"claim", "get"}
    assert (await service.call("Do", text("a"), key=key)).plain == first.plain
    refused(await service.call("Do", text("a"), key=new_key()), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)


async def test_another_request_is_no_replay(serve: Servers) -> None:
    """Other bytes under the key: the store's record decides (3.2)."""
    handler = Counting()
    service = await serve({"Do": handler})
    key = new_key()
    assert (await service.call("Do", text("a"), key=key)).mark == "executed"
    assert (await service.call("Do", text("a"), key=key)).mark == "replayed"
    refused(await service.call("Do", text("b"), key=key), "KEY_REUSED", grpc.StatusCode.FAILED_PRECONDITION)
    assert handler.runs == 1


async def test_another_principal_has_none_of_it(serve: Servers) -> None:
    """The name of the operation has the principal in it: the same key of another caller runs (3.1)."""
    handler, who = Counting(), ["alice"]

    def principal(_caller: Caller) -> str:
        return who[0]

    service = await serve({"Do": handler}, principal=principal)
    key = new_key()
    for name, mark in (("alice", "executed"), ("bob", "executed"), ("alice", "replayed"), ("bob", "replayed")):
        who[0] = name
        assert (await service.call("Do", text("a"), key=key)).mark == mark
    assert handler.runs == 2


def test_an_outcome_is_kept_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the instant of its expiry any more (6.3)."""
    time = [100.0]
    monkeypatch.setattr(replays, "now", lambda: time[0])
    kept = Replays(1 << 20)
    kept.keep(b"name", b"digest", Outcome(status=Code.OK, message=b"a"), NOON, 160.0)
    time[0] = 159.9
    assert kept.find(b"name") is not None
    time[0] = 160.0
    assert kept.find(b"name") is None
    assert kept.find(b"other") is None


def test_an_outcome_is_kept_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the store is asked again, since an operator may have forgotten the operation (6.4)."""
    time = [100.0]
    monkeypatch.setattr(replays, "now", lambda: time[0])
    kept = Replays(1 << 20)
    kept.keep(b"name", b"digest", Outcome(status=Code.OK, message=b"a"), NOON, 1e9)
    time[0] = 159.9
    assert kept.find(b"name") is not None
    time[0] = 160.0
    assert kept.find(b"name") is None


async def test_a_forgotten_operation_is_replayed_for_a_minute(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server has its outcome in memory, and runs it anew once that is a minute old (6.4)."""
    handler, key, passed = Counting(), new_key(), [0.0]
    monkeypatch.setattr(replays, "now", lambda: now() + passed[0])
    service = await serve({"Do": handler})
    assert (await service.call("Do", text("a"), key=key)).mark == "executed"
    record = await service.the_record()
    assert await answered(service.store.forget(record.name, record.fence))
    assert (await service.call("Do", text("a"), key=key)).mark == "replayed"
    passed[0] = 60.0
    assert (await service.call("Do", text("a"), key=key)).mark == "executed"
    assert handler.runs == 2


def test_what_is_kept_has_a_bound() -> None:
    """The oldest make room; one that is larger than all room is not kept, and none is with no room."""
    kept, none = Replays(10_000), Replays(0)
    later = now() + 1000
    for number in range(100):
        outcome = Outcome(status=Code.OK, message=bytes(1000), trailers=(("x-a", "1"),))
        kept.keep(bytes([number]), b"digest", outcome, NOON, later)
        none.keep(bytes([number]), b"digest", outcome, NOON, later)
    found = [number for number in range(100) if kept.find(bytes([number])) is not None]
    assert found == list(range(100 - len(found), 100))
    assert 4 <= len(found) <= 9
    assert not any(none.find(bytes([number])) for number in range(100))
    kept.keep(b"large", b"digest", Outcome(status=Code.OK, message=bytes(20_000)), NOON, later)
    assert kept.find(b"large") is None
    assert [number for number in range(100) if kept.find(bytes([number])) is not None] == found


def test_one_name_is_kept_once() -> None:
    """Kept again, it takes its room once: an expired operation's key may run anew (6.3)."""
    kept = Replays(2_000)
    later = now() + timedelta(hours=1).total_seconds()
    for message in (b"a", b"b") * 10:
        kept.keep(b"name", b"digest", Outcome(status=Code.OK, message=message), NOON, later)
    kept.keep(b"other", b"digest", Outcome(status=Code.OK, message=b"c"), NOON, later)
    found = kept.find(b"name")
    assert found is not None
    assert found.outcome.message == b"b"
    assert kept.find(b"other") is not None
