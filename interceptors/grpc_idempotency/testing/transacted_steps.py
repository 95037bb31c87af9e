"""The contract for steps whose rows and result commit together."""

import asyncio

from grpc_idempotency.errors import FenceRefused, TransactionMisuse
from grpc_idempotency.records import Step
from grpc_idempotency.testing.handlers import keyed, opened, outcome_of, step_of
from grpc_idempotency.testing.harness import AsyncTransactionHarness
from grpc_idempotency.testing.makers import LEASE, a_claim, a_step
from grpc_idempotency.testing.raising import raises
from grpc_idempotency.testing.states import put_completed, put_running, put_waiting, record_of
from grpc_idempotency.transactions import Database


class TransactedStepContract:
    """Steps whose rows and result commit together (5.2)."""

    async def test_rows_and_step_commit_together(self, harness: AsyncTransactionHarness) -> None:
        """An operation can have many such steps, and goes on running until a transaction commits its outcome."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        async with keyed(store, claim) as operation:
            for name in ("a", "b", "c"):
                assert await store.transaction(orders.insert(name), step=step_of(name)) == name
                assert operation.committed is None
            assert await store.transaction(orders.insert("d")) == "d"
            assert operation.committed == outcome_of("d")
        assert await orders.names(store) == ["a", "b", "c", "d"]
        assert list(await store.steps(claim.name)) == [a_step(name, result=name.encode()) for name in ("a", "b", "c")]
        assert (await record_of(store, claim)).outcome == outcome_of("d")

    async def test_what_the_function_raises_leaves_no_step(self, harness: AsyncTransactionHarness) -> None:
        """If the function or ``step`` raises, nothing is stored; the step's name stays free for another run."""
        store, orders = await opened(harness)
        claim = await put_running(store)

        def no(_: object) -> Step:
            raise TypeError("no result")

        async with keyed(store, claim):
            with raises(ZeroDivisionError):
                await store.transaction(lambda db: (orders.insert("a")(db), 1 // 0), step=step_of("a"))
            with raises(TypeError):
                await store.transaction(orders.insert("a"), step=no)
            assert list(await store.steps(claim.name)) == []
            assert await store.transaction(orders.insert("a"), step=step_of("a")) == "a"
        assert await orders.names(store) == ["a"]

    async def test_a_step_that_is_kept_already_is_refused(self, harness: AsyncTransactionHarness) -> None:
        """A step whose name is stored already is refused with its rows, however the first one was stored."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        assert await store.record_step(claim.name, claim.fence, a_step("a"))
        async with keyed(store, claim):
            with raises(FenceRefused):
                await store.transaction(orders.insert("a"), step=step_of("a"))
            await store.transaction(orders.insert("b"), step=step_of("b"))
            with raises(FenceRefused):
                await store.transaction(orders.insert("again"), step=step_of("b"))
        assert await orders.names(store) == ["b"]
        assert list(await store.steps(claim.name)) == [a_step("a"), a_step("b", result=b"b")]

    async def test_a_fence_that_is_spent_keeps_no_step(self, harness: AsyncTransactionHarness) -> None:
        """Neither step nor rows are stored after a take-over, for a waiting operation, or for a completed one."""
        store, orders = await opened(harness)
        zombie = await put_running(store)
        await harness.elapse(LEASE)
        successor = a_claim(zombie.name)
        assert await store.claim(successor, over=zombie.fence) is None
        for claim in (zombie, await put_waiting(store), await put_completed(store)):
            async with keyed(store, claim):
                with raises(FenceRefused, TransactionMisuse):
                    await store.transaction(orders.insert("zombie"), step=step_of("charge"))
            assert list(await store.steps(claim.name)) == []
        async with keyed(store, successor):
            await store.transaction(orders.insert("successor"), step=step_of("charge"))
        assert await orders.names(store) == ["successor"]
        assert len(await store.steps(zombie.name)) == 1

    async def test_a_step_needs_an_operation_of_this_database(self, harness: AsyncTransactionHarness) -> None:
        """A step is refused outside of an operation of this database, and after the outcome is committed."""
        store, orders = await opened(harness)
        with raises(TransactionMisuse):
            await store.transaction(orders.insert("a"), step=step_of("a"))
        claim = await put_running(store)
        async with keyed(object(), claim):
            with raises(TransactionMisuse):
                await store.transaction(orders.insert("a"), step=step_of("a"))
        async with keyed(store, claim):
            await store.transaction(orders.insert("outcome"))
            with raises(TransactionMisuse):
                await store.transaction(orders.insert("a"), step=step_of("a"))
        assert await orders.names(store) == ["outcome"]

    async def test_of_many_steps_each_stands_for_itself(self, harness: AsyncTransactionHarness) -> None:
        """Of concurrent steps of which some fail and some are refused, only those that are stored have rows."""
        store, orders = await opened(harness)
        claims = [await put_running(store) for _ in range(20)]
        for claim in claims[::4]:
            assert await store.record_step(claim.name, claim.fence, a_step("step"))

        def fail(db: Database) -> str:
            raise ValueError(orders.insert("no")(db))

        async def call(n: int) -> str:
            fn = fail if n % 4 == 1 else orders.insert(f"{n:02}")
            async with keyed(store, claims[n]):
                return await store.transaction(fn, step=step_of("step"))

        answers = await asyncio.gather(*(asyncio.create_task(call(n)) for n in range(20)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [FenceRefused, ValueError, str, str] * 5
        kept = [n for n in range(20) if n % 4 > 1]
        assert await orders.names(store) == [f"{n:02}" for n in kept]
        for n in kept:
            assert list(await store.steps(claims[n].name)) == [a_step("step", result=f"{n:02}".encode())]

    async def test_steps_of_one_operation_side_by_side(self, harness: AsyncTransactionHarness) -> None:
        """Concurrent steps of one operation are stored, each with its rows; of two of one name, only one is."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        names = ["a", "b", "c", "b"]
        async with keyed(store, claim):
            answers = await asyncio.gather(
                *(store.transaction(orders.insert(f"{n}{name}"), step=step_of(name)) for n, name in enumerate(names)),
                return_exceptions=True,
            )
        assert [answers[0], answers[2]] == ["0a", "2c"]
        assert sorted(type(answer).__name__ for answer in answers) == ["FenceRefused", "str", "str", "str"]
        assert {step.name for step in await store.steps(claim.name)} == {"a", "b", "c"}
        assert await orders.names(store) == sorted(answer for answer in answers if isinstance(answer, str))
