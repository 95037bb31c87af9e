"""What a Redis server may do to its clients: forget scripts, run full, go away, and lose an answer."""

import asyncio
import os
import threading
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from grpc_idempotency.errors import StoreUnavailable, StoreUnusable, Unstorable
from grpc_idempotency.records import Renewal, State
from grpc_idempotency.testing import LEASE, OUTCOME, TTL, a_claim, a_step

from ..harness import valkey
from ..harness.relay import relayed
from .conftest import Make, MakeBlocking

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_scripts_that_the_server_has_forgotten_are_loaded_again(make: Make, client: Any) -> None:
    """After ``SCRIPT FLUSH`` all of many calls at once are answered."""
    store = make()
    await store.open()
    client.script_flush()
    claims = [a_claim() for _ in range(50)]
    assert await asyncio.gather(*(store.claim(claim) for claim in claims)) == [None] * 50
    client.script_flush()
    assert await store.complete(claims[0].name, claims[0].fence, OUTCOME, TTL)


async def test_a_server_that_was_restarted_is_used_again(make: Make) -> None:
    """While it is away calls fail, and nothing was written. Afterwards the store goes on, with what the server kept."""
    with valkey.started(appendonly="yes", appendfsync="always") as server:
        store = make(server.url)
        claim, late = a_claim(), a_claim()
        assert await store.claim(claim) is None
        server.kill()
        for _ in range(2):  # at first the connection ends, and then there is none
            with pytest.raises(StoreUnavailable) as caught:
                await store.claim(late)
            assert caught.value.landed is False
        server.start()
        assert await store.get(late.name) is None
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)


async def test_a_store_opens_once_its_server_is_there(make: Make) -> None:
    """Calls fail until then, and the first one that can opens the store; many at once make one attempt."""
    server = valkey.Valkey()
    try:
        store = make(server.url)
        failures = await asyncio.gather(*(store.claim(a_claim()) for _ in range(50)), return_exceptions=True)
        assert {(type(one), getattr(one, "landed", None)) for one in failures} == {(StoreUnavailable, False)}
        server.start()
        assert await store.claim(a_claim()) is None
    finally:
        server.discard()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_may_evict_is_refused(policy: str, make: Make, make_blocking: MakeBlocking) -> None:
    """The error says which setting is wrong, and what to set. Once it is right, the store opens."""
    with valkey.started(maxmemory_policy=policy) as server, closing(server.client()) as client:
        with pytest.raises(StoreUnusable, match=f"maxmemory-policy {policy}.*Set maxmemory-policy to noeviction"):
            await make(server.url).open()
        with pytest.raises(StoreUnusable, match=policy):
            make_blocking(server.url).claim(a_claim())
        client.config_set("maxmemory-policy", "noeviction")
        await make(server.url).open()


async def test_a_value_that_no_server_can_keep_fails_alone(make: Make) -> None:
    """A text with a lone surrogate, or too long, is told as such; calls beside it are answered."""
    store = make()
    await store.open()
    odd = [a_claim(owner="\udc80"), a_claim(method="/" + "x" * (1 << 16)), a_claim()]
    answers = await asyncio.gather(*(store.claim(claim) for claim in odd), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unstorable, Unstorable, type(None)]
    assert [record.name for record in await store.list()] == [odd[2].name]


async def test_a_bug_in_a_driver_mixes_up_no_answers(make: Make) -> None:
    """If reading a reply fails in a way that nobody expects, its group fails, and later calls get their own answers."""
    store = make()
    first = a_claim()
    assert await store.claim(first) is None
    assert store._opened is not None
    (writer,) = store._opened[0]._short._writers.values()  # type: ignore[attr-defined]  # the engine's own
    connection, calls = writer._connection, [a_claim() for _ in range(3)]
    read = connection.read_response

    def broken() -> object:
        connection.read_response = read
        raise ValueError("a bug")

    connection.read_response = broken
    answers = await asyncio.gather(*(store.claim(claim) for claim in calls), return_exceptions=True)
    assert [(type(one), getattr(one, "landed", False)) for one in answers[:1]] == [(StoreUnavailable, None)]
    record = await store.get(first.name)
    assert record is not None
    assert record.fence == first.fence


