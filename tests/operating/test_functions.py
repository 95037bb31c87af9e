"""What programs of operators ask and do, by functions (6.4)."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any

import pytest

from grpc_idempotency import Code, NotForgotten, NotHeld, OperationNotFound, Outcome, PolicyError, State
from grpc_idempotency.operating import completed, counts, forget, name_of, never_happened, operation, operations
from grpc_idempotency.operator_store import OperatorStore
from grpc_idempotency.principals import SHARED
from grpc_idempotency.records import Claim, Record
from grpc_idempotency.stores.memory import MemoryStore
from grpc_idempotency.testing import LEASE, METHOD, OUTCOME, TTL, a_claim

from ..harness.handlers import Counting
from ..harness.replies import new_key
from ..harness.servers import Servers

BEGIN = datetime(2030, 1, 1, tzinfo=timezone.utc)


class Clock:
    def __init__(self) -> None:
        self.time = BEGIN

    def now(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock=clock.now)


@pytest.fixture
def put(store: MemoryStore, clock: Clock) -> Callable[..., Claim]:
    """Claims an operation of a method a second after the one before."""
    numbers = count()

    def claim(method: str = METHOD, state: State = State.RUNNING) -> Claim:
        made = a_claim(next(numbers).to_bytes(16, "big"), method=method)
        assert store.claim(made) is None
        if state is State.COMPLETED:
            assert store.complete(made.name, made.fence, OUTCOME, TTL)
        elif state is State.HELD:
            assert store.hold(made.name, made.fence, "its server died")
        clock.time += timedelta(seconds=1)
        return made

    return claim


def read(store: OperatorStore, claim: Claim) -> Record:
    record = store.get(claim.name)
    assert record is not None
    return record


def test_operations_in_the_order_of_their_claims(store: MemoryStore, put: Callable[..., Claim]) -> None:
    """Of all methods, of one, or of those that match a glob; from either end, page by page."""
    methods = ["/a.A/One", "/a.A/Two", "/b.B/One"]
    claims = [put(methods[n % 3]) for n in range(240)]
    for glob, chosen in {
        None: claims,
        "/a.A/Two": claims[1::3],
        "/a.A/*": [one for one in claims if one.method.startswith("/a.A/")],
        "/*/One": [one for one in claims if one.method.endswith("/One")],
        "/c.C/*": [],
        "/a.A/T?o": claims[1::3],
    }.items():
        names = [one.name for one in chosen]
        assert [one.name for one in operations(store, method=glob)] == names
        assert [one.name for one in operations(store, method=glob, newest_first=True)] == names[::-1]
        for limit in (1, 50, 100, 101, 1000):
            assert [one.name for one in operations(store, method=glob, limit=limit)] == names[:limit]


@pytest.mark.parametrize("method", [None, "/a.A/*"])
def test_no_more_is_read_than_is_wanted(
    store: MemoryStore, put: Callable[..., Claim], monkeypatch: pytest.MonkeyPatch, method: str | None
) -> None:
    """A record comes with its response, so a list of a few operations reads few records (6.4)."""
    claims, read = [put("/a.A/One") for _ in range(60)], []
    ask = store.list

    def ask_for(**chosen: Any) -> Sequence[Record]:
        read.append(chosen["limit"])
        return ask(**chosen)

    monkeypatch.setattr(store, "list", ask_for)
    assert len(list(operations(store, method=method, limit=50))) == 50 < len(claims)
    assert read == [50]


@pytest.mark.parametrize("method", [None, "/a.A/*", "/a.A/One"])
def test_operations_that_are_chosen(store: MemoryStore, put: Callable[..., Claim], method: str | None) -> None:
    """By state, time, or because they are stuck; with a method or a glob, too."""
    held, done, running = (put("/a.A/One", state) for state in (State.HELD, State.COMPLETED, State.RUNNING))
    other = put("/b.B/Other", State.HELD)

    def names(**chosen: object) -> list[bytes]:
        return [one.name for one in operations(store, method=method, **chosen)]  # type: ignore[arg-type]

    assert names(state=State.HELD) == [held.name] + [other.name] * (method is None)
    assert names(state=State.COMPLETED) == [done.name]
    assert names(stuck=True) == [held.name] + [other.name] * (method is None)
    second, third = BEGIN + timedelta(seconds=1), BEGIN + timedelta(seconds=2)
    assert names(since=second, until=third) == [done.name]
    assert names(until=third, newest_first=True) == [done.name, held.name]
    assert running.name in names(since=third)


def test_an_operation_by_the_beginning_of_its_name(store: MemoryStore, put: Callable[..., Claim]) -> None:
    """One must have it, and no other."""
    claims = [put() for _ in range(17)]
    assert operation(store, claims[16].name.hex()[:31]).fence == claims[16].fence
    assert operation(store, claims[5].name.hex().upper()).fence == claims[5].fence
    for name in ("00", "f", "", "xyz", "0" * 33, "f" * 32):
        with pytest.raises(OperationNotFound):
            operation(store, name)


def test_counts(store: MemoryStore, put: Callable[..., Claim]) -> None:
    """By method and state, without zeros."""
    for state in (State.HELD, State.HELD, State.COMPLETED):
        put("/a.A/One", state)
    put("/a.A/Two")
    assert counts(store) == {
        ("/a.A/One", State.HELD): 2,
        ("/a.A/One", State.COMPLETED): 1,
        ("/a.A/Two", State.RUNNING): 1,
    }


def test_who_did_what_and_why(store: MemoryStore, put: Callable[..., Claim], clock: Clock) -> None:
    """Each change leaves a note with the time; one that is refused leaves none."""
    ended, never, gone = put(state=State.HELD), put(state=State.HELD), put()
    completed(store, read(store, ended), Outcome(status=Code.NOT_FOUND), by="ann@desk", reason="no such order")
    never_happened(store, read(store, never), by="bob", reason="not in the books")
    clock.time += LEASE
    forget(store, read(store, gone), by="eve", reason="a test")
    for claim, by, action, reason, at in (
        (ended, "ann@desk", "completed", "no such order", clock.time - LEASE),
        (never, "bob", "never happened", "not in the books", clock.time - LEASE),
        (gone, "eve", "forgotten", "a test", clock.time),
    ):
        (note,) = store.notes(claim.name)
        assert (note.by, note.action, note.reason, note.at) == (by, action, reason, at)
    running = put()
    with pytest.raises(NotForgotten):
        forget(store, read(store, running))
    with pytest.raises(NotHeld):
        never_happened(store, read(store, running))
    assert store.notes(running.name) == []


def test_what_was_claimed_again_is_not_forgotten(store: MemoryStore, put: Callable[..., Claim], clock: Clock) -> None:
    """Between the look and the decision somebody has taken it over, or forgotten it before."""
    claim = put()
    clock.time += LEASE
    seen = read(store, claim)
    assert store.claim(a_claim(claim.name), over=claim.fence) is None
    clock.time += LEASE
    with pytest.raises(NotForgotten, match="read it again"):
        forget(store, seen)
    now = read(store, claim)
    forget(store, now)
    with pytest.raises(NotForgotten):
        forget(store, now)


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("secret", [None, b"s" * 16])
async def test_the_name_of_a_servers_operation(serve: Servers, secret: bytes | None) -> None:
    """An operator who knows a call's key finds its operation (3.1)."""
    service = await serve({"Do": Counting()}, secret=secret)
    key = new_key()
    await service.call("Do", key=key)
    record = await service.the_record()
    assert record.name == name_of(SHARED, record.method, key, secret)


def test_the_name_of_a_call() -> None:
    """It is the name that a server computes: of principal, method and key, and with its secret (3.1)."""
    name = name_of(SHARED, METHOD, "k1")
    assert len(name) == 16
    assert name == name_of("shared", METHOD, '"k1"')
    others = [name_of("x", METHOD, "k1"), name_of(SHARED, "/a.B/C", "k1"), name_of(SHARED, METHOD, "k2")]
    assert len({name, *others, name_of(SHARED, METHOD, "k1", b"s" * 16)}) == 5
    for principal, key in ((SHARED, ""), (SHARED, "a\tb"), ("", "k1")):
        with pytest.raises(ValueError, match=r"is (not valid|empty)"):
            name_of(principal, METHOD, key)
    with pytest.raises(PolicyError):
        name_of(SHARED, METHOD, "k1", b"short")
