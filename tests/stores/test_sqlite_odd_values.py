"""What can't be stored is its own request's error, and nobody else's (5.5)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from grpc_idempotency.errors import StoreUnavailable, Unstorable
from grpc_idempotency.records import Claim, Note, Renewal, State, StoredRequest
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import LEASE, OUTCOME, TTL, a_claim, a_step, keyed

from .operations import together

SURROGATE: Any = "\ud800"
LONG: Any = 1 << 70
LIST: Any = [1]
OBJECT: Any = object()
Ask = Callable[[AsyncSQLiteStore, Claim], Awaitable[Any]]


def completing(ttl: Any = TTL, **fields: Any) -> Ask:
    return lambda store, own: store.complete(own.name, own.fence, replace(OUTCOME, **fields), ttl)


def claiming(**fields: Any) -> Ask:
    return lambda store, own: store.claim(replace(a_claim(), **fields))


def stepping(**fields: Any) -> Ask:
    return lambda store, own: store.record_step(own.name, own.fence, replace(a_step("a"), **fields))


def request(**fields: Any) -> StoredRequest:
    return replace(StoredRequest(principal=b"", metadata=(), messages=()), **fields)


ODD: dict[str, Ask] = {
    **{f"trailer {n}": completing(trailers=(("x", value),)) for n, value in enumerate((LIST, {}, None, 5, SURROGATE))},
    **{f"trailer's name {n}": completing(trailers=((x, "x"),)) for n, x in enumerate((SURROGATE, "x" * 70_000, None))},
    **{f"details {n}": completing(details=value) for n, value in enumerate((SURROGATE, LIST, LONG, None))},
    **{f"message {n}": completing(message=value) for n, value in enumerate((LIST, LONG, SURROGATE))},
    "status": completing(status=LONG),
    "ttl": completing(ttl=5),
    "claim's method": claiming(method=SURROGATE),
    "claim's name": claiming(name=LIST),
    "claim's metadata": claiming(request=request(metadata=(("x", 5),))),
    "claim's messages": claiming(request=request(messages=(5,))),
    "step's name": stepping(name=SURROGATE),
    "step's position": stepping(position=LONG),
    "step's result": stepping(result=LIST),
    "reason": lambda store, own: store.hold(own.name, own.fence, SURROGATE),
    "lease": lambda store, own: store.renew(own.name, own.fence, LONG),
    "failure's details": lambda store, own: store.undo(own.name, own.fence, replace(OUTCOME, details=SURROGATE)),
    "failure's trailers": lambda store, own: store.undo(own.name, own.fence, replace(OUTCOME, trailers=((LIST, "x"),))),
    "tries": lambda store, own: store.wait(own.name, own.fence, LEASE, LONG, 0),
    "released name": lambda store, own: store.release(LIST, own.fence),
    "released fence": lambda store, own: store.release(own.name, OBJECT),
    "name to get": lambda store, own: store.get(SURROGATE),
    "list to get": lambda store, own: store.get(LIST),
    "name's steps": lambda store, own: store.steps(LONG),
    "name of notes": lambda store, own: store.notes(LIST),
    "pending methods": lambda store, own: store.pending([SURROGATE]),
    "pending limit": lambda store, own: store.pending(["/m"], LONG),
}


@pytest.fixture
async def own(store: AsyncSQLiteStore) -> Claim:
    claim = a_claim()
    await store.claim(claim)
    return claim


@pytest.mark.parametrize("what", ODD)
async def test_it_fails_alone(store: AsyncSQLiteStore, own: Claim, what: str) -> None:
    """At once, with an error of the store's own; all that waited with it are answered, and nothing was written."""
    others = [a_claim() for _ in range(6)]
    await asyncio.gather(*map(store.claim, others[:5]))
    before = await store.get(own.name)
    answers = await together(
        store,
        lambda: store.claim(others[5]),
        lambda: store.complete(others[0].name, others[0].fence, OUTCOME, TTL),
        lambda: store.release(others[1].name, others[1].fence),
        lambda: store.record_step(others[2].name, others[2].fence, a_step("a")),
        lambda: ODD[what](store, own),
        lambda: store.renew(others[3].name, others[3].fence, LEASE),
        lambda: store.hold(others[4].name, others[4].fence, "why"),
        lambda: store.get(own.name),
        lambda: store.steps(own.name),
        lambda: store.transaction(lambda db: "done"),
    )
    odd, completed_at = answers.pop(4), answers.pop(1)
    assert isinstance(odd, Unstorable)
    assert completed_at is not None
    assert answers == [None, True, True, Renewal.RENEWED, True, before, [], "done"]
    assert await store.get(own.name) == before
    assert len(await store.list()) == 6