async def test_a_call_without_a_thread_fails_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the process can't start threads, calls are refused with nothing written; the store works once it can."""
    store = make()
    claim = a_claim()

    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    for _ in range(2):  # first at the opening, then at the first command
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(StoreUnavailable, match="can't start new thread") as caught:
                await store.claim(claim)
            assert caught.value.landed is False
        await store.open()
    assert await store.claim(claim) is None


async def test_a_full_server_refuses_claims_and_keeps_outcomes(make: Make) -> None:
    """Nothing begins on a server without memory, and what runs can be renewed, finished and held."""
    with valkey.started() as server, closing(server.client()) as client:
        store = make(server.url)
        claims = [a_claim() for _ in range(5)]
        for claim in claims:
            assert await store.claim(claim) is None
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable) as caught:
            await store.claim(a_claim())
        assert caught.value.landed is False
        completed, held, waiting, released, undoing = claims
        assert await store.renew(completed.name, completed.fence, LEASE) is Renewal.RENEWED
        assert await store.record_step(completed.name, completed.fence, a_step("charge"))
        assert await store.complete(completed.name, completed.fence, OUTCOME, TTL)
        assert await store.hold(held.name, held.fence, "in doubt")
        assert await store.wait(waiting.name, waiting.fence, LEASE, 1, 0)
        assert await store.release(released.name, released.fence)
        assert await store.undo(undoing.name, undoing.fence, OUTCOME)
        client.config_set("maxmemory", 0)
        states = {record.name: record.state for record in await store.list()}
        assert states == {
            completed.name: State.COMPLETED,
            held.name: State.HELD,
            waiting.name: State.WAITING,
            undoing.name: State.UNDOING,
        }


async def test_a_connection_that_the_server_has_closed_fails_no_call(make: Make) -> None:
    """A server closes idle connections: the next call notices, and uses a new one."""
    with valkey.started() as server, closing(server.client()) as client:
        store = make(server.url)
        claim = a_claim()
        assert await store.claim(claim) is None
        for _ in range(3):
            client.client_kill_filter(_type="normal", skipme=True)
            assert await store.renew(claim.name, claim.fence, LEASE) is Renewal.RENEWED


async def test_a_lost_answer_leaves_it_open_whether_the_write_landed(make: Make) -> None:
    """``landed`` is unknown. The claim, tried again, meets itself and has won; so has the completion."""
    with valkey.started() as server, relayed(server.url.removeprefix("unix://")) as relay:
        store = make(f"redis://127.0.0.1:{relay.port}")
        first, claim = a_claim(), a_claim()
        assert await store.claim(first) is None
        assert await store.complete(first.name, first.fence, OUTCOME, TTL)  # now the server knows both scripts
        calls: list[Callable[[], Any]] = [
            lambda: store.claim(claim),
            lambda: store.complete(claim.name, claim.fence, OUTCOME, TTL),
        ]
        for call in calls:
            relay.loses_answers = True
            with pytest.raises(StoreUnavailable) as caught:
                await call()
            assert caught.value.landed is None
            relay.loses_answers = False
            record = await make(server.url).get(claim.name)
            assert record is not None
            assert await call() == record.completed_at
        record = await store.get(claim.name)
        assert record is not None
        assert record.outcome == OUTCOME


def test_connections_are_cut_under_load(make_blocking: MakeBlocking) -> None:
    """Every call is answered or fails, and what was acknowledged is there."""
    with valkey.started() as server, relayed(server.url.removeprefix("unix://")) as relay:
        store = make_blocking(f"redis://127.0.0.1:{relay.port}")
        won = []
        for round_ in range(200):
            claim = a_claim()
            if round_ % 10 == 5:
                relay.cut()
            try:
                assert store.claim(claim) is None
            except StoreUnavailable:
                continue
            won.append(claim.name)
        names = {record.name for record in make_blocking(server.url).list(limit=1000)}
        assert set(won) <= names
        assert len(won) >= 150


