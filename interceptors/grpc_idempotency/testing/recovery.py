"""The contract for pending records, and for the requests with which recovery runs them."""

import os
from dataclasses import replace

from grpc_idempotency.records import Renewal, State
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import (
    FAILURE,
    LEASE,
    METHOD,
    OUTCOME,
    TICK,
    TTL,
    a_claim,
    a_recoverable_claim,
    a_request,
    a_step,
    a_transactional_claim,
)
from grpc_idempotency.testing.states import assert_refused, names_of, put_completed, put_held, record_of


class RecoveryContract:
    """Pending records, and the requests with which recovery runs them."""

    async def test_what_can_be_run_again_is_pending(self, harness: AsyncStoreHarness) -> None:
        """Lapsed and due records are returned whole, with their requests, and not one tick earlier."""
        store = await harness.store()
        undoing = a_recoverable_claim(b"c")
        running, waiting = a_recoverable_claim(b"a"), a_recoverable_claim(b"b", b"", os.urandom(1 << 20))
        assert await store.claim(running) is None
        await harness.elapse(TICK)
        assert await store.claim(waiting) is None
        assert await store.wait(waiting.name, waiting.fence, LEASE, 2, 0)
        assert await store.claim(undoing) is None
        assert await store.undo(undoing.name, undoing.fence, FAILURE)
        await harness.elapse(LEASE - TICK * 2)
        assert list(await store.pending([METHOD])) == []
        await harness.elapse(TICK)
        assert await names_of(store.pending([METHOD])) == {running.name}
        await harness.elapse(TICK)
        claims = sorted((waiting, undoing), key=lambda one: one.name)
        expected = [replace(await record_of(store, one), request=one.request) for one in (running, *claims)]
        assert list(await store.pending([METHOD, "/a.B/Other"])) == expected
        assert [one.lapsed for one in expected] == [True, True, True]

    async def test_nothing_else_is_pending(self, harness: AsyncStoreHarness) -> None:
        """Records are not pending if they can't be run again, are held or completed, or belong to other methods.

        A repeatable record without a request can't be run again.
        """
        store = await harness.store()
        claims = [a_recoverable_claim() for _ in range(4)]
        claims.append(replace(claims[0], name=os.urandom(16), request=None))
        claims.append(replace(claims[0], name=os.urandom(16), request=None))
        claims.append(replace(claims[0], name=os.urandom(16), method="/a.B/Other"))
        for claim in claims:
            assert await store.claim(claim) is None
        assert await store.wait(claims[5].name, claims[5].fence, TICK, 1, 0)
        assert await store.hold(claims[1].name, claims[1].fence, "held")
        assert await store.complete(claims[2].name, claims[2].fence, OUTCOME, LEASE * 2)
        assert await store.release(claims[3].name, claims[3].fence)
        await harness.elapse(LEASE)
        assert await names_of(store.pending([METHOD])) == {claims[0].name}
        assert await names_of(store.pending(["/a.B/Other"])) == {claims[6].name}
        assert list(await store.pending([])) == []

    async def test_what_is_in_doubt_is_pending_first(self, harness: AsyncStoreHarness) -> None:
        """Lapsed records in doubt (opaque, and running or undoing) come first, until they are held.

        They need no request. They are not pending one tick before their leases have run out.
        """
        store = await harness.store()
        older, doubtful = a_recoverable_claim(), [a_claim(), a_claim(request=a_request(b"a")), a_claim()]
        for claim in (older, *doubtful):
            assert await store.claim(claim) is None
            await harness.elapse(TICK)
        assert await store.undo(doubtful[2].name, doubtful[2].fence, FAILURE)
        await harness.elapse(LEASE - TICK * 4)
        assert await names_of(store.pending([METHOD])) == {older.name}
        await harness.elapse(TICK * 3)
        expected = [replace(await record_of(store, one), request=one.request) for one in (*doubtful, older)]
        assert list(await store.pending([METHOD])) == expected
        assert list(await store.pending([METHOD], limit=1)) == expected[:1]
        assert await store.hold(doubtful[0].name, doubtful[0].fence, "in doubt", lapsed_only=True)
        assert list(await store.pending([METHOD])) == expected[1:]

    async def test_what_has_had_no_effect_is_pending_last(self, harness: AsyncStoreHarness) -> None:
        """Lapsed transactional records without request and steps come last, whether running or waiting."""
        store = await harness.store()
        waiting, running = a_transactional_claim(), a_transactional_claim()
        later = [a_recoverable_claim(), a_claim(), replace(a_transactional_claim(), request=a_request(b"a"))]
        assert await store.claim(waiting) is None
        assert await store.wait(waiting.name, waiting.fence, LEASE, 0, 0)
        for claim in (running, *later):
            await harness.elapse(TICK)
            assert await store.claim(claim) is None
        await harness.elapse(LEASE - TICK * 5)
        assert list(await store.pending([METHOD])) == []
        await harness.elapse(TICK * 5)
        to_run, in_doubt, requested = later
        expected = [in_doubt.name, to_run.name, requested.name, waiting.name, running.name]
        found = await store.pending([METHOD])
        assert [one.name for one in found] == expected
        assert [one.request is None for one in found] == [True, False, False, True, True]
        assert [one.name for one in await store.pending([METHOD], limit=4)] == expected[:4]

    async def test_a_transactional_record_with_a_step_is_not_pending(self, harness: AsyncStoreHarness) -> None:
        """Its step has had an effect, and without a request nobody but its client can run it again.

        The same holds after a take-over, and while it is waiting.
        """
        store = await harness.store()
        claim = a_transactional_claim()
        assert await store.claim(claim) is None
        await harness.elapse(LEASE)
        assert await names_of(store.pending([METHOD])) == {claim.name}
        assert await store.record_step(claim.name, claim.fence, a_step("charge"))
        assert list(await store.pending([METHOD])) == []
        second = replace(claim, fence=os.urandom(16))
        assert await store.claim(second, over=claim.fence) is None
        await harness.elapse(LEASE)
        assert list(await store.pending([METHOD])) == []
        assert await store.wait(second.name, second.fence, TICK, 1, 0)
        await harness.elapse(TICK)
        assert list(await store.pending([METHOD])) == []

    async def test_a_taken_over_record_is_pending_again(self, harness: AsyncStoreHarness) -> None:
        """A transactional record is pending again when the lease of a take-over has run out, or was renewed and has."""
        store = await harness.store()
        first = a_transactional_claim()
        assert await store.claim(first) is None
        await harness.elapse(LEASE)
        second = replace(first, fence=os.urandom(16))
        assert await store.claim(second, over=first.fence) is None
        assert list(await store.pending([METHOD])) == []
        await harness.elapse(LEASE)
        assert [one.fence for one in await store.pending([METHOD])] == [second.fence]
        assert await store.renew(second.name, second.fence, LEASE) is Renewal.RENEWED
        assert list(await store.pending([METHOD])) == []
        await harness.elapse(LEASE)
        assert [one.fence for one in await store.pending([METHOD])] == [second.fence]

    async def test_lapsed_only_releases_no_live_record(self, harness: AsyncStoreHarness) -> None:
        """``release`` with ``lapsed_only`` returns ``False`` until the lease has run out, and ``True`` from then on."""
        store = await harness.store()
        claim = a_transactional_claim()
        assert await store.claim(claim) is None
        await harness.elapse(LEASE - TICK)
        assert await store.release(claim.name, claim.fence, lapsed_only=True) is False
        assert (await record_of(store, claim)).state is State.RUNNING
        await harness.elapse(TICK)
        assert await store.release(claim.name, os.urandom(16), lapsed_only=True) is False
        assert await store.release(os.urandom(16), claim.fence, lapsed_only=True) is False
        assert await store.release(claim.name, claim.fence, lapsed_only=True) is True
        assert await store.get(claim.name) is None
        assert list(await store.pending([METHOD])) == []
        await assert_refused(store, claim.name, claim.fence)
        assert await store.release(claim.name, claim.fence, lapsed_only=True) is False

    async def test_lapsed_only_releases_a_waiting_record(self, harness: AsyncStoreHarness) -> None:
        """A waiting record is released when it is due."""
        store = await harness.store()
        claim = a_transactional_claim()
        assert await store.claim(claim) is None
        assert await store.wait(claim.name, claim.fence, TICK, 0, 0)
        assert await store.release(claim.name, claim.fence, lapsed_only=True) is False
        await harness.elapse(TICK)
        assert await store.release(claim.name, claim.fence, lapsed_only=True) is True
        assert await store.get(claim.name) is None

    async def test_lapsed_only_releases_no_finished_step(self, harness: AsyncStoreHarness) -> None:
        """A slow owner may finish a step after its lease. The record and the step are kept then."""
        store = await harness.store()
        claim = a_transactional_claim()
        assert await store.claim(claim) is None
        await harness.elapse(LEASE)
        assert await store.record_step(claim.name, claim.fence, a_step("charge"))
        assert await store.release(claim.name, claim.fence, lapsed_only=True) is False
        assert [one.name for one in await store.steps(claim.name)] == ["charge"]
        assert (await record_of(store, claim)).state is State.RUNNING

    async def test_lapsed_only_releases_no_ended_record(self, harness: AsyncStoreHarness) -> None:
        """Held and completed records do not lapse."""
        store = await harness.store()
        for prepare in (put_held, put_completed):
            claim = await prepare(store)
            record = await record_of(store, claim)
            await harness.elapse(LEASE)
            assert await store.release(claim.name, claim.fence, lapsed_only=True) is False
            assert replace(await record_of(store, claim), remaining=record.remaining) == record

    async def test_an_opaque_operation_that_waits_is_pending(self, harness: AsyncStoreHarness) -> None:
        """A waiting opaque operation is not in doubt: the end of its last run is known."""
        store = await harness.store()
        claim = a_claim(request=a_request(b"a"))
        assert await store.claim(claim) is None
        assert await store.wait(claim.name, claim.fence, TICK, 1, 0)
        await harness.elapse(TICK)
        assert await names_of(store.pending([METHOD])) == {claim.name}

    async def test_the_oldest_are_pending_first(self, harness: AsyncStoreHarness) -> None:
        """Records come in the order of their first claims, and no more than ``limit``."""
        store = await harness.store()
        claims = [replace(a_recoverable_claim(), method=f"/a.B/{n % 2}") for n in range(5)]
        for claim in claims:
            assert await store.claim(claim) is None
            await harness.elapse(TICK)
        await harness.elapse(LEASE)
        again = replace(claims[0], fence=os.urandom(16), lease=TICK)
        assert await store.claim(again, over=claims[0].fence) is None
        await harness.elapse(TICK)
        methods = {"/a.B/0", "/a.B/1"}
        assert [one.name for one in await store.pending(methods)] == [one.name for one in claims]
        assert [one.name for one in await store.pending(methods, limit=2)] == [one.name for one in claims[:2]]

    async def test_a_take_over_keeps_the_first_request(self, harness: AsyncStoreHarness) -> None:
        """A take-over does not store the request of its claim; a claim of an expired operation does."""
        store = await harness.store()
        first = a_recoverable_claim(b"first")
        assert await store.claim(first) is None
        await harness.elapse(LEASE)
        second = replace(first, fence=os.urandom(16), request=a_request(b"second"))
        assert await store.claim(second, over=first.fence) is None
        await harness.elapse(LEASE)
        assert [one.request for one in await store.pending([METHOD])] == [first.request]
        assert await store.complete(second.name, second.fence, OUTCOME, TTL)
        await harness.elapse(TTL)
        third = replace(first, fence=os.urandom(16), request=a_request(b"third"))
        assert await store.claim(third) is None
        await harness.elapse(LEASE)
        assert [one.request for one in await store.pending([METHOD])] == [third.request]

    async def test_requests_are_for_recovery_alone(self, harness: AsyncStoreHarness) -> None:
        """Only ``pending`` returns requests."""
        store = await harness.store()
        claim = a_recoverable_claim(b"secret")
        assert await store.claim(claim) is None
        lost_to = await store.claim(a_claim(claim.name))
        assert lost_to == await record_of(store, claim)
        assert lost_to.request is None
