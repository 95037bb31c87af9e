"""What stands on the server: keys, indexes and expiry, and the clock that decides."""

import struct
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import redis.crc

from grpc_idempotency.records import Code, Effects, Note, Outcome, State, Swept
from grpc_idempotency.stores._redis import keys, packing, surveys
from grpc_idempotency.testing import LEASE, OUTCOME, TICK, TTL, a_claim, a_request, a_step

from ..harness.waiting import until
from .conftest import HandClock, Make

HOUR_MS = 3_600_000
FAILURE = Outcome(status=Code.ABORTED, details="too late")


@pytest.fixture
def kept(client: Any, prefix: str) -> "Kept":
    return Kept(client, prefix)


class Kept:
    """The test's keys on the server."""

    def __init__(self, client: Any, prefix: str) -> None:
        self.client = client
        self._prefix = prefix

    def names(self) -> Iterator[bytes]:
        return iter(self.client.scan_iter(match=f"{self._prefix}:*", count=1000))

    def kinds(self) -> Counter[str]:
        """How many keys there are of each kind, but for the meta key and those with the names of methods."""
        kinds = (key.split(b":")[2].decode() for key in self.names())
        return Counter(kind for kind in kinds if kind not in ("meta", "methods"))

    def of(self, kind: str) -> bytes:
        """The only key of this kind."""
        (key,) = (key for key in self.names() if key.split(b":")[2] == kind.encode())
        return key


