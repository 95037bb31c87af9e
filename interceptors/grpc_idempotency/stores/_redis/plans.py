"""The plan of each request: it yields commands, gets their replies, and returns the value of the request."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from grpc_idempotency.records import Effects, Record, Renewal, Standing, State, Step, Swept
from grpc_idempotency.stores._calls.requests import (
    ClaimRequest,
    CompleteRequest,
    FencedRequest,
    GetRequest,
    HoldRequest,
    ListRequest,
    PendingRequest,
    Place,
    ReleaseLapsedRequest,
    ReleaseRequest,
    RenewRequest,
    Request,
    ResolveRequest,
    StandingRequest,
    StepRequest,
    StepsRequest,
    SweepRequest,
    UndoRequest,
    WaitRequest,
)
from grpc_idempotency.stores._redis import packing
from grpc_idempotency.stores._redis.commands import Command, Plan
from grpc_idempotency.stores._redis.keys import TAGS, Keys, tag_of
from grpc_idempotency.stores._redis.scripts import NAMES, script
from grpc_idempotency.stores._redis.watch import WATCHED_MS, Watch

_YES = b"1"
_READ_AT_ONCE = 16
"""The most records that are read together: their messages may be large."""
_MOST_LAPSED = 1000
"""The most lapsed records of one tag that recovery looks at."""
_BEGINNING = (b"-inf", b"")
_WATCHED = b"%d" % WATCHED_MS
_KEPT_MS = 3_600_000
"""How long the server keeps a listed value after its expiry, so that a sweep finds it and its index entries."""


class Plans:
    """Makes the plans of all requests of one store.

    Args:
        keys: The names of the store's keys.
        watch: The store's ear for the ends of runs in other processes.
        list_completed: True if completed records have index entries.
        clock: Returns the time in milliseconds, for tests; ``None``: the server's clock decides.
    """

    def __init__(self, keys: Keys, watch: Watch, *, list_completed: bool, clock: Callable[[], int] | None) -> None:
        self._keys = keys
        self._watch = watch
        self._listed = _YES if list_completed else b""
        self._kept = _number(_KEPT_MS if list_completed else 0)
        self._clock = clock
        self._scripts = {name: script(name) for name in NAMES}

    def plan(self, request: Request[Any]) -> Plan[Any]:
        """Returns the plan of a request."""
        return _PLANS[type(request)](self, request)

    # -- a record's changes

    def claim(self, asked: ClaimRequest) -> Plan[Record | None]:
        claim, tag, keys = asked.claim, tag_of(asked.claim.name), self._keys
        args = packing.draft(claim), asked.over or b"", _duration(claim.lease), packing.draft_request(claim)
        own = (keys.value, keys.request, keys.steps, keys.waiters)
        (reply,) = yield [self._on(claim.name, "claim", own, _indexes(keys, tag), *args)]
        return None if reply is None else packing.record(claim.name, *reply)

    def complete(self, asked: CompleteRequest) -> Plan[datetime | None]:
        return (yield from self._complete(asked, packing.ending(asked.outcome), asked.ttl, b""))

    def resolve(self, asked: ResolveRequest) -> Plan[bool]:
        if asked.outcome is None:
            return (yield from self._release(asked, resolves=_YES))
        at = yield from self._complete(asked, packing.ending(asked.outcome), asked.ttl, _YES)
        return at is not None

    def release(self, asked: ReleaseRequest) -> Plan[bool]:
        return (yield from self._release(asked))

    def release_lapsed(self, asked: ReleaseLapsedRequest) -> Plan[bool]:
        return (yield from self._release(asked, recovers=_YES))

    def renew(self, asked: RenewRequest) -> Plan[Renewal]:
        renewed = yield from self._change(asked, "renew", [self._keys.due], _duration(asked.lease))
        return Renewal.RENEWED if renewed else Renewal.LOST

    def wait(self, asked: WaitRequest) -> Plan[bool]:
        args = map(_number, (packing.delay_ms(asked.delay), asked.failed_runs, asked.failed_undos))
        own = (self._keys.value, self._keys.steps, self._keys.waiters)
        return (yield from self._change(asked, "wait", [self._keys.due], *args, own=own))

    def undo(self, asked: UndoRequest) -> Plan[bool]:
        return (yield from self._change(asked, "undo", [], packing.ending(asked.failure)))

    def hold(self, asked: HoldRequest) -> Plan[bool]:
        args = asked.reason.encode(), _YES if asked.lapsed_only else b""
        own = (self._keys.value, self._keys.request, self._keys.waiters)
        return (yield from self._change(asked, "hold", [self._keys.due], *args, own=own))

    def record_step(self, asked: StepRequest) -> Plan[bool]:
        own = (self._keys.value, self._keys.steps)
        args = asked.step.name.encode(), packing.step_draft(asked.step)
        return (yield from self._change(asked, "record_step", [self._keys.due], *args, own=own))

    # -- one record's reads

    def get(self, asked: GetRequest) -> Plan[Record | None]:
        (reply,) = yield [self._reading(asked.name)]
        return None if reply is None else packing.record(asked.name, *reply)

    def steps(self, asked: StepsRequest) -> Plan[Sequence[Step]]:
        (found,) = yield [self._on(asked.name, "steps", (self._keys.value, self._keys.steps), ())]
        return packing.steps(found)

    # -- many records

    def standing(self, asked: StandingRequest) -> Plan[Mapping[bytes, Standing]]:
        """Reads the heads of the values. If calls wait, it first registers for notifications of changes."""
        watched = self._watch.to_register(asked.names)
        watching = [
            self._at(tag, "watch", [self._keys.waiters[tag] + name for name in names], self._watch.channel, _WATCHED)
            for tag, names in _by_tag(watched)
        ]
        groups = _by_tag(asked.names)
        reading = [self._at(tag, "standing", [self._keys.value[tag] + name for name in names]) for tag, names in groups]
        replies = yield [*watching, *reading]
        return {
            name: found
            for (_, names), (now, *heads) in zip(groups, replies[len(watching) :], strict=True)
            for name, head in zip(names, heads, strict=True)
            if (found := packing.standing(head, now)) is not None
        }

    def list(self, asked: ListRequest) -> Plan[tuple[Sequence[Record], Place | None]]:
        """Reads one part: it looks at the next names of all tags by age, and then at their records."""
        most = max(asked.limit, _READ_AT_ONCE)
        after = _BEGINNING if asked.after is None else (_number(packing.at_ms(asked.after[0])), asked.after[1])
        # An operation that is completed meanwhile moves from one index to the other, so "done" is read last.
        indexes = [self._keys.open] if asked.state is not State.COMPLETED else []
        if asked.state in (None, State.COMPLETED):
            indexes.append(self._keys.done)
        pages = yield [
            self._at(tag, "page", (index[tag],), *after, _number(most)) for index in indexes for tag in range(TAGS)
        ]
        places = sorted({(int(float(age)), name) for page in pages for name, age in _pairs(page)})
        found: list[Record] = []
        for part in _batches(places[:most], _READ_AT_ONCE):
            replies = yield [self._reading(name) for _, name in part]
            for (age, name), reply in zip(part, replies, strict=True):
                record = None if reply is None else packing.record(name, *reply)
                # An index may still have an entry of an earlier record of this name.
                if record is None or packing.at_ms(record.created_at) != age:
                    continue
                if asked.state in (None, record.state) and asked.method in (None, record.method):
                    found.append(record)
            if len(found) >= asked.limit:
                return found[: asked.limit], None
        if len(places) < most:
            return found, None
        age, name = places[most - 1]
        return found, (packing.instant(age), name)

    def pending(self, asked: PendingRequest) -> Plan[Sequence[Record]]:
        """Reads the lapsed records of all tags, chooses among them, and reads those again with their requests."""
        pages = yield [self._at(t, "reached", (self._keys.due[t],), _number(_MOST_LAPSED)) for t in range(TAGS)]
        names = [name for page in pages for name, _ in _pairs(page)]
        records = yield [self._reading(name) for name in names]
        lapsed = _pending(names, records, asked.methods)
        found: list[tuple[bytes, Any]] = []
        for part in _batches([record.name for record in lapsed[: asked.limit]], _READ_AT_ONCE):
            replies = yield [self._reading(name, requested=True) for name in part]
            found += zip(part, replies, strict=True)
        return _pending([name for name, _ in found], [reply for _, reply in found], asked.methods)

    def sweep(self, asked: SweepRequest) -> Plan[Swept]:
        """Deletes the records that expired first among all tags."""
        keys, most = self._keys, _number(asked.limit + 1)
        pages = yield [self._at(tag, "reached", (keys.expiry[tag],), most) for tag in range(TAGS)]
        expired = sorted((float(at), name) for page in pages for name, at in _pairs(page))
        own, indexes = (keys.value, keys.steps), (keys.done, keys.expiry)
        swept = yield [
            self._on(name, "sweep", own, [index[tag_of(name)] for index in indexes])
            for _, name in expired[: asked.limit]
        ]
        return Swept(deleted=sum(swept), more=len(expired) > asked.limit)

    # -- within

    def _now(self) -> bytes:
        return b"" if self._clock is None else _number(self._clock())

    def _at(self, tag: int, script_name: str, keys: Sequence[bytes], *args: bytes) -> Command:
        return Command(tag, self._scripts[script_name], keys, (self._now(), *args))

    def _on(
        self,
        name: bytes,
        script_name: str,
        own: Iterable[Sequence[bytes]],
        indexes: Sequence[bytes],
        *args: bytes,
    ) -> Command:
        """Returns a command on an operation: on keys of its own, and on indexes of its tag."""
        tag = tag_of(name)
        return self._at(tag, script_name, [*(kind[tag] + name for kind in own), *indexes], name, *args)

    def _reading(self, name: bytes, *, requested: bool = False) -> Command:
        own = (self._keys.value, self._keys.request) if requested else (self._keys.value,)
        return self._on(name, "read", own, ())

    def _change(
        self,
        asked: FencedRequest[Any],
        script_name: str,
        indexes: Sequence[Sequence[bytes]],
        *args: bytes,
        own: Sequence[Sequence[bytes]] = (),
    ) -> Plan[bool]:
        tag = tag_of(asked.name)
        within = [index[tag] for index in indexes]
        command = self._on(asked.name, script_name, own or (self._keys.value,), within, asked.fence, *args)
        (changed,) = yield [command]
        return bool(changed)

    def _release(self, asked: FencedRequest[bool], *, resolves: bytes = b"", recovers: bytes = b"") -> Plan[bool]:
        keys = self._keys
        own = (keys.value, keys.request, keys.steps, keys.waiters)
        return (yield from self._change(asked, "release", [keys.open, keys.due], resolves, recovers, own=own))

    def _complete(self, asked: FencedRequest[Any], ending: bytes, ttl: Any, resolves: bytes) -> Plan[datetime | None]:
        keys, tag = self._keys, tag_of(asked.name)
        own = (keys.value, keys.request, keys.steps, keys.waiters)
        args = asked.fence, ending, _duration(ttl), resolves, self._listed, self._kept
        (at,) = yield [self._on(asked.name, "complete", own, _indexes(keys, tag), *args)]
        return None if at is None else packing.instant(at)


def _indexes(keys: Keys, tag: int) -> Sequence[bytes]:
    return keys.open[tag], keys.due[tag], keys.done[tag], keys.expiry[tag]


def _by_tag(names: Iterable[bytes]) -> Sequence[tuple[int, Sequence[bytes]]]:
    """Returns the names by the number of their tag."""
    by_tag: dict[int, list[bytes]] = {}
    for name in names:
        by_tag.setdefault(tag_of(name), []).append(name)
    return [*by_tag.items()]


def _number(value: int) -> bytes:
    return b"%d" % value


def _duration(value: Any) -> bytes:
    return _number(packing.milliseconds(value))


def _pairs(flat: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _pending(names: Sequence[bytes], replies: Sequence[Any], methods: Sequence[str]) -> list[Record]:
    """Returns the lapsed records of these methods: those in doubt, those with a request, and those without effect."""
    found = ((packing.record(name, *reply), reply[0]) for name, reply in zip(names, replies, strict=True) if reply)
    lapsed = [(record, value) for record, value in found if record.lapsed and record.method in methods]
    return [record for record, _ in sorted(lapsed, key=lambda pair: _turn(*pair))]


def _turn(record: Record, value: bytes) -> tuple[Any, ...]:
    """Returns the key by which pending records are sorted; the oldest claims come first in each group."""
    in_doubt = record.effects is Effects.OPAQUE and record.state in (State.RUNNING, State.UNDOING)
    without_effect = record.effects is Effects.TRANSACTIONAL and not packing.has_request(value)
    return not in_doubt, without_effect, record.created_at, record.name


_PLANS: dict[type[Request[Any]], Callable[[Plans, Any], Plan[Any]]] = {
    ClaimRequest: Plans.claim,
    RenewRequest: Plans.renew,
    CompleteRequest: Plans.complete,
    ReleaseRequest: Plans.release,
    ReleaseLapsedRequest: Plans.release_lapsed,
    WaitRequest: Plans.wait,
    UndoRequest: Plans.undo,
    StepRequest: Plans.record_step,
    StepsRequest: Plans.steps,
    PendingRequest: Plans.pending,
    HoldRequest: Plans.hold,
    ResolveRequest: Plans.resolve,
    GetRequest: Plans.get,
    ListRequest: Plans.list,
    StandingRequest: Plans.standing,
    SweepRequest: Plans.sweep,
}
