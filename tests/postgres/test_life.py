"""Opening and closing PostgreSQL stores: many processes at once, versions, settings, and what they leave behind."""

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading

import psycopg
import pytest

from grpc_idempotency import PolicyError
from grpc_idempotency.errors import StoreUnavailable, StoreUnusable
from grpc_idempotency.records import Effects, Record
from grpc_idempotency.stores._calls.requests import GetRequest
from grpc_idempotency.stores._postgres import registry
from grpc_idempotency.testing import OUTCOME, TTL, a_claim
from grpc_idempotency.testing.states import put_running

from .conftest import Make, MakeBlocking, Place

PROCESSES = 8


def program(text: str, *arguments: str) -> "subprocess.Popen[str]":
    """Runs a program that gets a URL and a schema."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(text), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


OPENING = """
    import sys
    from grpc_idempotency import PostgresStore
    store = PostgresStore(sys.argv[1], schema=sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    store.open()
    print(store.identity)
    store.close()
"""


@pytest.mark.slow
def test_many_processes_open_at_once(place: Place) -> None:
    """Eight processes create the tables at the same moment, and all of them find the same ones."""
    schema = f"{place.schema}_new"
    processes = [program(OPENING, place.url, schema) for _ in range(PROCESSES)]
    try:
        for one in processes:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in processes:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        ended = [one.communicate(timeout=60) for one in processes]
        assert [one.returncode for one in processes] == [0] * PROCESSES, ended
        assert len({out for out, _ in ended}) == 1
        assert len(ended[0][0].strip()) == 32
    finally:
        for one in processes:
            one.kill()
        place.db.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())


async def test_many_stores_open_at_once(make: Make) -> None:
    """Stores of one process, each with an engine of its own."""
    stores = [make(max_connections=n + 1) for n in range(PROCESSES)]
    await asyncio.gather(*(store.open() for store in stores))
    assert len({store.identity for store in stores}) == 1
    assert len(registry.engines.users) == PROCESSES


FORGETFUL = """
    import asyncio, os, sys
    from grpc_idempotency import PostgresStore, aio
    from grpc_idempotency.testing import a_claim

    async def forget():
        store = aio.PostgresStore(sys.argv[1], schema=sys.argv[2])
        assert await store.claim(a_claim()) is None
        async def fn(connection):
            await connection.execute("SELECT 1")
        await store.transaction(fn)
        await store.transaction(lambda db: db.execute("SELECT 1"))
        assert len(await store.list()) == 1

    store = PostgresStore(sys.argv[1], schema=sys.argv[2])
    store.transaction(lambda db: db.execute("SELECT 1"))
    asyncio.run(forget())
    print("done")
"""


@pytest.mark.slow
def test_a_process_that_forgets_to_close_ends(place: Place) -> None:
    """Threads and connections of stores that nobody closed do not keep it."""
    process = program(FORGETFUL, place.url, place.schema)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("done\n", 0)


FORKING = """
    import os, sys, warnings
    from grpc_idempotency import PostgresStore
    from grpc_idempotency.testing import a_claim, OUTCOME, TTL
    store = PostgresStore(sys.argv[1], schema=sys.argv[2])
    claim, other = a_claim(), a_claim()
    assert store.claim(claim) is None
    warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of a fork of a process with threads
    pid = os.fork()
    if pid == 0:
        assert store.claim(other) is None
        store.close()
        os._exit(7)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert store.complete(claim.name, claim.fence, OUTCOME, TTL)
    assert store.get(other.name)
    store.close()
    print("done")
"""


@pytest.mark.slow
def test_a_forked_child_has_connections_of_its_own(place: Place) -> None:
    """Those of its parent are not used by the child, and go on."""
    process = program(FORKING, place.url, place.schema)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("done\n", 0), err


WITHOUT = """
    import sys
    sys.modules[sys.argv[1]] = None
    import grpc_idempotency.aio
    try:
        grpc_idempotency.aio.PostgresStore
    except ImportError as error:
        print(error)
"""


@pytest.mark.parametrize("package", ["psycopg", "psycopg_pool"])
def test_a_missing_driver_is_told_with_its_extra(package: str) -> None:
    """Only the use of the store needs it."""
    out, _ = program(WITHOUT, package).communicate(timeout=60)
    assert "pip install 'grpc-idempotency[postgres]'" in out


# -- settings


async def test_stores_with_equal_settings_share_an_engine(make: Make, make_blocking: MakeBlocking) -> None:
    """For asyncio and for threads; others have one of their own."""
    one, other, different = make(), make_blocking(), make(max_connections=3)
    await one.open()
    await asyncio.to_thread(other.open)
    await different.open()
    assert one._engine is other._engine is not different._engine
    assert len(registry.engines.users) == 2
    await asyncio.to_thread(other.close)
    assert await one.claim(a_claim()) is None


async def test_newer_tables_are_refused(make: Make, place: Place) -> None:
    """A version that this library does not know is left alone."""
    store = make()
    await store.open()
    await store.close()
    place.db.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
    with pytest.raises(StoreUnusable, match="upgrade grpc-idempotency"):
        await store.open()


async def test_a_role_without_rights_is_told_what_it_lacks(make: Make, place: Place) -> None:
    """A role that may only use the tables can serve; one that may not is told so."""
    await make().open()
    role = f"{place.schema}_role"
    place.db.execute(f"CREATE ROLE {role} LOGIN".encode())
    try:
        url = place.url.replace("postgres@", f"{role}@")
        with pytest.raises(StoreUnusable, match="permission denied"):
            await make(url).open()
        for grant in (
            f"GRANT USAGE ON SCHEMA {place.schema} TO {role}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {place.schema} TO {role}",
        ):
            place.db.execute(grant.encode())
        store = make(url, migrate=False)
        claim = await put_running(store)
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        assert (await store.sweep()).deleted == 0
        await store.close()
    finally:
        place.db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.mark.parametrize("url", ["postgresql://postgres@127.0.0.1:1/postgres", "postgresql://nobody.invalid/x"])
async def test_a_server_that_is_not_there_is_unavailable(make: Make, url: str) -> None:
    """Nothing has landed then, and a later call tries again."""
    store = make(url)
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as refused:
            await store.claim(a_claim())
        assert refused.value.landed is False


def test_wrong_settings_are_refused(make_blocking: MakeBlocking, caplog: pytest.LogCaptureFixture) -> None:
    """At once, by name, and without the password."""
    for wrong in ({"schema": "a b"}, {"schema": "pg_x"}, {"max_connections": 0}, {"migrate": 1}, {"lock_timeout": 5}):
        with pytest.raises(PolicyError):
            make_blocking(**wrong)
    for url in ("postgresql://me:secret@host:port/x?nonsense=1", "nonsense"):
        with pytest.raises(PolicyError) as refused:
            make_blocking(url)
        assert "secret" not in str(refused.value) + repr(refused.value.__cause__) + repr(refused.value.__context__)


async def test_an_asynchronous_commit_is_set_right(make: Make, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Where the server would acknowledge outcomes that it can lose, the store's own sessions do not."""
    with caplog.at_level(logging.WARNING):
        store = make(place.url.replace("options=", "options=-c%20synchronous_commit%3Doff%20"))
        await store.open()
    assert "synchronous_commit" in caplog.text
    shown = await store.transaction(lambda db: db.execute("SHOW synchronous_commit").fetchone())
    assert shown == ("on",)
    assert store._engine is not None
    writer = store._engine._writer._connections[True]
    assert writer.execute("SHOW synchronous_commit").fetchone() == ("on",)


async def test_only_claims_of_transactional_operations_need_no_disk(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All other writes are on the disk before they are acknowledged (5.1)."""
    store = make()
    await store.open()
    assert store._engine is not None
    group = store._engine._writer._group
    really, used = group._connect, list[str]()

    def connect(durable: bool) -> psycopg.Connection[tuple[str, ...]]:
        db = really(durable)
        used.extend(db.execute("SHOW synchronous_commit").fetchone() or ())
        return db

    monkeypatch.setattr(group, "_connect", connect)
    for effects in Effects:
        claim = a_claim(effects=effects)
        assert await store.claim(claim) is None
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        expected = "off" if effects is Effects.TRANSACTIONAL else "on"
        assert used == [expected, "on"], effects
        used.clear()


# -- sweeps


async def test_one_sweep_at_a_time(make: Make, place: Place) -> None:
    """While another process sweeps, a sweep does nothing; what others have locked is left for the next one."""
    store = make()
    claims = [await put_running(store) for _ in range(3)]
    for claim in claims:
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    place.elapse(TTL)
    with psycopg.connect(place.url) as other:
        other.execute("SELECT 1 FROM meta WHERE key = 'sweeper' FOR UPDATE")
        assert (await store.sweep()).deleted == 0
    with psycopg.connect(place.url) as other:
        other.execute("SELECT 1 FROM operations WHERE name = %s FOR UPDATE", (claims[0].name,))
        swept = await store.sweep()
        assert (swept.deleted, swept.more) == (2, False)
    assert (await store.sweep()).deleted == 1


def test_threads_that_close_while_others_work(make_blocking: MakeBlocking) -> None:
    """A store that is closed in the midst of calls answers each of them, or refuses it with nothing landed."""
    store = make_blocking()
    store.open()
    answers: list[object] = []

    def work() -> None:
        for _ in range(20):
            try:
                answers.append(store.claim(a_claim()))
            except StoreUnavailable as error:
                answers.append(error.landed)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    store.close()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 80
    assert set(answers) <= {None, False}


async def test_reads_that_meet_the_end_of_the_store(make: Make) -> None:
    """They are answered, or refused; none is left without an answer."""
    for _ in range(5):
        store = make()
        claim = await put_running(store)
        engine = store._engine
        assert engine is not None
        calls = [asyncio.ensure_future(store.get(claim.name)) for _ in range(20)]
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0)
        late = GetRequest(claim.name)
        late.loop, late.waiter, late.tables = (
            asyncio.get_running_loop(),
            asyncio.get_running_loop().create_future(),
            None,
        )
        engine._reads.submit(late)  # as if it had looked before the end, and came after it
        answers = await asyncio.gather(*calls, late.waiter, return_exceptions=True)
        await closing
        assert [one for one in answers if not isinstance(one, Record | StoreUnavailable)] == []
