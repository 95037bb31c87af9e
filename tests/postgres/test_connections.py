"""Connections that are cut, refused or turned read-only: each call ends as it would have, or in a clear refusal."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Claim, Renewal, State
from grpc_idempotency.stores._postgres import pool as _pool
from grpc_idempotency.stores._postgres.sql import SERVER_CLOCK
from grpc_idempotency.stores.postgres import AsyncPostgresStore
from grpc_idempotency.testing import LEASE, OUTCOME, TTL, Orders, a_claim, a_step, keyed
from grpc_idempotency.testing.makers import FAILURE
from grpc_idempotency.testing.states import put_completed, put_held, put_running, record_of
from grpc_idempotency.transactions import Database

from ..harness.relay import Relay, relayed
from ..harness.waiting import ms, until
from .conftest import Make, MakeBlocking, Place

T = TypeVar("T")
ORDERS = Orders("%s")


@pytest.fixture
def relay(place: Place) -> Iterator[Relay]:
    """A relay to the server."""
    info = conninfo_to_dict(place.url)
    host, port = str(info["host"]), int(info["port"] or 5432)
    with relayed(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)) as relay:
        yield relay


@pytest.fixture
def relayed_url(place: Place, relay: Relay) -> str:
    """The test's database, through the relay."""
    return make_conninfo(place.url, host="127.0.0.1", port=relay.port)


@pytest.fixture
async def store(make: Make, place: Place, relayed_url: str) -> AsyncPostgresStore:
    """A store behind the relay, whose connections are open."""
    place.db.execute("CREATE TABLE orders (id text PRIMARY KEY)")
    store = make(relayed_url)
    await put_running(store)
    await store.list()
    await store.transaction(lambda _: None)
    return store


# One answer that is lost

Call = Callable[[AsyncPostgresStore, Claim], Awaitable[Any]]


@dataclass(frozen=True)
class Change:
    """A call that changes a record."""

    put: Callable[[AsyncPostgresStore], Awaitable[Claim]]
    """Makes the record for it."""
    call: Call
    after: State | None
    """The state of the record afterwards; ``None`` if it is gone."""


async def no_record(_: AsyncPostgresStore) -> Claim:
    return a_claim()


REPEATED = {
    "claim": Change(no_record, lambda store, one: store.claim(one), State.RUNNING),
    "renew": Change(put_running, lambda store, one: store.renew(one.name, one.fence, LEASE), State.RUNNING),
    "complete": Change(
        put_running, lambda store, one: store.complete(one.name, one.fence, OUTCOME, TTL), State.COMPLETED
    ),
    "undo": Change(put_running, lambda store, one: store.undo(one.name, one.fence, FAILURE), State.UNDOING),
}
"""Calls that the store makes again by itself: a second one finds the work of the first, and has succeeded."""
SENT_ONCE = {
    "release": Change(put_running, lambda store, one: store.release(one.name, one.fence), None),
    "hold": Change(put_running, lambda store, one: store.hold(one.name, one.fence, "in doubt"), State.HELD),
    "wait": Change(put_running, lambda store, one: store.wait(one.name, one.fence, LEASE, 1, 0), State.WAITING),
    "resolve": Change(put_held, lambda store, one: store.resolve(one.name, one.fence, OUTCOME, TTL), State.COMPLETED),
    "forget": Change(put_held, lambda store, one: store.resolve(one.name, one.fence, None, TTL), None),
    "step": Change(
        put_running, lambda store, one: store.record_step(one.name, one.fence, a_step("charge")), State.RUNNING
    ),
}
"""Calls that would be refused the second time, as if they had not been made."""


async def state_of(store: AsyncPostgresStore, claim: Claim) -> State | None:
    record = await store.get(claim.name)
    return None if record is None else record.state


@pytest.mark.parametrize("name", REPEATED)
async def test_a_call_whose_answer_is_lost_is_made_again(name: str, store: AsyncPostgresStore, relay: Relay) -> None:
    """It succeeds: a claim that meets its own fence has won, and an outcome that is there is stored (6.1)."""
    change = REPEATED[name]
    claim = await change.put(store)
    relay.loses_in = 1
    assert await change.call(store, claim) in (None, True, Renewal.RENEWED) or name == "complete"
    assert not relay.loses_in
    assert await state_of(store, claim) is change.after


