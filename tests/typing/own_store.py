"""A store of an embedder's own, and its tests, as type checkers see them."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import pytest
from typing_extensions import assert_type

import grpc_idempotency
from grpc_idempotency import Outcome, Record, State, aio
from grpc_idempotency.operator_store import AsyncOperatorStore, OperatorStore
from grpc_idempotency.records import Claim, Renewal, Standing, Step, Swept
from grpc_idempotency.store import AsyncStore, Store
from grpc_idempotency.stores import memory, postgres, redis, sqlite
from grpc_idempotency.stores.memory import AsyncMemoryStore, MemoryStore
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore, SQLiteStore
from grpc_idempotency.testing import AsyncStoreContract, in_threads
from grpc_idempotency.transactions import (
    AsyncOneCommitStore,
    AsyncTransactionalStore,
    RunningOperation,
    running_operation,
)
from grpc_idempotency.urls import AsyncStoreFactory, StoreFactory


class RedisStore:
    """It inherits nothing: what makes it a store is its methods."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None: ...

    async def renew(self, name: bytes, fence: bytes, lease: timedelta) -> Renewal:
        return Renewal.LOST

    async def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        return None

    async def release(self, name: bytes, fence: bytes, *, lapsed_only: bool = False) -> bool:
        return False

    async def wait(self, name: bytes, fence: bytes, delay: timedelta, failed_runs: int, failed_undos: int) -> bool:
        return False

    async def undo(self, name: bytes, fence: bytes, failure: Outcome) -> bool:
        return False

    async def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        return False

    async def steps(self, name: bytes) -> list[Step]:
        return []

    async def pending(self, methods: Collection[str], limit: int = 100) -> list[Record]:
        return []

    async def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        return False

    async def resolve(self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta) -> bool:
        return False

    async def get(self, name: bytes) -> Record | None: ...

    async def standing(self, names: Collection[bytes]) -> dict[bytes, Standing]:
        return {}

    async def list(
        self, *, state: State | None = None, method: str | None = None, after: Record | None = None, limit: int = 100
    ) -> Sequence[Record]:
        return []

    async def sweep(self, limit: int = 500) -> Swept:
        return Swept(deleted=0, more=False)


class Harness:
    async def store(self) -> AsyncStore:
        return RedisStore()

    async def elapse(self, duration: timedelta) -> None:
        del duration


class TestRedisStore(AsyncStoreContract):
    @pytest.fixture
    def harness(self) -> Harness:
        return Harness()


async def use(store: AsyncTransactionalStore) -> None:
    """A store serves an interceptor, and asks for the operation that runs."""
    aio.IdempotencyInterceptor(RedisStore())
    aio.IdempotencyInterceptor(store)
    assert_type(running_operation(), RunningOperation | None)
    assert_type(await store.transaction(lambda db: db.execute("SELECT 1").rowcount), int)


def ours(path: str) -> tuple[list[AsyncOperatorStore], list[OperatorStore], list[AsyncStore], AsyncOneCommitStore]:
    """The library's own stores are of the kinds that they say."""
    awaited: list[AsyncOperatorStore] = [AsyncMemoryStore(), AsyncSQLiteStore(path), in_threads(MemoryStore())]
    awaited.append(redis.AsyncRedisStore(["redis://a", "redis://b"], replicas=1, replica_timeout=timedelta(seconds=1)))
    awaited.append(postgres.AsyncPostgresStore("postgresql://a/shop", max_connections=4))
    blocking: list[OperatorStore] = [MemoryStore(), SQLiteStore(path)]
    blocking += [redis.RedisStore("redis://a", list_completed=False), postgres.PostgresStore("postgresql://a/shop")]
    return awaited, blocking, [in_threads(SQLiteStore(path))], AsyncSQLiteStore(path)


def factories() -> tuple[list[StoreFactory], list[AsyncStoreFactory]]:
    """What registers a URL's scheme has a type, and a store of a URL is one of its kind."""
    assert_type(grpc_idempotency.store_from_url("memory:"), Store)
    assert_type(aio.store_from_url("sqlite:///x.db", migrate=False, read_only=True), AsyncStore)
    return [memory.from_url, postgres.from_url, redis.from_url, sqlite.from_url], [
        memory.async_from_url,
        postgres.async_from_url,
        redis.async_from_url,
        sqlite.async_from_url,
    ]