def test_hash_tags_are_spread_over_the_slots() -> None:
    """Each of the 64 tags has a slot in its own share of all slots, as the server computes it."""
    names = keys.Keys("any")
    slots = [redis.crc.key_slot(key) for key in names.open]
    assert slots == list(keys.SLOTS)
    assert [slot * 64 // 16_384 for slot in slots] == list(range(64))
    tagged = zip(names.value, names.request, names.steps, names.done, names.due, names.expiry, names.mark, strict=True)
    assert [{redis.crc.key_slot(key) for key in group} for group in tagged] == [{slot} for slot in slots]


async def test_an_operation_has_few_keys(make: Make, kept: Kept) -> None:
    """A record is one value, and has entries in indexes; request and steps have keys of their own while they exist."""
    store = make()
    claim = a_claim(request=a_request(b"body"))
    assert await store.claim(claim) is None
    assert await store.record_step(claim.name, claim.fence, a_step("charge"))
    assert kept.kinds() == {"o": 1, "r": 1, "s": 1, "open": 1, "due": 1}
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    assert kept.kinds() == {"o": 1, "s": 1, "done": 1, "expiry": 1}
    other = a_claim(effects=Effects.REPEATABLE)
    assert await store.claim(other) is None
    assert kept.kinds() == {"o": 2, "s": 1, "done": 1, "expiry": 1, "open": 1}
    assert await store.release(other.name, other.fence)
    assert kept.kinds() == {"o": 1, "s": 1, "done": 1, "expiry": 1}


async def test_only_completed_records_expire_on_the_server(make: Make, kept: Kept) -> None:
    """An open record has no expiry there, or an unknown outcome would be forgotten; a completed one is kept for an
    hour longer than its TTL, so that a sweep finds it.
    """
    store = make()
    claim = a_claim(request=a_request(b"body"))
    assert await store.claim(claim) is None
    assert await store.record_step(claim.name, claim.fence, a_step("charge"))
    assert {kept.client.pttl(key) for key in kept.names()} == {-1}
    assert await store.hold(claim.name, claim.fence, "in doubt")
    assert {kept.client.pttl(key) for key in kept.names()} == {-1}
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    for kind in ("o", "s"):
        assert HOUR_MS < kept.client.pttl(kept.of(kind)) <= HOUR_MS * 2
    for kind in ("done", "expiry"):
        assert kept.client.pttl(kept.of(kind)) == -1


async def test_completed_records_need_not_be_listed(make: Make, kept: Kept) -> None:
    """With ``list_completed=False`` they are in no index, and the server deletes them when they expire."""
    store = make(list_completed=False)
    claim = a_claim()
    assert await store.claim(claim) is None
    assert [record.name for record in await store.list()] == [claim.name]
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    assert kept.kinds() == {"o": 1}
    assert 0 < kept.client.pttl(kept.of("o")) <= HOUR_MS
    assert await store.list() == []
    record = await store.get(claim.name)
    assert record is not None
    assert record.outcome == OUTCOME
    short = a_claim()
    assert await store.claim(short) is None
    assert await store.complete(short.name, short.fence, OUTCOME, TICK)
    await until(lambda: _gone(kept, 1))
    assert await store.claim(a_claim(short.name)) is None


async def _gone(kept: Kept, left: int) -> bool:
    return kept.kinds()["o"] == left


async def test_what_the_server_has_deleted_leaves_the_indexes(make: Make, kept: Kept, clock: HandClock) -> None:
    """Where no sweep has come for long, the server has deleted a record: it is absent, and swept from the indexes."""
    store = make(_clock=clock)
    claim = a_claim()
    assert await store.claim(claim) is None
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    kept.client.delete(kept.of("o"))
    assert await store.list() == []
    assert await store.get(claim.name) is None
    clock.elapse(TTL)
    assert await store.sweep() == Swept(deleted=1, more=False)
    assert kept.kinds() == {}


async def test_a_sweep_spares_a_claim_in_place_of_a_deleted_record(make: Make, kept: Kept, clock: HandClock) -> None:
    """Index entries of the deleted record are dropped, and the new one is listed once."""
    store = make(_clock=clock)
    first = a_claim()
    assert await store.claim(first) is None
    assert await store.complete(first.name, first.fence, OUTCOME, TTL)
    kept.client.delete(kept.of("o"))
    clock.elapse(TTL)
    second = a_claim(first.name)
    assert await store.claim(second) is None
    assert [record.fence for record in await store.list()] == [second.fence]
    assert await store.list(state=State.COMPLETED) == []
    assert await store.sweep() == Swept(deleted=0, more=False)
    assert kept.kinds() == {"o": 1, "open": 1, "due": 1}
    record = await store.get(first.name)
    assert record is not None
    assert record.fence == second.fence


async def test_an_open_record_has_one_place(make: Make, kept: Kept, clock: HandClock) -> None:
    """Whatever becomes of it, the index of open records has one entry of it, and none once it is completed."""
    store, claim = make(_clock=clock), a_claim(effects=Effects.REPEATABLE, request=a_request(b"body"))

    def states() -> list[State]:
        return [packing.state(place[0]) for place in kept.client.zrange(kept.of("open"), 0, -1)]

    assert await store.claim(claim) is None
    assert states() == [State.RUNNING]
    assert await store.wait(claim.name, claim.fence, TICK, 1, 0)
    assert states() == [State.WAITING]
    clock.elapse(TICK)
    again = a_claim(claim.name, effects=Effects.REPEATABLE)
    assert await store.claim(again, over=claim.fence) is None
    assert states() == [State.RUNNING]
    assert await store.undo(claim.name, again.fence, FAILURE)
    assert states() == [State.UNDOING]
    assert await store.hold(claim.name, again.fence, "in doubt")
    assert states() == [State.HELD]
    assert await store.complete(claim.name, again.fence, OUTCOME, TTL)
    assert kept.kinds() == {"o": 1, "done": 1, "expiry": 1}


async def test_notes_are_kept_for_a_time(make: Make, kept: Kept) -> None:
    """The notes on an operation are one key, which outlives the record and expires 90 days after the last note."""
    store, claim = make(), a_claim()
    assert await store.claim(claim) is None
    assert await store.hold(claim.name, claim.fence, "in doubt")
    assert await store.resolve(claim.name, claim.fence, OUTCOME, TTL, Note(by="ann", action="completed", reason=""))
    kept.client.pexpire(kept.of("n"), 1_000_000)
    assert await store.forget(claim.name, claim.fence, Note(by="bob", action="forgotten", reason="a test"))
    assert kept.kinds() == {"n": 1}
    days = kept.client.pttl(kept.of("n")) / (24 * HOUR_MS)
    assert 89 < days <= 90
    assert [note.by for note in await store.notes(claim.name)] == ["ann", "bob"]


async def test_what_is_not_listed_is_found_by_its_whole_name(make: Make, kept: Kept) -> None:
    """With ``list_completed=False`` a completed operation is not counted, but can be read and forgotten."""
    store, claim = make(list_completed=False), a_claim()
    assert await store.claim(claim) is None
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    assert await store.count() == {}
    assert await store.find(claim.name.hex()[:-1]) == []
    assert [record.fence for record in await store.find(claim.name.hex())] == [claim.fence]
    assert await store.forget(claim.name, claim.fence)
    assert kept.kinds() == {}


async def test_names_are_searched_in_steps(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search looks at some names at a time, and misses none."""
    monkeypatch.setattr(surveys, "_LOOKED_AT", 3)
    store = make()
    names = [bytes([first, n]) * 8 for first in (0x12, 0x12 + 64, 0x13) for n in range(10)]
    for name in names:
        claim = a_claim(name)
        assert await store.claim(claim) is None
        if name[1] % 2:
            assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    assert [record.name for record in await store.find("12", limit=100)] == names[:10]
    assert [record.name for record in await store.find("1", limit=100)] == [*names[:10], *names[20:]]
    assert [record.name for record in await store.find("1205", limit=100)] == [names[5]]


async def test_stuck_operations_are_found_among_many(
    make: Make, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of stuck operations passes over all those whose leases hold."""
    monkeypatch.setattr(surveys, "_LOOKED_AT", 5)
    store = make(_clock=clock)
    claims = [a_claim(lease=TICK if n in (17, 31) else LEASE) for n in range(40)]
    for claim in claims:
        assert await store.claim(claim) is None
        clock.elapse(timedelta(milliseconds=1))
    clock.elapse(TICK)
    stuck = [claims[17].name, claims[31].name]
    assert [record.name for record in await store.list(stuck=True)] == stuck
    assert [record.name for record in await store.list(stuck=True, newest_first=True, limit=1)] == stuck[1:]


async def test_methods_with_equal_checksums_are_told_apart(make: Make) -> None:
    """Two methods can have the same CRC-32, which stands for them in the indexes; lists have only the one asked for."""
    store = make()
    claims = [a_claim(method=f"/a.B/{name}") for name in ("plumless", "buckeroo")]
    assert packing.method_crc(claims[0].method) == packing.method_crc(claims[1].method)
    for claim in claims:
        assert await store.claim(claim) is None
    for claim in claims:
        assert [record.name for record in await store.list(method=claim.method)] == [claim.name]


async def test_the_servers_clock_decides(make: Make, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases and expiry are measured by the server, whatever the clock of this host says (4.9)."""
    store = make()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    before = datetime.fromtimestamp(kept.client.time()[0], timezone.utc)
    claim = a_claim(lease=TICK)
    assert await store.claim(claim) is None

    async def lapsed() -> bool:
        record = await store.get(claim.name)
        assert record is not None
        assert timedelta(0) <= record.created_at - before < timedelta(minutes=1)
        return record.lapsed

    await until(lapsed)
    assert await store.complete(claim.name, claim.fence, OUTCOME, TICK)

    async def expired() -> bool:
        return await store.get(claim.name) is None

    await until(expired)


async def test_many_names_of_one_instant_are_paged(make: Make, clock: HandClock) -> None:
    """A page continues within an instant, in the order of the names' bytes."""
    store = make(_clock=clock)
    names = sorted(bytes([64 * n % 256, 255 - n, n]) * 5 + b"x" for n in range(100))
    for name in names:
        assert await store.claim(a_claim(name)) is None
    found: list[bytes] = []
    after = None
    while page := await store.list(after=after, limit=7):
        found += [record.name for record in page]
        after = page[-1]
    assert found == names


def test_a_value_has_the_layout_of_the_scripts() -> None:
    """The head has 77 bytes, of which the scripts write the lease at 19."""
    assert packing._HEAD.size == 77
    draft = packing._HEAD.pack(0, 0, 0, bytes(16), 1.5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"")
    assert draft[19:27] == struct.pack(">d", 1.5)