@pytest.mark.parametrize("name", [*REPEATED, *SENT_ONCE])
async def test_a_call_that_gets_no_answer_may_have_landed(
    name: str, store: AsyncPostgresStore, make: Make, relay: Relay
) -> None:
    """It fails, and says that nobody knows. It has landed here; and the store works again once the server answers."""
    change = (REPEATED | SENT_ONCE)[name]
    claim = await change.put(store)
    relay.loses_answers = True
    with pytest.raises(StoreUnavailable) as lost:
        await change.call(store, claim)
    assert lost.value.landed is None
    relay.loses_answers = False
    assert await state_of(make(), claim) is change.after
    assert await state_of(store, claim) is change.after
    await put_completed(store)


@pytest.mark.parametrize("name", [*REPEATED, *SENT_ONCE])
async def test_a_connection_that_was_lost_while_idle_fails_no_call(
    name: str, store: AsyncPostgresStore, relay: Relay
) -> None:
    """The loss is noticed before anything is sent."""
    change = (REPEATED | SENT_ONCE)[name]
    claim = await change.put(store)
    relay.cut()
    await change.call(store, claim)
    assert await state_of(store, claim) is change.after


async def test_reads_are_made_again(store: AsyncPostgresStore, relay: Relay) -> None:
    """A read or a sweep whose answer is lost is made again."""
    claim = await put_running(store)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: store.get(claim.name),
        lambda: store.standing([claim.name]),
        lambda: store.steps(claim.name),
        lambda: store.list(),
        lambda: store.pending([claim.method]),
        store.sweep,
    ]
    for call in calls:
        expected = await call()
        relay.loses_in = 1
        assert await call() == expected
        assert not relay.loses_in


@pytest.mark.parametrize("commit", [1, 2])
async def test_a_transaction_that_loses_its_connection_at_the_end(
    commit: int, store: AsyncPostgresStore, relay: Relay
) -> None:
    """Before its commit: it fails, and nothing is kept. At its commit: the record's fence tells that it has landed."""
    claim = await put_running(store)
    async with keyed(store, claim) as operation:
        call = store.transaction(_then_losing(relay, commit))  # the first answer is that of the outcome's statement
        if commit == 2:
            assert await call == "a"
        else:
            with pytest.raises(StoreUnavailable) as lost:
                await call
            assert lost.value.landed is False
    record = await record_of(store, claim)
    assert record.completed_at == operation.completed_at
    assert (record.state, operation.committed is not None) == (
        (State.COMPLETED, True) if commit == 2 else (State.RUNNING, False)
    )
    assert await ORDERS.names(store) == ["a"] * (commit == 2)


async def test_a_step_that_loses_its_connection_at_its_commit_is_kept(store: AsyncPostgresStore, relay: Relay) -> None:
    """Rows and step are committed, and the steps tell that."""
    claim = await put_running(store)
    async with keyed(store, claim):
        assert await store.transaction(_then_losing(relay, 2), step=lambda _: a_step("charge")) == "a"
    assert [step.name for step in await store.steps(claim.name)] == ["charge"]
    assert await ORDERS.names(store) == ["a"]


async def test_a_transaction_without_an_operation_can_not_be_looked_up(store: AsyncPostgresStore, relay: Relay) -> None:
    """It fails, and says that nobody knows."""
    with pytest.raises(StoreUnavailable) as lost:
        await store.transaction(_then_losing(relay, 1))
    assert lost.value.landed is None
    assert await ORDERS.names(store) == ["a"]


def _then_losing(relay: Relay, answer: int) -> Callable[[Database], str]:
    """Inserts an order. Of the answers after that, this one is lost."""

    def fn(db: Database) -> str:
        name = ORDERS.insert("a")(db)
        relay.loses_in = answer
        return name

    return fn


# Under load


class Cutting:
    """Cuts all connections at each so many calls."""

    def __init__(self, relay: Relay, every: int) -> None:
        self._relay = relay
        self._every = every
        self._lock = threading.Lock()
        self.calls = 0
        self.failures = 0

    def until_answered(self, call: Callable[[], T]) -> T:
        """Makes a call again and again until it is answered."""
        while True:
            with self._lock:
                self.calls += 1
                cuts = self.calls % self._every == 0
            if cuts:
                self._relay.cut()
            try:
                return call()
            except StoreUnavailable:
                with self._lock:
                    self.failures += 1