async def test_a_note_fails_with_its_change(store: AsyncSQLiteStore) -> None:
    """Neither is kept. What was held, resolved or forgotten before it, in the same group, is answered as such."""
    claims = [a_claim() for _ in range(6)]
    await asyncio.gather(*map(store.claim, claims))
    held = claims[:4]
    await asyncio.gather(*(store.hold(one.name, one.fence, "why") for one in held))
    good, odd = (Note(by="ann", action="x", reason=reason) for reason in ("a reason", SURROGATE))
    answers = await together(
        store,
        lambda: store.resolve(held[0].name, held[0].fence, OUTCOME, TTL, good),
        lambda: store.resolve(held[1].name, held[1].fence, OUTCOME, TTL, odd),
        lambda: store.forget(held[2].name, held[2].fence, good),
        lambda: store.forget(held[3].name, held[3].fence, odd),
        lambda: store.hold(claims[4].name, claims[4].fence, "why"),
        lambda: store.hold(claims[5].name, claims[5].fence, SURROGATE),
    )
    assert answers[::2] == [True, True, True]
    assert all(isinstance(one, Unstorable) for one in answers[1::2])
    states = [record and record.state for record in [await store.get(one.name) for one in claims]]
    assert states == [State.COMPLETED, State.HELD, None, State.HELD, State.HELD, State.RUNNING]
    assert [len(await store.notes(one.name)) for one in claims] == [1, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("field", [{"details": SURROGATE}, {"trailers": (("x", SURROGATE),)}, {"message": LIST}])
async def test_a_transactions_outcome_fails_alone(store: AsyncSQLiteStore, field: dict[str, Any]) -> None:
    """With its rows; the outcomes and rows of the others are kept."""
    await store.transaction(lambda db: db.execute("CREATE TABLE rows (n)"))
    claims = [a_claim() for _ in range(3)]
    await asyncio.gather(*map(store.claim, claims))

    def call(n: int) -> Callable[[], Awaitable[Any]]:
        async def pay() -> int:
            outcome = replace(OUTCOME, **field) if n == 1 else OUTCOME
            async with keyed(store, claims[n], lambda _: outcome):
                return await store.transaction(lambda db: db.execute("INSERT INTO rows VALUES (?)", (n,)).rowcount)

        return pay

    answers = await together(store, *map(call, range(3)))
    assert (answers[0], answers[2]) == (1, 1)
    assert isinstance(answers[1], Unstorable)
    assert await store.read(lambda db: db.execute("SELECT n FROM rows").fetchall()) == [(0,), (2,)]


async def test_what_looks_odd_and_can_be_stored(store: AsyncSQLiteStore, own: Claim) -> None:
    """A NUL, an empty text and a long life are no errors."""
    outcome = replace(OUTCOME, details="a\0b", trailers=(("x", "a\0b"), ("y-bin", b"\0"), ("z", "")))
    assert await store.complete(own.name, own.fence, outcome, timedelta(days=3650))
    record = await store.get(own.name)
    assert record is not None
    assert record.outcome == outcome


def test_trying_again_is_not_what_it_says() -> None:
    """It is refused as an unavailable store is, and certainly took no effect."""
    error = Unstorable("no")
    assert isinstance(error, StoreUnavailable)
    assert error.landed is False
