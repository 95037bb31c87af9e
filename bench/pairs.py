"""Claims and completions without gRPC: ``python -m bench.pairs SETUP`` makes them from many callers at once.

The role decides how. ``ours`` asks the store. ``pool`` executes the store's own two statements, each by itself and
committed by the server, on a pool with a connection for each caller.
"""

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import grpc_idempotency
import grpc_idempotency.aio
from bench.cases import CALLERS
from bench.processes import stay_on_cpus, take_orders_blocking
from bench.setup import Setup
from grpc_idempotency import Effects
from grpc_idempotency.records import Claim, Code, Fingerprint, Outcome
from grpc_idempotency.stores._postgres import rows
from grpc_idempotency.stores._postgres.sql import Sql

_TTL = timedelta(hours=24)
_SCHEMA = "idempotency"
_PLANS = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c plan_cache_mode=force_generic_plan"
"""The planner's settings: those of the store, and one plan for all executions.

Otherwise a statement for a single operation would be planned at each execution, which doubles what it costs.
"""
_POOL: dict[str, Any] = {"min_size": max(CALLERS), "open": False, "kwargs": {"autocommit": True, "options": _PLANS}}


class Counting:
    """The pairs of a burst: ``most`` of them, or for a time. Those that end within the measured time are counted."""

    def __init__(self, *, warm_up: float = 0, seconds: float = 0, most: int | None = None) -> None:
        self._left = most
        self._seconds = seconds
        self._from = time.perf_counter() + warm_up
        self._until = self._from + seconds
        self._calls = 0
        self._failed: Counter[str] = Counter()
        self._took: list[float] = []
        self._lock = threading.Lock()

    def more(self) -> bool:
        """Returns ``True`` if a caller shall make another pair."""
        if self._left is None:
            return time.perf_counter() < self._until
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def ended(self, began: float, *, claimed: bool, completed: bool) -> None:
        """Checks a pair, and counts it."""
        now = time.perf_counter()
        with self._lock:
            self._calls += 1
            if not (claimed and completed):
                self._failed["a refused completion" if claimed else "a refused claim"] += 1
            elif self._from <= now < self._until:
                self._took.append(now - began)

    def result(self) -> dict[str, Any]:
        """Returns the results, for JSON."""
        took = sorted(self._took)
        return {
            "calls": self._calls,
            "failed": dict(self._failed),
            "throughput": len(took) / (self._seconds or 1.0),
            "p50": took[len(took) // 2] if took else 0.0,
            "p99": took[len(took) * 99 // 100] if took else 0.0,
        }


def _claim() -> Claim:
    digest = os.urandom(32)
    return Claim(
        name=os.urandom(16),
        method="/bench.Echo/Say",
        fence=os.urandom(16),
        fingerprint=Fingerprint(raw=digest, canonical=digest),
        effects=Effects.OPAQUE,
        lease=timedelta(seconds=30),
    )


class AsyncPool:
    """The statements on a pool whose calls are awaited."""

    def __init__(self, url: str) -> None:
        self._sql = Sql(_SCHEMA)
        self._pool = AsyncConnectionPool(url, **_POOL)

    async def open(self) -> None:
        await self._pool.open(wait=True)

    async def claim(self, claim: Claim) -> object:
        """Returns ``None`` if the claim has won, as the store does."""
        return (await self._row("claim", rows.claim_columns(claim)))[1]

    async def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> object:
        """Returns the time of the completion, as the store does."""
        row = await self._row("complete", {"name": name, "fence": fence} | rows.outcome_columns(outcome, ttl))
        return row[-1] if row[1] is None else None

    async def _row(self, statement: str, columns: rows.Columns) -> rows.Row:
        async with self._pool.connection() as db:
            parameters = {name: [value] for name, value in columns.items()}
            cursor = await db.execute(self._sql[statement], parameters, binary=True)
            row: rows.Row | None = await cursor.fetchone()
        assert row is not None
        return row

    async def close(self) -> None:
        await self._pool.close()


class Pool:
    """The same on threads."""

    def __init__(self, url: str) -> None:
        self._sql = Sql(_SCHEMA)
        self._pool = ConnectionPool(url, **_POOL)

    def open(self) -> None:
        self._pool.open(wait=True)

    def claim(self, claim: Claim) -> object:
        return self._row("claim", rows.claim_columns(claim))[1]

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> object:
        row = self._row("complete", {"name": name, "fence": fence} | rows.outcome_columns(outcome, ttl))
        return row[-1] if row[1] is None else None

    def _row(self, statement: str, columns: rows.Columns) -> rows.Row:
        with self._pool.connection() as db:
            parameters = {name: [value] for name, value in columns.items()}
            row: rows.Row | None = db.execute(self._sql[statement], parameters, binary=True).fetchone()
        assert row is not None
        return row

    def close(self) -> None:
        self._pool.close()


class Pairs:
    """Carries out the orders of the process that measures."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._outcome = Outcome(status=Code.OK, message=b"r" * setup.reply_length)

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Makes ``count`` pairs, or measures for a time, or tells processor time and completed operations so far."""
        if order["do"] == "tell":
            return {"cpu": time.process_time(), "effects": self._completed()}
        if order["do"] == "make":
            counting = Counting(most=order["count"])
            self.play(counting, max(CALLERS))
            return counting.result()
        counting = Counting(warm_up=order["warm_up"], seconds=order["seconds"])
        self.play(counting, order["callers"])
        return counting.result()

    def play(self, counting: Counting, callers: int) -> None:
        """Makes pairs from all callers until there shall be no more."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes the connections."""
        raise NotImplementedError

    def _completed(self) -> int:
        with closing(psycopg.connect(self._setup.database, autocommit=True)) as db:
            row = db.execute("SELECT count(*) FROM idempotency.operations WHERE state = 1").fetchone()
        assert row is not None
        return int(row[0])


class AsyncPairs(Pairs):
    """Makes pairs with tasks, all in one event loop."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._loop = asyncio.new_event_loop()
        self._subject: Any = None
        self._loop.run_until_complete(self._open())

    async def _open(self) -> None:
        ours = self._setup.role == "ours"
        url = self._setup.url
        self._subject = grpc_idempotency.aio.store_from_url(url) if ours else AsyncPool(url)
        await self._subject.open()

    def play(self, counting: Counting, callers: int) -> None:
        async def played() -> None:
            await asyncio.gather(*(self._caller(counting) for _ in range(callers)))

        self._loop.run_until_complete(played())

    async def _caller(self, counting: Counting) -> None:
        while counting.more():
            began, claim = time.perf_counter(), _claim()
            claimed = await self._subject.claim(claim) is None
            completed = await self._subject.complete(claim.name, claim.fence, self._outcome, _TTL) is not None
            counting.ended(began, claimed=claimed, completed=completed)

    def close(self) -> None:
        self._loop.run_until_complete(self._subject.close())
        self._loop.close()


class SyncPairs(Pairs):
    """Makes pairs with threads."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._subject: Any = grpc_idempotency.store_from_url(setup.url) if setup.role == "ours" else Pool(setup.url)
        self._subject.open()

    def play(self, counting: Counting, callers: int) -> None:
        threads = [threading.Thread(target=self._caller, args=(counting,)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _caller(self, counting: Counting) -> None:
        while counting.more():
            began, claim = time.perf_counter(), _claim()
            claimed = self._subject.claim(claim) is None
            completed = self._subject.complete(claim.name, claim.fence, self._outcome, _TTL) is not None
            counting.ended(began, claimed=claimed, completed=completed)

    def close(self) -> None:
        self._subject.close()


def main(setup: Setup) -> None:
    """Carries out orders until the standard input ends."""
    with closing(grpc_idempotency.store_from_url(setup.url)) as store:
        store.open()  # which makes the tables
    pairs = AsyncPairs(setup) if setup.kind == "aio" else SyncPairs(setup)
    take_orders_blocking(pairs.answer)
    pairs.close()


if __name__ == "__main__":
    stay_on_cpus()
    main(Setup.of_argument(sys.argv[1]))
