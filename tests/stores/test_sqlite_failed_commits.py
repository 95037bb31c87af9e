"""Commits that failed (5.1, 6.2)."""

import sqlite3
from datetime import datetime
from typing import Any

import pytest

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Claim, State
from grpc_idempotency.stores._sqlite import group
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import LEASE, OUTCOME, TTL, a_claim, a_step, keyed, outcome_of


class TestFailedCommits:
    """A commit that failed: what took effect all the same is answered as such, the rest is not (5.1)."""

    @pytest.fixture
    async def failing(self, store: AsyncSQLiteStore, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """Makes commits fail: after they took effect for each True that is added, before for each False."""
        plan: list[bool] = []

        class Failing:
            """The connection, but for its COMMIT."""

            def __init__(self, db: sqlite3.Connection) -> None:
                self._db = db

            def __getattr__(self, name: str) -> Any:
                return getattr(self._db, name)

            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if sql == "COMMIT" and plan:
                    if plan.pop(0):
                        self._db.execute(sql)
                    raise sqlite3.OperationalError("disk I/O error")
                return self._db.execute(sql, *parameters)

        init = group.Group.__init__

        def wrapped(self: group.Group, db: Any, *rest: Any) -> None:
            init(self, Failing(db), *rest)  # type: ignore[arg-type]  # quacks like one

        monkeypatch.setattr(group.Group, "__init__", wrapped)
        return plan

    async def test_what_landed_is_answered(self, store: AsyncSQLiteStore, failing: list[bool]) -> None:
        """Claims, completions and holds whose records are there under their fences."""
        await store.claim(a_claim())  # the first of its method, which has a commit of its own
        claim = a_claim()
        failing.append(True)
        assert await store.claim(claim) is None
        failing.append(True)
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL) is not None
        other = a_claim()
        await store.claim(other)
        failing.append(True)
        assert await store.hold(other.name, other.fence, "reason") is True
        failing.append(True)
        assert await store.record_step(other.name, other.fence, a_step("a")) is True
        assert await store.record_step(other.name, other.fence, a_step("a")) is False
        another = a_claim()
        await store.claim(another)
        async with keyed(store, another):
            failing.append(True)
            assert await store.transaction(lambda db: 1, step=lambda one: a_step("b")) == 1
        assert list(await store.steps(another.name)) == [a_step("b")]
        failing.append(True)
        assert await store.undo(another.name, another.fence, OUTCOME) is True
        unclaimed = a_claim()
        failing.append(True)
        assert isinstance(await store.complete_unclaimed(unclaimed, OUTCOME, TTL), datetime)
        unclaimed = a_claim()
        failing.append(True)
        assert await keyed_reply(store, unclaimed) == "1"
        record = await store.get(unclaimed.name)
        assert record is not None
        assert (record.fence, record.outcome) == (unclaimed.fence, outcome_of("1"))
        failing.append(True)
        assert await store.wait(another.name, another.fence, LEASE, 1, 0) is True

    async def test_what_did_not_land_is_unavailable(self, store: AsyncSQLiteStore, failing: list[bool]) -> None:
        """And nothing of it is there."""
        claim, other = a_claim(), a_claim()
        failing.append(False)
        with pytest.raises(StoreUnavailable, match="disk reports an error"):
            await store.claim(claim)
        assert await store.get(claim.name) is None
        await store.claim(claim)
        for write in (
            lambda: store.complete(claim.name, claim.fence, OUTCOME, TTL),
            lambda: store.hold(claim.name, claim.fence, "reason"),
            lambda: store.renew(claim.name, claim.fence, LEASE),
            lambda: store.wait(claim.name, claim.fence, LEASE, 1, 0),
            lambda: store.undo(claim.name, claim.fence, OUTCOME),
            lambda: store.record_step(claim.name, claim.fence, a_step("a")),
            lambda: keyed_step(store, claim),
            lambda: store.release(claim.name, claim.fence),
            lambda: store.transaction(lambda db: db.execute("CREATE TABLE t (x)")),
        ):
            failing.append(False)
            with pytest.raises(StoreUnavailable):
                await write()
        record = await store.get(claim.name)
        assert record is not None
        assert record.state is State.RUNNING
        assert list(await store.steps(claim.name)) == []
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await store.transaction(lambda db: db.execute("SELECT * FROM t"))
        for unclaimed_write in (
            lambda: store.complete_unclaimed(other, OUTCOME, TTL),
            lambda: keyed_reply(store, other),
        ):
            failing.append(False)
            with pytest.raises(StoreUnavailable):
                await unclaimed_write()
            assert await store.get(other.name) is None


async def keyed_reply(store: AsyncSQLiteStore, claim: Claim) -> str:
    """What the transaction of an operation without a record answers."""
    async with keyed(store, claim, unclaimed=True):
        return await store.transaction(lambda db: "1")


async def keyed_step(store: AsyncSQLiteStore, claim: Claim) -> int:
    async with keyed(store, claim):
        return await store.transaction(lambda db: 1, step=lambda one: a_step("a"))
