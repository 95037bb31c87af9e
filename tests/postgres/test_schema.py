"""Stores that must not create or migrate tables, and the SQL with which an operator does it (6.2)."""

import pytest

from grpc_idempotency.errors import PolicyError, StoreUnusable
from grpc_idempotency.testing import OUTCOME, TTL, a_claim

from .conftest import Make, Place


async def test_the_printed_sql_makes_the_tables(make: Make, place: Place) -> None:
    """Without it the store refuses to open, and says how to get it; to run it again changes nothing."""
    store = make(migrate=False)
    with pytest.raises(StoreUnusable, match=r"holds no operations.*migrate=False.*`grpc-idempotency schema`"):
        await store.open()
    place.db.execute(store.ddl().encode())
    claim = a_claim()
    assert await store.claim(claim) is None
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    assert store.identity
    place.db.execute(store.ddl(since=1).encode())
    other = make()
    await other.open()
    assert other.identity == store.identity


def test_a_version_that_there_is_not(make: Make) -> None:
    """It is told, rather than answered with nothing."""
    with pytest.raises(PolicyError, match="newest version"):
        make().ddl(since=99)
