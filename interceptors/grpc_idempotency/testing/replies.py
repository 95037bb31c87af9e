"""The contract for the transaction of a keyed call: rows and outcome commit together, or neither does."""

import asyncio
import os
from collections.abc import Callable

from grpc_idempotency._operation.steps import Unwinding
from grpc_idempotency.errors import FenceRefused, TransactionMisuse
from grpc_idempotency.records import Claim, Code, Outcome, State
from grpc_idempotency.testing.handlers import keyed, opened, outcome_of
from grpc_idempotency.testing.harness import AsyncTransactionHarness
from grpc_idempotency.testing.makers import LEASE, OUTCOME, TICK, TTL, a_claim
from grpc_idempotency.testing.raising import raises
from grpc_idempotency.testing.states import put_completed, put_held, put_running, put_waiting, record_of
from grpc_idempotency.transactions import AsyncTransactionalStore, Database, running_operation


class ReplyContract:
    """The transaction of a keyed call, whose result is the call's reply."""

    async def test_rows_and_outcome_commit_together(self, harness: AsyncTransactionHarness) -> None:
        """The record is completed with the reply for ``ttl`` from now, and the operation has its outcome."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        async with keyed(store, claim) as operation:
            assert await store.transaction(orders.insert("a")) == "a"
            assert operation.committed == outcome_of("a")
        record = await record_of(await harness.store(), claim)
        assert (record.state, record.outcome, record.fence) == (State.COMPLETED, outcome_of("a"), claim.fence)
        assert record.completed_at is not None
        assert record.expires_at == record.completed_at + TTL
        assert await orders.names(store) == ["a"]

    async def test_the_function_has_its_callers_operation(self, harness: AsyncTransactionHarness) -> None:
        """The function and ``make_outcome`` run with the caller's operation; in an un-keyed call there is none."""
        store, _ = await opened(harness)
        claim = await put_running(store)
        seen: list[object] = []

        def make_outcome(reply: object) -> Outcome:
            seen.extend((reply, running_operation()))
            return outcome_of(reply)

        assert await store.transaction(lambda _: running_operation()) is None
        async with keyed(store, claim, make_outcome) as operation:
            found = await store.transaction(lambda _: running_operation())
        assert found is operation
        assert seen == [operation, operation]

    async def test_what_the_function_raises_leaves_the_record_running(self, harness: AsyncTransactionHarness) -> None:
        """If the function raises, neither rows nor outcome are stored; the handler may try another transaction."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        async with keyed(store, claim) as operation:
            with raises(ZeroDivisionError):
                await store.transaction(lambda db: (orders.insert("a")(db), 1 // 0))
            assert operation.committed is None
            assert (await record_of(store, claim)).state is State.RUNNING
            assert await store.transaction(orders.insert("b")) == "b"
        assert await orders.names(store) == ["b"]

    async def test_a_reply_that_is_no_success_is_rolled_back(self, harness: AsyncTransactionHarness) -> None:
        """A reply with an error status is rolled back, but returned; the record is left to the interceptor."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        async with keyed(store, claim, lambda _: Outcome(status=Code.NOT_FOUND)) as operation:
            assert await store.transaction(orders.insert("a")) == "a"
            assert operation.committed is None
        assert await orders.names(store) == []
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)

    async def test_a_reply_that_can_not_be_sealed_is_rolled_back(self, harness: AsyncTransactionHarness) -> None:
        """The transaction raises the error of the response's serializer."""
        store, orders = await opened(harness)
        claim = await put_running(store)

        def make_outcome(_: object) -> Outcome:
            raise TypeError("not a message")

        async with keyed(store, claim, make_outcome):
            with raises(TypeError):
                await store.transaction(orders.insert("a"))
        assert await orders.names(store) == []
        assert (await record_of(store, claim)).state is State.RUNNING

    async def test_a_run_that_only_undoes_has_no_reply(self, harness: AsyncTransactionHarness) -> None:
        """``make_outcome`` then raises a ``BaseException`` that is no ``Exception``; this rolls back as well."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        async with keyed(store, claim, unwinds=True):
            with raises(Unwinding):
                await store.transaction(orders.insert("a"))
        assert await orders.names(store) == []
        assert (await record_of(store, claim)).state is State.RUNNING

    async def test_a_fence_that_is_spent_commits_nothing(self, harness: AsyncTransactionHarness) -> None:
        """After a take-over, a release or a wait, the old fence commits nothing. The successor can commit."""
        store, orders = await opened(harness)
        zombie = await put_running(store)
        await harness.elapse(LEASE)
        successor = a_claim(zombie.name)
        assert await store.claim(successor, over=zombie.fence) is None
        released = await put_running(store)
        assert await store.release(released.name, released.fence)
        for claim in (zombie, released, await put_waiting(store), a_claim()):
            before = await store.get(claim.name)
            async with keyed(store, claim) as operation:
                with raises(FenceRefused):
                    await store.transaction(orders.insert("zombie"))
                assert operation.committed is None
            assert await store.get(claim.name) == before
        async with keyed(store, successor):
            await store.transaction(orders.insert("successor"))
        assert await orders.names(store) == ["successor"]

    async def test_a_completed_operation_commits_no_other_outcome(self, harness: AsyncTransactionHarness) -> None:
        """A completed operation commits no other outcome, not even under its own fence."""
        store, orders = await opened(harness)
        claim = await put_completed(store)
        async with keyed(store, claim):
            with raises(TransactionMisuse, FenceRefused):
                await store.transaction(orders.insert("a"))
        assert await orders.names(store) == []
        assert (await record_of(store, claim)).outcome == OUTCOME

    async def test_a_lapsed_or_held_owner_may_still_commit(self, harness: AsyncTransactionHarness) -> None:
        """The owner was only slow, and can commit as long as nobody took over."""
        store, orders = await opened(harness)
        for name, prepare in (("a", put_running), ("b", put_held)):
            claim = await prepare(store)
            await harness.elapse(LEASE * 2)
            async with keyed(store, claim):
                assert await store.transaction(orders.insert(name)) == name
            assert (await record_of(store, claim)).outcome == outcome_of(name)
        assert await orders.names(store) == ["a", "b"]

    async def test_of_a_transaction_and_a_take_over_one_wins(self, harness: AsyncTransactionHarness) -> None:
        """Either the slow owner's rows and outcome are stored, or the operation is taken over; never both."""
        store, orders = await opened(harness)
        for _ in range(20):
            first = await put_running(store, lease=TICK)
            await harness.elapse(TICK)
            name = os.urandom(8).hex()

            paid, lost_to = await asyncio.gather(
                asyncio.create_task(_pay(store, first, orders.insert(name))),
                store.claim(a_claim(first.name), over=first.fence),
                return_exceptions=True,
            )
            refused = isinstance(paid, FenceRefused)
            assert refused or paid == name
            assert refused == (lost_to is None)
            assert (name in await orders.names(store)) is not refused
            record = await record_of(store, first)
            assert record.state is (State.RUNNING if refused else State.COMPLETED)

    async def test_a_call_has_one_transaction(self, harness: AsyncTransactionHarness) -> None:
        """The first transaction that commits is the reply. A later one is refused, and so is a concurrent one."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        async with keyed(store, claim):
            await store.transaction(orders.insert("a"))
            with raises(TransactionMisuse):
                await store.transaction(orders.insert("b"))
        claim = await put_running(store)
        async with keyed(store, claim) as operation:
            answers = await asyncio.gather(
                store.transaction(orders.insert("c")), store.transaction(orders.insert("d")), return_exceptions=True
            )
        (won,) = [answer for answer in answers if isinstance(answer, str)]
        assert [type(answer) for answer in answers if answer != won] == [TransactionMisuse]
        assert operation.committed == (await record_of(store, claim)).outcome == outcome_of(won)
        assert await orders.names(store) == ["a", won]

    async def test_a_handlers_task_has_transactions_of_its_own(self, harness: AsyncTransactionHarness) -> None:
        """Transactions of a handler's task commit no reply. One whose function returns the response is rolled back."""
        store, orders = await opened(harness)
        claim = await put_running(store)

        async def beside() -> None:
            for name in ("a", "b"):
                await store.transaction(_without_reply(orders.insert(name)))
            with raises(TransactionMisuse):
                await store.transaction(orders.insert("stray"))

        async with keyed(store, claim) as operation:
            await asyncio.create_task(beside())
            assert operation.committed is None
            assert await store.transaction(orders.insert("own")) == "own"
        assert await orders.names(store) == ["a", "b", "own"]

    async def test_an_operation_of_another_database_is_none_of_ours(self, harness: AsyncTransactionHarness) -> None:
        """An operation of another database plays no part; one of another store on the same database is completed."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        async with keyed(object(), claim) as operation:
            await store.transaction(orders.insert("a"))
            await store.transaction(orders.insert("b"))
            assert operation.committed is None
        other = await harness.store()
        await other.open()
        async with keyed(other, claim) as operation:
            await store.transaction(orders.insert("c"))
            assert operation.committed == outcome_of("c")
        assert (await record_of(store, claim)).outcome == outcome_of("c")

    async def test_of_many_keyed_transactions_each_has_its_own(self, harness: AsyncTransactionHarness) -> None:
        """Of 60 concurrent calls, all rows and outcomes are stored, except every fourth, whose fence is invalid."""
        store, orders = await opened(harness)
        claims = [await put_running(store) for _ in range(60)]
        for claim in claims[::4]:
            await store.release(claim.name, claim.fence)

        payments = [_pay(store, claim, orders.insert(f"{n:02}")) for n, claim in enumerate(claims)]
        answers = await asyncio.gather(*map(asyncio.create_task, payments), return_exceptions=True)
        assert [isinstance(answer, FenceRefused) for answer in answers] == [n % 4 == 0 for n in range(60)]
        kept = [n for n in range(60) if n % 4]
        assert await orders.names(store) == [f"{n:02}" for n in kept]
        for n in kept:
            assert (await record_of(store, claims[n])).outcome == outcome_of(f"{n:02}")


async def _pay(store: AsyncTransactionalStore, claim: Claim, fn: Callable[[Database], str]) -> str:
    """Runs a handler whose transaction is its reply."""
    async with keyed(store, claim):
        return await store.transaction(fn)


def _without_reply(fn: Callable[[Database], object]) -> Callable[[Database], None]:
    def silent(db: Database) -> None:
        fn(db)

    return silent