def test_connections_are_cut_under_load(
    make: Make, make_blocking: MakeBlocking, place: Place, relay: Relay, relayed_url: str
) -> None:
    """What is acknowledged is there, once; what is asked for again until it is answered takes effect once."""
    store, cutting = make_blocking(relayed_url), Cutting(relay, every=5)

    def live(_: int) -> Claim:
        claim = a_claim()
        assert cutting.until_answered(lambda: store.claim(claim)) is None
        assert cutting.until_answered(lambda: store.renew(claim.name, claim.fence, LEASE)) is Renewal.RENEWED
        kept = cutting.until_answered(lambda: store.record_step(claim.name, claim.fence, a_step("charge")))
        if not kept:  # it was kept before, and only the answer was lost
            assert cutting.until_answered(lambda: store.steps(claim.name))
        assert cutting.until_answered(lambda: store.complete(claim.name, claim.fence, OUTCOME, TTL))
        return claim

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(live, range(100)))
    direct = make_blocking()
    for claim in claims:
        record = direct.get(claim.name)
        assert record is not None
        assert (record.state, record.fence, record.outcome) == (State.COMPLETED, claim.fence, OUTCOME)
        assert [step.name for step in direct.steps(claim.name)] == ["charge"]
    assert cutting.failures * 2 < cutting.calls, "most calls are answered, though every fifth one cuts all connections"


# A failover


async def test_a_server_that_became_read_only(make: Make, place: Place) -> None:
    """Writes are refused with nothing changed (25006), reads go on, and so do writes once they are possible again."""
    name = place.schema
    place.db.execute(f"CREATE DATABASE {name}".encode())
    try:
        store = make(make_conninfo(place.url, dbname=name), _clock=SERVER_CLOCK)
        await store.transaction(lambda db: db.execute("CREATE TABLE orders (id text PRIMARY KEY)", ()))
        claim = await put_running(store)
        place.db.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        place.db.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
        writes: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.claim(a_claim()),
            lambda: store.renew(claim.name, claim.fence, LEASE),
            lambda: store.complete(claim.name, claim.fence, OUTCOME, TTL),
            lambda: store.release(claim.name, claim.fence),
            lambda: store.transaction(ORDERS.insert("a")),
            store.sweep,
        ]
        for write in writes:
            with pytest.raises(StoreUnavailable) as refused:
                await write()
            assert refused.value.landed is False
        assert (await record_of(store, claim)).state is State.RUNNING
        place.db.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        for write in writes[:3]:
            await write()
        assert (await record_of(store, claim)).outcome == OUTCOME
        await store.transaction(ORDERS.insert("a"))
        assert await ORDERS.names(store) == ["a"]
        await store.sweep()
    finally:
        await store.close()
        place.db.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


# A server that has no connection left


@pytest.fixture
def role(place: Place) -> Iterator[str]:
    """A role that may have one connection."""
    name, info = place.schema, conninfo_to_dict(place.url)
    place.db.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' CONNECTION LIMIT 1".encode())
    place.db.execute(f"GRANT CREATE ON DATABASE {info['dbname']} TO {name}".encode())
    yield name
    place.db.execute(f"DROP OWNED BY {name}".encode())
    place.db.execute(f"DROP ROLE {name}".encode())


async def test_a_server_that_gives_no_further_connection(
    make: Make, place: Place, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads and transactions are refused, claims and renewals go on; all is well when there are connections again."""
    monkeypatch.setattr(_pool, "PATIENCE", 0.2)
    url = make_conninfo(place.url, user=role, password="x", options="")
    store = make(url, schema=f"{role}_2", _clock=SERVER_CLOCK)
    claim = await put_running(store)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: store.get(claim.name),
        store.sweep,
        lambda: store.transaction(lambda db: db.execute("SELECT 1").fetchall()),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable) as refused:
            await call()
        assert refused.value.landed is False
    assert await store.renew(claim.name, claim.fence, LEASE) is Renewal.RENEWED
    place.db.execute(f"ALTER ROLE {role} CONNECTION LIMIT 10".encode())
    for call in calls:
        await until(partial(_is_answered, call))  # a busy server may take longer than the pool's patience here
    await store.close()


async def _is_answered(call: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await call()
    except StoreUnavailable:
        return False
    return True


# A lock on the whole table


async def test_a_locked_table_delays_and_refuses(make: Make, place: Place) -> None:
    """While another session has locked the table, as a migration does, calls fail within ``lock_timeout``."""
    store = make(lock_timeout=ms(50))
    claim = await put_running(store)
    with psycopg.connect(place.url) as other:
        other.execute(f"LOCK TABLE {place.schema}.operations IN ACCESS EXCLUSIVE MODE".encode())
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.claim(a_claim()),
            lambda: store.renew(claim.name, claim.fence, LEASE),
            lambda: store.complete(claim.name, claim.fence, OUTCOME, TTL),
            lambda: store.get(claim.name),
        ]
        for refused in await asyncio.gather(*(call() for call in calls), return_exceptions=True):
            assert isinstance(refused, StoreUnavailable)
            assert refused.landed is False
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
