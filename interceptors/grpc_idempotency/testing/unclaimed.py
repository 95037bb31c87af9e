"""The contract for operations that have no record before their outcome: one commit writes both (5.1)."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from grpc_idempotency.errors import FenceRefused, TransactionMisuse
from grpc_idempotency.records import Claim, Code, Effects, Outcome, Record, State
from grpc_idempotency.testing.handlers import keyed, opened, outcome_of
from grpc_idempotency.testing.harness import AsyncOneCommitHarness
from grpc_idempotency.testing.makers import LEASE, OTHER_OUTCOME, OUTCOME, TTL, a_claim, a_request, a_step
from grpc_idempotency.testing.raising import raises
from grpc_idempotency.testing.states import (
    assert_refused,
    put_completed,
    put_held,
    put_running,
    put_undoing,
    put_waiting,
    record_of,
)
from grpc_idempotency.transactions import AsyncTransactionalStore, Database

STANDING = (put_running, put_held, put_waiting, put_undoing, put_completed)


class UnclaimedContract:
    """Transactions and outcomes of operations whose claims were not written."""

    async def test_rows_and_record_commit_together(self, harness: AsyncOneCommitHarness) -> None:
        """The record is completed, and equal to that of a claimed operation; the operation has its outcome."""
        store, orders = await opened(harness)
        for claim in (_claim(), replace(_claim(), streams=True)):
            name = os.urandom(8).hex()
            async with keyed(store, claim, unclaimed=True) as operation:
                assert await store.transaction(orders.insert(name)) == name
            record = await record_of(await harness.store(), claim)
            assert record == _completed(claim, outcome_of(name), record.completed_at)
            assert (operation.committed, operation.completed_at) == (outcome_of(name), record.completed_at)
            assert name in await orders.names(store)

    async def test_a_record_that_stands_refuses_the_transaction(self, harness: AsyncOneCommitHarness) -> None:
        """If a record exists, in any state and also lapsed, the function does not run, and the record is unchanged."""
        store, orders = await opened(harness)
        for prepare in STANDING:
            standing = await prepare(store)
            if prepare is put_running:
                await harness.elapse(LEASE)
            record = await store.get(standing.name)
            ran: list[Database] = []
            async with keyed(store, _claim(standing.name), unclaimed=True) as operation:
                with raises(FenceRefused):
                    await store.transaction(ran.append)
            assert (ran, operation.committed, operation.completed_at) == ([], None, None)
            assert await store.get(standing.name) == record
        assert await orders.names(store) == []

    async def test_an_expired_record_is_replaced(self, harness: AsyncOneCommitHarness) -> None:
        """From the instant of its expiry on, a record is replaced, with all of its values."""
        store, orders = await opened(harness)
        first = await put_waiting(store, failed_runs=4)
        await harness.elapse(LEASE)
        second = a_claim(first.name, effects=Effects.REPEATABLE, streams=True, request=a_request(b"request"))
        assert await store.claim(second, over=first.fence) is None
        assert await store.record_step(second.name, second.fence, a_step("charge"))
        assert await store.hold(second.name, second.fence, "its server died")
        assert await store.complete(second.name, second.fence, replace(OTHER_OUTCOME, retained=False), TTL)
        await harness.elapse(TTL)
        claim = _claim(first.name)
        async with keyed(store, claim, unclaimed=True):
            await store.transaction(orders.insert("a"))
        record = await record_of(store, claim)
        assert record == _completed(claim, outcome_of("a"), record.completed_at)
        assert list(await store.steps(claim.name)) == []

    async def test_what_is_rolled_back_leaves_no_record(self, harness: AsyncOneCommitHarness) -> None:
        """If the function raises, or its reply has an error status, there is no record; the handler may try again."""
        store, orders = await opened(harness)
        claim = _claim()

        def make_outcome(reply: object) -> Outcome:
            return replace(outcome_of(reply), status=Code.NOT_FOUND) if reply == "missing" else outcome_of(reply)

        async with keyed(store, claim, make_outcome, unclaimed=True) as operation:
            with raises(ZeroDivisionError):
                await store.transaction(lambda db: (orders.insert("a")(db), 1 // 0))
            assert await store.transaction(orders.insert("missing")) == "missing"
            assert (operation.committed, await store.get(claim.name)) == (None, None)
            assert await store.transaction(orders.insert("b")) == "b"
        assert await orders.names(store) == ["b"]
        assert (await record_of(store, claim)).outcome == outcome_of("b")

    async def test_a_transaction_can_not_commit_twice(self, harness: AsyncOneCommitHarness) -> None:
        """An operation commits once, also if a second run does not know that the first one has committed."""
        store, orders = await opened(harness)
        claim = _claim()
        async with keyed(store, claim, unclaimed=True):
            await store.transaction(orders.insert("a"))
            with raises(TransactionMisuse):
                await store.transaction(orders.insert("b"))
        async with keyed(store, claim, unclaimed=True):
            with raises(TransactionMisuse, FenceRefused):
                await store.transaction(orders.insert("c"))
        assert await orders.names(store) == ["a"]
        assert (await record_of(store, claim)).outcome == outcome_of("a")

    async def test_of_many_runs_of_one_operation_one_commits(self, harness: AsyncOneCommitHarness) -> None:
        """Of 20 runs, through two stores on one database, one commits its rows and its record; others are refused."""
        store, orders = await opened(harness)
        stores, first = (store, await harness.store()), _claim()
        runs = [_pay(stores[n % 2], _claim(first.name), orders.insert(f"{n:02}")) for n in range(20)]
        answers = await asyncio.gather(*map(asyncio.create_task, runs), return_exceptions=True)
        (won,) = [answer for answer in answers if isinstance(answer, str)]
        assert {type(answer) for answer in answers if answer is not won} == {FenceRefused}
        assert await orders.names(store) == [won]
        assert (await record_of(store, first)).outcome == outcome_of(won)

    async def test_of_a_transaction_and_a_claim_one_wins(self, harness: AsyncOneCommitHarness) -> None:
        """Either the claim is lost to the completed record, or the transaction is refused; never both or neither."""
        store, orders = await opened(harness)
        for _ in range(20):
            first, name = _claim(), os.urandom(8).hex()
            paid, lost_to = await asyncio.gather(
                asyncio.create_task(_pay(store, first, orders.insert(name))),
                store.claim(a_claim(first.name)),
                return_exceptions=True,
            )
            refused = isinstance(paid, FenceRefused)
            assert refused or paid == name
            assert refused == (lost_to is None)
            assert (name in await orders.names(store)) is not refused
            assert (await record_of(store, first)).state is (State.RUNNING if refused else State.COMPLETED)

    async def test_of_many_unclaimed_and_claimed_ones_each_has_its_own(self, harness: AsyncOneCommitHarness) -> None:
        """Of 60 concurrent runs, the 20 that meet records of others are refused; the others commit."""
        store, orders = await opened(harness)
        claims = [await put_running(store) for _ in range(20)]
        claims += [_claim() for _ in range(20)]
        claims += [_claim((await put_completed(store)).name) for _ in range(20)]
        runs = [_pay(store, claim, orders.insert(f"{n:02}"), unclaimed=n >= 20) for n, claim in enumerate(claims)]
        answers = await asyncio.gather(*map(asyncio.create_task, runs), return_exceptions=True)
        assert [isinstance(answer, FenceRefused) for answer in answers] == [n >= 40 for n in range(60)]
        assert await orders.names(store) == [f"{n:02}" for n in range(40)]
        for n, claim in enumerate(claims[:40]):
            assert (await record_of(store, claim)).outcome == outcome_of(f"{n:02}")

    async def test_an_outcome_is_stored_without_a_claim(self, harness: AsyncOneCommitHarness) -> None:
        """An outcome with any status can be stored in one write; the record is like that of a claimed operation."""
        store = await harness.store()
        for outcome in (OUTCOME, OTHER_OUTCOME):
            claim = _claim()
            completed_at = await store.complete_unclaimed(claim, outcome, TTL)
            assert isinstance(completed_at, datetime)
            record = await record_of(await harness.store(), claim)
            assert record == _completed(claim, outcome, completed_at)
            assert await store.claim(a_claim(claim.name)) == record
            await assert_refused(store, claim.name, os.urandom(16))

    async def test_an_outcome_without_a_claim_can_be_stored_again(self, harness: AsyncOneCommitHarness) -> None:
        """If the answer was lost, the call can be repeated. Another outcome under the same fence gets the record."""
        store = await harness.store()
        claim = _claim()
        first = await store.complete_unclaimed(claim, OUTCOME, TTL)
        record = await record_of(store, claim)
        await harness.elapse(LEASE)
        assert await store.complete_unclaimed(claim, OUTCOME, TTL) == first == record.completed_at
        standing = await store.complete_unclaimed(claim, OTHER_OUTCOME, TTL)
        assert standing == await record_of(store, claim) == record

    async def test_an_outcome_without_a_claim_replaces_no_record(self, harness: AsyncOneCommitHarness) -> None:
        """``complete_unclaimed`` returns an existing record, in any state, and replaces it only once it has expired."""
        store = await harness.store()
        for prepare in STANDING:
            standing = await prepare(store)
            record = await store.get(standing.name)
            assert await store.complete_unclaimed(_claim(standing.name), OTHER_OUTCOME, TTL) == record
            assert await store.get(standing.name) == record
        expired = await put_completed(store)
        await harness.elapse(TTL)
        claim = _claim(expired.name)
        completed_at = await store.complete_unclaimed(claim, OUTCOME, TTL)
        assert await record_of(store, claim) == _completed(claim, OUTCOME, _instant(completed_at))

    async def test_of_many_outcomes_without_claims_each_has_its_own(self, harness: AsyncOneCommitHarness) -> None:
        """Of 60 concurrent calls, two for each operation, one stores its outcome; the other one gets the record."""
        store = await harness.store()
        pairs = [(claim, _claim(claim.name)) for claim in [_claim() for _ in range(30)]]
        calls = [store.complete_unclaimed(claim, OUTCOME, TTL) for pair in pairs for claim in pair]
        answers = await asyncio.gather(*calls)
        for n, pair in enumerate(pairs):
            record = await record_of(store, pair[0])
            won = [claim for claim in pair if claim.fence == record.fence]
            assert len(won) == 1
            answered = answers[2 * n : 2 * n + 2]
            assert sorted(map(_is_record, answered)) == [False, True]
            assert record in answered
            assert record.completed_at in answered


def _claim(name: bytes | None = None) -> Claim:
    return a_claim(name, effects=Effects.TRANSACTIONAL, trace=os.urandom(25))


def _completed(claim: Claim, outcome: Outcome, completed_at: datetime | None) -> Record:
    """Returns the record of a claim that was written together with its outcome."""
    assert completed_at is not None
    return Record(
        name=claim.name,
        method=claim.method,
        state=State.COMPLETED,
        fence=claim.fence,
        fingerprint=claim.fingerprint,
        effects=claim.effects,
        streams=claim.streams,
        trace=claim.trace,
        attempts=1,
        created_at=completed_at,
        completed_at=completed_at,
        expires_at=completed_at + TTL,
        outcome=outcome,
    )


def _instant(answer: datetime | Record) -> datetime:
    assert isinstance(answer, datetime)
    return answer


def _is_record(answer: datetime | Record) -> bool:
    return isinstance(answer, Record)


async def _pay(
    store: AsyncTransactionalStore, claim: Claim, fn: Callable[[Database], str], *, unclaimed: bool = True
) -> str:
    """Runs a handler whose transaction is its reply."""
    async with keyed(store, claim, unclaimed=unclaimed):
        return await store.transaction(fn)
