"""Operators' calls on PostgreSQL: rights, locks, notes in their table, and methods with equal checksums."""

from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
import pytest

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.operator_store import NOTES_KEPT
from grpc_idempotency.records import Note, State
from grpc_idempotency.stores._postgres import rows
from grpc_idempotency.testing import OUTCOME, TICK, TTL, a_claim

from .conftest import Make, Place

NOTE = Note(by="ann@desk", action="forgotten", reason="a test")


async def test_a_role_that_only_reads_can_look(make: Make, place: Place) -> None:
    """With ``USAGE`` and ``SELECT`` one can list, find, count and read notes, and can't change anything."""
    store, claim = make(), a_claim()
    assert await store.claim(claim) is None
    role = f"support_{place.schema}"
    place.db.execute(f"CREATE ROLE {role} LOGIN".encode())
    try:
        place.db.execute(f"GRANT USAGE ON SCHEMA {place.schema} TO {role}".encode())
        place.db.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {place.schema} TO {role}".encode())
        parts = urlsplit(place.url)
        looking = make(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}").geturl(), migrate=False)
        assert [one.name for one in await looking.list(stuck=False)] == [claim.name]
        assert [one.name for one in await looking.find(claim.name.hex()[:9])] == [claim.name]
        assert await looking.count() == {(claim.method, State.RUNNING): 1}
        assert await looking.notes(claim.name) == []
        with pytest.raises(StoreUnavailable):
            await looking.forget(claim.name, claim.fence, NOTE)
        await looking.close()
    finally:
        place.db.execute(f"DROP OWNED BY {role}".encode())
        place.db.execute(f"DROP ROLE {role}".encode())


async def test_an_operator_waits_for_a_lock_only_so_long(make: Make, place: Place) -> None:
    """While a transaction has the record, it is neither forgotten nor is there a note; afterwards it is."""
    store, claim = make(lock_timeout=timedelta(milliseconds=50)), a_claim()
    assert await store.claim(claim) is None
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    with psycopg.connect(place.url) as other:
        other.execute("SELECT 1 FROM operations WHERE name = %s FOR UPDATE", (claim.name,))
        with pytest.raises(StoreUnavailable):
            await store.forget(claim.name, claim.fence, NOTE)
        other.rollback()
    assert await store.notes(claim.name) == []
    assert await store.forget(claim.name, claim.fence, NOTE)
    assert [note.by for note in await store.notes(claim.name)] == [NOTE.by]


async def test_old_notes_are_swept(make: Make, place: Place) -> None:
    """A sweep deletes notes that are too old to be read, and no others."""
    store, claims = make(), [a_claim(), a_claim()]
    for claim in claims:
        assert await store.claim(claim) is None
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
        assert await store.forget(claim.name, claim.fence, NOTE)
        place.elapse(TICK)
    place.elapse(NOTES_KEPT - TICK - TICK)
    assert (await store.sweep()).deleted == 0
    assert place.db.execute("SELECT count(*) FROM notes").fetchone() == (1,)
    assert [len(await store.notes(claim.name)) for claim in claims] == [0, 1]


async def test_methods_with_equal_checksums_are_told_apart(make: Make) -> None:
    """Two methods can have the same CRC-32, which stands for them in the indexes; lists have only the one asked for."""
    store = make()
    claims = [a_claim(method=f"/a.B/{name}") for name in ("plumless", "buckeroo")]
    assert rows.method_crc(claims[0].method) == rows.method_crc(claims[1].method)
    for claim in claims:
        assert await store.claim(claim) is None
    for claim in claims:
        for state in (None, State.RUNNING):
            assert [record.name for record in await store.list(method=claim.method, state=state)] == [claim.name]
    assert await store.count() == {(claim.method, State.RUNNING): 1 for claim in claims}
