"""The contract for what operators decide: to resolve held records, to forget others, and the notes on both."""

import asyncio
from datetime import timedelta

from grpc_idempotency.operator_store import NOTES_KEPT, AsyncOperatorStore
from grpc_idempotency.records import Note, State
from grpc_idempotency.testing.harness import AsyncOperatorHarness
from grpc_idempotency.testing.makers import (
    FAILURE,
    LEASE,
    OTHER_OUTCOME,
    OUTCOME,
    TICK,
    TTL,
    a_claim,
    a_step,
)
from grpc_idempotency.testing.states import (
    assert_refused,
    put_completed,
    put_held,
    put_running,
    put_undoing,
    put_waiting,
    record_of,
)

_NOTE = Note(by="ann@desk", action="completed", reason="the bank says so")


class DecisionContract:
    """What operators decide, and the notes on it."""

    async def test_an_operator_can_complete_a_held_record(self, harness: AsyncOperatorHarness) -> None:
        """The record is completed with the operator's outcome, and expires ``ttl`` from now."""
        store = await harness.store()
        claim = await put_held(store)
        await harness.elapse(timedelta(days=2))
        assert await store.resolve(claim.name, claim.fence, OTHER_OUTCOME, TTL) is True
        record = await record_of(store, claim)
        assert (record.state, record.outcome, record.reason) == (State.COMPLETED, OTHER_OUTCOME, "")
        assert (record.resolved, record.owner) == (True, "")
        await harness.elapse(TTL - TICK)
        assert await store.get(claim.name) == record
        await harness.elapse(TICK)
        assert await store.get(claim.name) is None
        assert await store.claim(a_claim(claim.name)) is None
        assert (await record_of(store, claim)).resolved is False

    async def test_an_operators_outcome_replaces_the_failure(self, harness: AsyncOperatorHarness) -> None:
        """A record that could not be undone is completed with the operator's outcome, and not with its failure."""
        store = await harness.store()
        claim = await put_undoing(store)
        assert await store.hold(claim.name, claim.fence, "an undo failed") is True
        assert (await record_of(store, claim)).failure == FAILURE
        assert await store.resolve(claim.name, claim.fence, OUTCOME, TTL) is True
        record = await record_of(store, claim)
        assert (record.state, record.outcome, record.failure) == (State.COMPLETED, OUTCOME, None)

    async def test_an_operator_can_say_that_it_never_happened(self, harness: AsyncOperatorHarness) -> None:
        """The operation is absent again, without steps, and its fence is spent."""
        store = await harness.store()
        claim = await put_running(store)
        assert await store.record_step(claim.name, claim.fence, a_step("charge"))
        assert await store.hold(claim.name, claim.fence, "its server died")
        assert await store.resolve(claim.name, claim.fence, None, TTL) is True
        assert await store.get(claim.name) is None
        await _is_gone(store, claim.name, claim.fence)

    async def test_only_held_records_are_resolved(self, harness: AsyncOperatorHarness) -> None:
        """``resolve`` returns ``False`` for running, lapsed, waiting and completed records, and under another fence."""
        store = await harness.store()
        for prepare in (put_running, put_waiting, put_undoing, put_completed):
            claim = await prepare(store)
            for _ in range(2):
                record = await record_of(store, claim)
                assert await store.resolve(claim.name, claim.fence, OTHER_OUTCOME, TTL, _NOTE) is False
                assert await store.resolve(claim.name, claim.fence, None, TTL, _NOTE) is False
                assert await record_of(store, claim) == record
                await harness.elapse(LEASE)
            assert list(await store.notes(claim.name)) == []
        held, another = await put_held(store), a_claim().fence
        assert await store.resolve(held.name, another, OTHER_OUTCOME, TTL, _NOTE) is False
        assert await store.resolve(held.name, another, None, TTL, _NOTE) is False
        assert (await record_of(store, held)).state is State.HELD

    async def test_an_operation_that_nobody_runs_can_be_forgotten(self, harness: AsyncOperatorHarness) -> None:
        """A completed, held, waiting or lapsed record: the operation is absent, and its fence is spent."""
        store = await harness.store()
        idle = (put_completed, put_held, put_waiting)
        for prepare in (*idle, put_waiting, put_running, put_undoing):
            claim = await prepare(store)
            if prepare not in idle:
                await harness.elapse(LEASE)
            assert await store.forget(claim.name, claim.fence) is True
            assert await store.get(claim.name) is None
            await _is_gone(store, claim.name, claim.fence)

    async def test_steps_are_forgotten_too(self, harness: AsyncOperatorHarness) -> None:
        """A new claim of the operation has none of them."""
        store = await harness.store()
        claim = await put_running(store)
        assert await store.record_step(claim.name, claim.fence, a_step("charge"))
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        assert await store.forget(claim.name, claim.fence) is True
        await _is_gone(store, claim.name, claim.fence)

    async def test_what_is_at_work_is_not_forgotten(self, harness: AsyncOperatorHarness) -> None:
        """``forget`` returns ``False`` as long as the lease holds, for an absent operation, and under another fence."""
        store = await harness.store()
        for prepare in (put_running, put_undoing):
            claim = await prepare(store)
            await harness.elapse(LEASE - TICK)
            assert await store.forget(claim.name, claim.fence, _NOTE) is False
            assert (await record_of(store, claim)).fence == claim.fence
            await harness.elapse(TICK)
            assert await store.forget(claim.name, a_claim().fence, _NOTE) is False
            assert (await record_of(store, claim)).fence == claim.fence
            assert list(await store.notes(claim.name)) == []
        expired = await put_completed(store)
        await harness.elapse(TTL)
        for absent in (expired, a_claim()):
            assert await store.forget(absent.name, absent.fence, _NOTE) is False
            assert list(await store.notes(absent.name)) == []

    async def test_nothing_is_forgotten_under_another_fence(self, harness: AsyncOperatorHarness) -> None:
        """``forget`` returns ``False``, whatever the state: the operator has seen another run."""
        store = await harness.store()
        for prepare in (put_completed, put_held, put_waiting):
            claim = await prepare(store)
            record = await record_of(store, claim)
            assert await store.forget(claim.name, a_claim().fence, _NOTE) is False
            assert await record_of(store, claim) == record
            assert list(await store.notes(claim.name)) == []

    async def test_of_two_operators_one_decides(self, harness: AsyncOperatorHarness) -> None:
        """They have seen the same held record. One of them changes it, and the note is that one's."""
        store = await harness.store()
        notes = [Note(by=by, action="completed", reason="") for by in ("ann", "bob", "cem", "dan")]
        for _ in range(5):
            claim = await put_held(store)
            decided = await asyncio.gather(
                store.resolve(claim.name, claim.fence, OUTCOME, TTL, notes[0]),
                store.resolve(claim.name, claim.fence, None, TTL, notes[1]),
                store.resolve(claim.name, claim.fence, OTHER_OUTCOME, TTL, notes[2]),
                store.resolve(claim.name, claim.fence, None, TTL, notes[3]),
            )
            assert sorted(decided) == [False, False, False, True]
            by = decided.index(True)
            assert [note.by for note in await store.notes(claim.name)] == [notes[by].by]
            record = await store.get(claim.name)
            assert (record and record.outcome) == (OUTCOME, None, OTHER_OUTCOME, None)[by]

    async def test_an_operator_and_a_retry_on_a_lapsed_record(self, harness: AsyncOperatorHarness) -> None:
        """Either the record is forgotten, or the retry takes it over: never both."""
        store = await harness.store()
        for _ in range(5):
            claim = await put_running(store)
            await harness.elapse(LEASE)
            retry = a_claim(claim.name)
            forgotten, standing = await asyncio.gather(
                store.forget(claim.name, claim.fence, _NOTE), store.claim(retry, over=claim.fence)
            )
            assert standing is None
            record = await record_of(store, retry)
            assert (record.fence, record.attempts) == (retry.fence, 1 if forgotten else 2)
            assert len(await store.notes(claim.name)) == forgotten

    async def test_notes_outlive_a_new_run(self, harness: AsyncOperatorHarness) -> None:
        """An operation that was claimed again, and has ended since, still has the notes on its earlier record."""
        store = await harness.store()
        claim = await put_held(store)
        assert await store.resolve(claim.name, claim.fence, None, TTL, _NOTE) is True
        again = a_claim(claim.name)
        assert await store.claim(again) is None
        assert len(await store.notes(claim.name)) == 1
        assert await store.complete(again.name, again.fence, OUTCOME, TTL)
        await harness.elapse(TTL)
        assert (await store.sweep()).deleted == 1
        assert [note.by for note in await store.notes(claim.name)] == [_NOTE.by]

    async def test_notes_tell_what_was_done(self, harness: AsyncOperatorHarness) -> None:
        """A note has the time of its change; notes stay without the record, the oldest first, each operation's own."""
        store = await harness.store()
        claim, other = await put_held(store), await put_held(store)
        assert await store.resolve(claim.name, claim.fence, OTHER_OUTCOME, TTL, _NOTE) is True
        record = await record_of(store, claim)
        await harness.elapse(TICK)
        forgotten = Note(by="", action="forgotten", reason="ünïcode\n'\0")
        assert await store.forget(claim.name, claim.fence, forgotten) is True
        first, second = await store.notes(claim.name)
        assert (first.by, first.action, first.reason) == (_NOTE.by, _NOTE.action, _NOTE.reason)
        assert first.at == record.completed_at
        assert (second.by, second.action, second.reason) == ("", "forgotten", forgotten.reason)
        assert first.at is not None
        assert second.at == first.at + TICK
        assert second.at.utcoffset() == timedelta(0)
        assert list(await store.notes(other.name)) == []
        assert await store.resolve(other.name, other.fence, None, TTL) is True
        assert list(await store.notes(other.name)) == []

    async def test_notes_are_kept_for_90_days(self, harness: AsyncOperatorHarness) -> None:
        """Longer than the record, and not forever; sweeps do not count them."""
        store = await harness.store()
        claims = [await put_held(store) for _ in range(3)]
        for claim in claims:
            assert await store.resolve(claim.name, claim.fence, None, TTL, _NOTE) is True
        await harness.elapse(NOTES_KEPT - TICK)
        assert (await store.sweep()).deleted == 0
        for claim in claims:
            assert len(await store.notes(claim.name)) == 1
        await harness.elapse(TICK)
        assert list(await store.notes(claims[0].name)) == []
        swept = await store.sweep()
        assert (swept.deleted, swept.more) == (0, False)
        for claim in claims:
            assert list(await store.notes(claim.name)) == []


async def _is_gone(store: AsyncOperatorStore, name: bytes, fence: bytes) -> None:
    await assert_refused(store, name, fence)
    assert await store.resolve(name, fence, OTHER_OUTCOME, TTL) is False
    assert await store.forget(name, fence) is False
    assert await store.claim(a_claim(name)) is None
    assert list(await store.steps(name)) == []
