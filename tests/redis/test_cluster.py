"""A cluster: operations on all of its nodes, slots that move, and nodes that die."""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest

from grpc_idempotency.errors import StoreUnavailable, StoreUnusable
from grpc_idempotency.records import Claim, Code, Outcome, State
from grpc_idempotency.stores._redis.keys import SLOTS, tag_of
from grpc_idempotency.testing import LEASE, OUTCOME, TTL, a_claim

from ..harness import valkey
from .conftest import Make


@contextmanager
def clients_of(nodes: Sequence[valkey.Valkey]) -> Iterator[list[Any]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(node.client())) for node in nodes]


async def test_operations_are_on_all_nodes(make: Make, cluster: Sequence[valkey.Valkey], prefix: str) -> None:
    """Each node has its share, and a list, a sweep and a reading of standings gather all of them."""
    store = make(cluster[0].url)
    claims = [a_claim() for _ in range(120)]
    assert await asyncio.gather(*(store.claim(claim) for claim in claims)) == [None] * 120
    with clients_of(cluster) as clients:
        shares = [sum(1 for _ in client.scan_iter(match=f"{prefix}:*:o:*", count=1000)) for client in clients]
    assert sum(shares) == 120
    assert min(shares) > 10
    assert {record.name for record in await store.list(limit=200)} == {claim.name for claim in claims}
    assert set(await store.standing([claim.name for claim in claims])) == {claim.name for claim in claims}


async def test_a_slot_may_move_to_another_node(make: Make) -> None:
    """While it moves, reads are answered and writes refused with nothing written; then all goes on at its new node."""
    with valkey.cluster(primaries=2) as nodes, clients_of(nodes) as (source, target):
        store = make(nodes[1].url)
        claim = _claim_in(0, 8191)
        assert await store.claim(claim) is None
        slot = SLOTS[tag_of(claim.name)]
        ids = [client.execute_command("CLUSTER", "MYID") for client in (source, target)]
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        assert (await store.get(claim.name) or claim).fence == claim.fence
        absent = a_claim(claim.name[:1] + os.urandom(15))
        assert await store.get(absent.name) is None  # the source has it no more, and says to ask the target
        with pytest.raises(StoreUnavailable) as caught:
            await store.claim(absent)
        assert caught.value.landed is False
        for key in source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.execute_command("MIGRATE", "127.0.0.1", nodes[1].port, key, 0, 5000)
        for client in (target, source):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)  # the source says that it has moved
        assert await store.claim(absent) is None
        assert {record.name for record in await store.list()} == {claim.name, absent.name}


@pytest.mark.slow
async def test_a_failover_loses_nothing_that_a_replica_had(make: Make) -> None:
    """While a replica takes over, calls to its slots fail, and others are answered. Then all that was there is."""
    with valkey.cluster(replicas=1) as nodes, clients_of(nodes) as clients:
        clients[3].config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreUnusable, match=f"{nodes[3].port} has the maxmemory-policy allkeys-lru"):
            await make(nodes[1].url).open()
        clients[3].config_set("maxmemory-policy", "noeviction")
        store = make(nodes[1].url, timeout=timedelta(seconds=1))
        claims = [a_claim() for _ in range(200)]
        assert await asyncio.gather(*(store.claim(claim) for claim in claims)) == [None] * 200
        clients[0].execute_command("WAIT", 1, 5000)
        nodes[0].kill()
        elsewhere = _claim_in(8192, 16383)
        assert await store.claim(elsewhere) is None
        late = _claim_in(0, 5000)
        with pytest.raises(StoreUnavailable):
            await store.claim(late)
        await _once_available(store, late)
        _settled(clients[1:])
        names = {record.name for record in await store.list(limit=500)}
        assert names >= {claim.name for claim in claims} | {elsewhere.name, late.name}
        for claim in claims:
            assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [0, 1])
async def test_a_failover_loses_what_no_replica_had(replicas: int, make: Make) -> None:
    """Where a replica lags behind, the latest writes are lost, each as a whole; unless they had to be confirmed."""
    message = os.urandom(1 << 20)
    large = Outcome(status=Code.OK, message=message)
    with valkey.cluster(replicas=1) as nodes, clients_of(nodes) as clients:
        options = {"replicas": replicas, "replica_timeout": timedelta(milliseconds=50)}
        store = make(nodes[1].url, timeout=timedelta(seconds=1))
        strict = make(nodes[1].url, timeout=timedelta(seconds=1), **options)
        claims = [_claim_in(0, 5000) for _ in range(40)]
        assert await asyncio.gather(*(store.claim(claim) for claim in claims)) == [None] * 40
        clients[0].execute_command("WAIT", 1, 5000)
        nodes[3].pause()
        acknowledged: list[Claim] = []
        for claim in claims:
            with suppress(StoreUnavailable):
                assert await strict.complete(claim.name, claim.fence, large, TTL)
                acknowledged.append(claim)
        nodes[0].kill()
        nodes[3].resume()
        await _once_available(store, _claim_in(0, 5000))
        _settled(clients[1:])
        states = {record.name: record.state for record in await store.list(limit=500)}
        kept = [states[claim.name] is State.COMPLETED for claim in claims]
        # What reached the replica is a beginning of what was written.
        assert kept == sorted(kept, reverse=True)
        if replicas:
            assert acknowledged == []
        else:
            assert acknowledged == claims
            assert not kept[-1]
        for claim in claims:
            assert await store.complete(claim.name, claim.fence, large, TTL)


def _claim_in(first: int, last: int) -> Claim:
    """Returns a claim of an operation in one of these slots."""
    while not first <= SLOTS[tag_of((claim := a_claim(lease=LEASE)).name)] <= last:
        pass
    return claim


def _settled(clients: Sequence[Any]) -> None:
    """Waits until all nodes that are left know who took over."""
    valkey.reached(lambda: all(valkey.state(client)["cluster_state"] == "ok" for client in clients))


async def _once_available(store: Any, claim: Claim) -> None:
    """Makes a claim, as often as it is refused, for a while."""
    give_up_at = time.monotonic() + 30
    while True:
        try:
            assert await store.claim(claim) is None
            return
        except StoreUnavailable:
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.05)
