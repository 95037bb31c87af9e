"""Puts records into each state, and reads and checks records."""

import os
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import timedelta

from grpc_idempotency.records import Claim, Record, Renewal
from grpc_idempotency.store import AsyncStore
from grpc_idempotency.testing.makers import FAILURE, LEASE, OTHER_OUTCOME, OUTCOME, TICK, TTL, a_claim, a_step


async def put_running(store: AsyncStore, *, lease: timedelta = LEASE) -> Claim:
    """Claims a new operation, and returns its claim."""
    claim = a_claim(lease=lease)
    assert await store.claim(claim) is None
    return claim


async def put_held(store: AsyncStore) -> Claim:
    """Claims a new operation and holds it."""
    claim = await put_running(store)
    assert await store.hold(claim.name, claim.fence, "its server died")
    return claim


async def put_waiting(store: AsyncStore, *, delay: timedelta = LEASE, failed_runs: int = 1) -> Claim:
    """Claims a new operation and makes it wait."""
    claim = await put_running(store)
    assert await store.wait(claim.name, claim.fence, delay, failed_runs, 0) is True
    return claim


async def put_undoing(store: AsyncStore) -> Claim:
    """Claims a new operation and begins to undo it because of ``FAILURE``."""
    claim = await put_running(store)
    assert await store.undo(claim.name, claim.fence, FAILURE) is True
    return claim


async def put_completed(store: AsyncStore, *, ttl: timedelta = TTL) -> Claim:
    """Claims a new operation and completes it with ``OUTCOME``."""
    claim = await put_running(store)
    assert await store.complete(claim.name, claim.fence, OUTCOME, ttl)
    return claim


async def record_of(store: AsyncStore, claim: Claim) -> Record:
    """Returns the record of a claim, which must exist."""
    record = await store.get(claim.name)
    assert record is not None
    return record


async def names_of(records: Awaitable[Sequence[Record]]) -> set[bytes]:
    """Returns the names of the records that a call returns."""
    return {one.name for one in await records}


async def assert_refused(store: AsyncStore, name: bytes, fence: bytes) -> None:
    """Asserts that every fenced call under the fence is refused and changes nothing."""
    before, steps = await store.get(name), await store.steps(name)
    assert await store.renew(name, fence, LEASE * 2) is Renewal.LOST
    assert await store.complete(name, fence, OTHER_OUTCOME, TTL) is None
    assert await store.release(name, fence) is False
    assert await store.wait(name, fence, TICK, 99, 0) is False
    assert await store.undo(name, fence, replace(FAILURE, details="no")) is False
    assert await store.record_step(name, fence, a_step(os.urandom(8).hex())) is False
    assert await store.hold(name, fence, "no") is False
    assert await store.hold(name, fence, "no", lapsed_only=True) is False
    assert await store.get(name) == before
    assert await store.steps(name) == steps
