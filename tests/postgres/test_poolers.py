"""The store behind PgBouncer in transaction mode, where the machine has one, and behind what only acts like it."""

import asyncio
import logging
import urllib.parse
from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest

from grpc_idempotency.stores.postgres import AsyncPostgresStore
from grpc_idempotency.testing import (
    OUTCOME,
    TTL,
    AsyncStoreContract,
    AsyncStoreHarness,
    AsyncTransactionHarness,
    Orders,
    TransactionalStoreContract,
    a_claim,
)
from grpc_idempotency.testing.states import put_running

from ..harness import pgbouncer
from .conftest import CLOCK, Make, Place

needs_pgbouncer = pytest.mark.skipif(pgbouncer.PROGRAM is None, reason="PgBouncer is not installed")


@pytest.fixture(scope="module")
def pooler(server: str) -> Iterator[str]:
    with pgbouncer.pooler(server) as url:
        yield url


def in_database(url: str, name: str) -> str:
    return urllib.parse.urlsplit(url)._replace(path=f"/{name}").geturl()


class Pooled:
    """Stores behind the pooler. It takes no options at the start of a session, so tables are named in full."""

    placeholder = "%s"

    def __init__(self, place: Place, make: Callable[[], AsyncPostgresStore]) -> None:
        self._place = place
        self._make = make

    async def store(self) -> AsyncPostgresStore:
        return self._make()

    async def elapse(self, duration: timedelta) -> None:
        self._place.elapse(duration)


@pytest.fixture
def behind(place: Place, pooler: str, make: Make) -> Callable[[bool], AsyncPostgresStore]:
    clock = CLOCK.replace("clock", f"{place.schema}.clock")
    return lambda told: make(pooler, transaction_pooler=told, _clock=clock)


@needs_pgbouncer
@pytest.mark.slow
class TestStores(AsyncStoreContract):
    @pytest.fixture(params=[True, False], ids=["told", "not told"])
    def harness(
        self, request: pytest.FixtureRequest, place: Place, behind: Callable[[bool], AsyncPostgresStore]
    ) -> AsyncStoreHarness:
        return Pooled(place, lambda: behind(request.param))


@needs_pgbouncer
@pytest.mark.slow
class TestTransactions(TransactionalStoreContract):
    @pytest.fixture
    def harness(self, server: str, pooler: str, place: Place, make: Make) -> Iterator[AsyncTransactionHarness]:
        """In a database of its own: the pooler takes no search path, so the handlers' tables are in ``public``."""
        place.db.execute(f"CREATE DATABASE {place.schema}".encode())
        own = Place(in_database(server, place.schema))
        url, clock = in_database(pooler, place.schema), CLOCK.replace("clock", f"{own.schema}.clock")
        yield Pooled(own, lambda: make(url, schema=own.schema, transaction_pooler=True, _clock=clock))
        own.drop()

    async def test_a_function_that_awaits_is_refused(self, harness: AsyncTransactionHarness) -> None:
        """Not on this store: see ``test_contract.py``."""


@needs_pgbouncer
async def test_many_calls_share_few_connections(behind: Callable[[bool], AsyncPostgresStore], pooler: str) -> None:
    """A store finds out by itself that it is behind a pooler, and leaves nothing in sessions that others use."""
    for told in (True, False):
        store, other = behind(told), behind(told)
        for _ in range(12):  # a statement is prepared once it has been sent five times
            claims = [a_claim() for _ in range(20)]
            await asyncio.gather(*((store, other)[n % 2].claim(claim) for n, claim in enumerate(claims)))
            done = [(store, other)[n % 2].complete(one.name, one.fence, OUTCOME, TTL) for n, one in enumerate(claims)]
            assert all(await asyncio.gather(*done))
            assert len(await store.list(limit=7)) == 7
    for _ in range(10):
        with psycopg.connect(pooler) as db:
            assert db.execute("SHOW enable_seqscan").fetchone() == ("on",)


async def test_a_missing_statement_is_not_prepared_again(
    make: Make, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """When prepared statements have vanished, as behind a pooler, calls go on. The log says how to tell the store."""
    place.db.execute("CREATE TABLE orders (id text PRIMARY KEY)")
    store, orders = make(), Orders("%s")
    for _ in range(8):
        await put_running(store)
        await store.list(limit=1)
    assert store._engine is not None
    for db in (store._engine._writer._connections[True], *store._engine._reads._pool._pool):
        db.pgconn.exec_(b"DEALLOCATE ALL")  # psycopg would notice that, too
    with caplog.at_level(logging.WARNING):
        claim = await put_running(store)
        assert len(await store.list(limit=99)) == 9
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        assert await store.transaction(orders.insert("a")) == "a"
    assert "transaction_pooler=True" in caplog.text
