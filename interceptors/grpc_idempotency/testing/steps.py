"""The contract for finished steps."""

import asyncio
import os

from grpc_idempotency.records import Claim
from grpc_idempotency.store import AsyncStore
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import LEASE, OUTCOME, TICK, TTL, a_claim, a_step
from grpc_idempotency.testing.states import put_completed, put_held, put_running, put_waiting, record_of


class StepContract:
    """Finished steps."""

    async def test_steps_are_kept_to_the_byte_in_their_order(self, harness: AsyncStoreHarness) -> None:
        """Steps are read unchanged, in the order of recording and not of ``position``; each operation has its own."""
        store = await harness.store()
        one, other = await put_running(store), await put_running(store)
        steps = [
            a_step("second", position=1, result=b""),
            a_step("first", result=bytes(range(256)), undoable=True),
            a_step("ünïcode 'and; \n\x00", position=2, result=os.urandom(1 << 20)),
            a_step("again", position=2, undoable=True),
        ]
        for step in steps:
            assert await store.record_step(one.name, one.fence, step) is True
        assert await store.record_step(other.name, other.fence, a_step("first", result=b"other"))
        assert list(await store.steps(one.name)) == steps
        assert list(await (await harness.store()).steps(one.name)) == steps
        assert list(await store.steps(other.name)) == [a_step("first", result=b"other")]
        assert list(await store.steps(os.urandom(16))) == []

    async def test_a_step_tells_when_it_was_recorded(self, harness: AsyncStoreHarness) -> None:
        """The time is set by the store, aware, later for later steps, and the same at each reading."""
        store = await harness.store()
        claim = await put_running(store)
        for name in ("reserve", "confirm"):
            assert await store.record_step(claim.name, claim.fence, a_step(name))
            await harness.elapse(TICK)
        reserved, confirmed = (step.recorded_at for step in await store.steps(claim.name))
        created = (await record_of(store, claim)).created_at
        assert reserved is not None
        assert confirmed is not None
        assert created <= reserved < confirmed
        assert [step.recorded_at for step in await store.steps(claim.name)] == [reserved, confirmed]

    async def test_a_name_is_kept_once(self, harness: AsyncStoreHarness) -> None:
        """A second step of the same name is refused, even an equal one, and the first one stays."""
        store = await harness.store()
        claim = await put_running(store)
        assert await store.record_step(claim.name, claim.fence, a_step("charge")) is True
        assert await store.record_step(claim.name, claim.fence, a_step("charge")) is False
        assert await store.record_step(claim.name, claim.fence, a_step("charge", result=b"other")) is False
        assert list(await store.steps(claim.name)) == [a_step("charge")]

    async def test_of_many_steps_of_one_name_one_is_kept(self, harness: AsyncStoreHarness) -> None:
        """Of concurrent steps of one name, only the one whose call returned ``True`` is stored.

        Steps of other names are stored as well.
        """
        store = await harness.store()
        claims = [await put_running(store) for _ in range(5)]
        steps = [a_step(f"step {n % 4}", position=n, result=str(n).encode()) for n in range(20)]
        calls = [(claim, step) for step in steps for claim in claims]
        answers = await asyncio.gather(*(store.record_step(claim.name, claim.fence, step) for claim, step in calls))
        kept = [call for call, answer in zip(calls, answers, strict=True) if answer]
        for claim in claims:
            found = await store.steps(claim.name)
            assert {step.name for step in found} == {step.name for step in steps}
            assert {step.position for step in found} == {step.position for other, step in kept if other is claim}

    async def test_running_and_held_operations_have_steps(self, harness: AsyncStoreHarness) -> None:
        """Running and held operations can record steps, also lapsed ones; waiting and completed ones can't."""
        store = await harness.store()
        for prepare in (put_running, put_held):
            claim = await prepare(store)
            await harness.elapse(LEASE)
            assert await store.record_step(claim.name, claim.fence, a_step("late")) is True
        for prepare in (put_waiting, put_completed):
            claim = await prepare(store)
            assert await store.record_step(claim.name, claim.fence, a_step("late")) is False
            assert list(await store.steps(claim.name)) == []

    async def test_a_spent_fence_keeps_no_step(self, harness: AsyncStoreHarness) -> None:
        """After a take-over only the successor can add steps; the earlier steps still exist."""
        store = await harness.store()
        first = await put_running(store)
        assert await store.record_step(first.name, first.fence, a_step("reserve"))
        await harness.elapse(LEASE)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        assert await store.record_step(first.name, first.fence, a_step("confirm", result=b"zombie")) is False
        assert await store.record_step(second.name, second.fence, a_step("confirm")) is True
        assert list(await store.steps(first.name)) == [a_step("reserve"), a_step("confirm")]

    async def test_steps_stay_as_long_as_their_record(self, harness: AsyncStoreHarness) -> None:
        """Steps stay while the record is waiting, run again, held and completed, until the instant of its expiry."""
        store = await harness.store()
        first, steps = await put_running(store), [a_step("charge", undoable=True)]
        assert await store.record_step(first.name, first.fence, steps[0])
        assert await store.wait(first.name, first.fence, TICK, 1, 0)
        assert list(await store.steps(first.name)) == steps
        await harness.elapse(TICK)
        second = a_claim(first.name)
        assert await store.claim(second, over=first.fence) is None
        assert await store.hold(second.name, second.fence, "an undo failed")
        assert list(await store.steps(first.name)) == steps
        assert await store.complete(second.name, second.fence, OUTCOME, TTL)
        await harness.elapse(TTL - TICK)
        assert list(await store.steps(first.name)) == steps
        await harness.elapse(TICK)
        assert list(await store.steps(first.name)) == []

    async def test_steps_go_with_their_record(self, harness: AsyncStoreHarness) -> None:
        """After a release, or a resolution as never happened, a new claim has no steps, and all names are free."""
        store = await harness.store()
        for settle in (_release, _release_held):
            first = await put_running(store)
            assert await store.record_step(first.name, first.fence, a_step("charge"))
            await settle(store, first)
            assert list(await store.steps(first.name)) == []
            await _begins_without_steps(store, first.name)

    async def test_a_claim_of_an_expired_operation_has_none_of_its_steps(self, harness: AsyncStoreHarness) -> None:
        """A new claim of an expired operation has no steps, swept or not; other operations keep theirs."""
        store = await harness.store()
        other = await put_running(store)
        assert await store.record_step(other.name, other.fence, a_step("charge"))
        claims = [await put_running(store) for _ in range(2)]
        for claim in claims:
            assert await store.record_step(claim.name, claim.fence, a_step("charge"))
            assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        await harness.elapse(TTL)
        await _begins_without_steps(store, claims[0].name)
        assert (await store.sweep()).deleted == 1
        await _begins_without_steps(store, claims[1].name)
        assert list(await store.steps(other.name)) == [a_step("charge")]


async def _release(store: AsyncStore, claim: Claim) -> None:
    assert await store.release(claim.name, claim.fence)


async def _release_held(store: AsyncStore, claim: Claim) -> None:
    assert await store.hold(claim.name, claim.fence, "its server died")
    assert await store.release(claim.name, claim.fence)


async def _begins_without_steps(store: AsyncStore, name: bytes) -> None:
    claim = a_claim(name)
    assert await store.claim(claim) is None
    assert list(await store.steps(name)) == []
    assert await store.record_step(name, claim.fence, a_step("charge")) is True
