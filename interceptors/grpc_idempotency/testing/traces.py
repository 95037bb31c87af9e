"""The contract for trace contexts."""

import os

from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import LEASE, OUTCOME, TICK, TTL, a_claim
from grpc_idempotency.testing.states import record_of


class TraceContract:
    """The trace context of the call that executes an operation."""

    async def test_a_record_has_the_trace_of_its_last_claim(self, harness: AsyncStoreHarness) -> None:
        """In every state; a take-over replaces it, also by none, and a completed record keeps it."""
        store = await harness.store()
        traces = [os.urandom(25), os.urandom(25), b"", bytes(25)]
        last = a_claim(trace=traces[0])
        assert await store.claim(last) is None
        for trace in traces[1:]:
            assert await store.wait(last.name, last.fence, TICK, 1, 0)
            assert (await record_of(store, last)).trace == last.trace
            await harness.elapse(TICK)
            following = a_claim(last.name, trace=trace)
            assert await store.claim(following, over=last.fence) is None
            assert (await record_of(store, last)).trace == trace
            last = following
        assert await store.hold(last.name, last.fence, "its server died")
        assert (await record_of(store, last)).trace == last.trace
        assert await store.complete(last.name, last.fence, OUTCOME, TTL)
        assert (await record_of(store, last)).trace == last.trace
        standing = await store.claim(a_claim(last.name))
        assert standing is not None
        assert standing.trace == last.trace
        await harness.elapse(TTL)
        assert await store.claim(a_claim(last.name)) is None
        assert (await record_of(store, last)).trace == b""

    async def test_most_records_have_none(self, harness: AsyncStoreHarness) -> None:
        """A claim of a call that is not sampled leaves the trace empty."""
        store = await harness.store()
        claim = a_claim()
        assert await store.claim(claim) is None
        assert (await record_of(store, claim)).trace == b""
        await harness.elapse(LEASE)
        assert await store.claim(a_claim(claim.name, trace=os.urandom(25)), over=os.urandom(16)) is not None
        assert (await record_of(store, claim)).trace == b""