async def test_a_server_that_became_a_replica_is_left(make: Make) -> None:
    """Where a name leads to another server after a failover, the store follows: a replica refuses to write."""
    ports = valkey.free_ports(2)
    with (
        valkey.started(port=ports[0]) as old,
        valkey.started(port=ports[1]) as new,
        relayed(("127.0.0.1", old.port)) as relay,
        closing(old.client()) as client,
    ):
        store = make(f"redis://127.0.0.1:{relay.port}")
        assert await store.claim(a_claim()) is None
        relay.server = ("127.0.0.1", new.port)
        client.replicaof("127.0.0.1", new.port)
        claim = a_claim()
        with pytest.raises(StoreUnavailable, match="read only") as caught:
            await store.claim(claim)
        assert caught.value.landed is False
        assert await store.claim(claim) is None


async def test_cancelled_calls_do_not_mix_up_answers(make: Make) -> None:
    """While many calls are cancelled at any point, every other call gets its own answer."""
    store = make()
    claims = [a_claim(owner=os.urandom(4).hex()) for _ in range(20)]
    for claim in claims:
        assert await store.claim(claim) is None
    for round_ in range(20):
        calls = [(claim, asyncio.ensure_future(store.get(claim.name))) for claim in claims * 5]
        for _ in range(round_ % 4):
            await asyncio.sleep(0)
        for _, task in calls[round_ % 3 :: 3]:
            task.cancel()
        answers = await asyncio.gather(*(task for _, task in calls), return_exceptions=True)
        for (claim, _), answer in zip(calls, answers, strict=True):
            assert isinstance(answer, asyncio.CancelledError) or answer.owner == claim.owner  # type: ignore[union-attr]


async def test_writes_wait_for_replicas(make: Make) -> None:
    """With ``replicas=1`` a write is acknowledged once a replica has it, and refused as unknown if none confirms it."""
    with valkey.started(port=valkey.free_ports(1)[0]) as primary:
        with valkey.started(replicaof=f"127.0.0.1 {primary.port}") as replica, closing(primary.client()) as client:
            valkey.followed(client)
            claim = a_claim()
            assert await make(primary.url, replicas=1, replica_timeout=timedelta(seconds=2)).claim(claim) is None
            with closing(replica.client()) as other:
                assert other.dbsize() > 0
            with pytest.raises(StoreUnavailable, match="is a replica"):
                await make(replica.url).open()
        store = make(primary.url, replicas=1, replica_timeout=timedelta(milliseconds=50))
        landed: list[bool | None] = []
        for _ in range(2):  # the second one meets the first one's record, which no replica has confirmed either
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas") as caught:
                await store.complete(claim.name, claim.fence, OUTCOME, TTL)
            landed.append(caught.value.landed)
        assert landed == [None, None]
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):  # nor may a reply be shown that could be lost
            await store.claim(a_claim(claim.name))
        record = await store.get(claim.name)
        assert record is not None
        assert record.outcome == OUTCOME


async def test_a_store_tells_what_it_may_lose(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """At its opening it warns of a server that keeps nothing on disk, and of a failover that loses writes."""
    with (
        valkey.started(port=valkey.free_ports(1)[0]) as primary,
        closing(primary.client()) as client,
        valkey.started(replicaof=f"127.0.0.1 {primary.port}"),
    ):
        valkey.followed(client)
        await make(primary.url).open()
        assert "has no append-only file" in caplog.text
        assert "replicates asynchronously" in caplog.text
        caplog.clear()
        client.config_set("appendonly", "yes")
        await make(primary.url, replicas=1).open()
        assert caplog.text == ""
        await make(primary.url, replicas=2).open()
        assert "has 1 replicas: writes that 2 have to confirm fail" in caplog.text
