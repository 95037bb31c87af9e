"""The plans of requests for many operations, which ask all hash tags."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from grpc_idempotency.records import Effects, Record, Standing, State, Swept
from grpc_idempotency.stores._calls.requests import (
    CountRequest,
    Counts,
    FindRequest,
    ListRequest,
    MethodsRequest,
    PendingRequest,
    Place,
    Request,
    StandingRequest,
    SweepRequest,
)
from grpc_idempotency.stores._redis import packing
from grpc_idempotency.stores._redis.commands import Command, Commands, Plan
from grpc_idempotency.stores._redis.keys import TAGS, Keys, tag_of
from grpc_idempotency.stores._redis.watch import WATCHED_MS, Watch

_YES = b"1"
_READ_AT_ONCE = 16
"""The most records that are read together: their messages may be large."""
_MOST_LAPSED = 1000
"""The most lapsed records of one tag that recovery looks at."""
_LOOKED_AT = 1000
"""The most places that a list of stuck operations, or a search by name, looks at in one index at a time."""
_WATCHED = b"%d" % WATCHED_MS
_BEGINNING = datetime.min.replace(tzinfo=timezone.utc)
_END = datetime.max.replace(tzinfo=timezone.utc)
_OPEN = (State.RUNNING, State.HELD, State.WAITING, State.UNDOING)


class Surveys:
    """Makes the plans of requests for many operations.

    Args:
        commands: Makes the store's commands.
        keys: The names of the store's keys.
        watch: Receives the notifications of runs that end in other processes.
    """

    def __init__(self, commands: Commands, keys: Keys, watch: Watch) -> None:
        self._commands = commands
        self._keys = keys
        self._watch = watch

    def plan(self, request: Request[Any]) -> Plan[Any]:
        """Returns the plan of a request."""
        return _PLANS[type(request)](self, request)

    def standing(self, asked: StandingRequest) -> Plan[Mapping[bytes, Standing]]:
        """Reads the heads of the values. If calls wait, it first registers for notifications of changes."""
        waiters, args = self._keys.waiters, (self._watch.channel, _WATCHED)
        watching = [
            self._commands.at(tag, "watch", [waiters[tag] + name for name in names], *args)
            for tag, names in _by_tag(self._watch.to_register(asked.names))
        ]
        return (yield from self._standings(asked.names, watching))

    def list(self, asked: ListRequest) -> Plan[tuple[Sequence[Record], Place | None]]:
        """Reads one part: it looks at the next places of all tags by age, and then at their records."""
        most = _LOOKED_AT if asked.stuck else max(asked.limit, _READ_AT_ONCE)
        states = [state for state in (_OPEN if asked.stuck else State) if asked.state in (None, state)]
        crc = b"" if asked.method is None else packing.method_crc(asked.method)
        within = *_between(asked), _number(most), _YES if asked.newest_first else b""
        kinds = (self._keys.open, self._keys.done, self._keys.expiry)
        pages = yield self._of_all_tags("places", kinds, packing.states(states), crc, *within)
        places = sorted({packing.position(place) for page in pages for place in page}, reverse=asked.newest_first)
        looked_at = list(map(packing.age_and_name, places[:most]))
        behind = looked_at[-1] if len(looked_at) == most else None
        chosen = (yield from self._stuck(looked_at)) if asked.stuck else looked_at
        found: list[Record] = []
        for part in _batches(chosen, _READ_AT_ONCE):
            replies = yield [self._commands.reading(name) for _, name in part]
            for (created_at, name), reply in zip(part, replies, strict=True):
                record = None if reply is None else packing.record(name, *reply)
                # An index may still have an entry of an earlier record of this name.
                if record is not None and record.created_at == created_at and _is_wanted(record, asked):
                    found.append(record)
            if len(found) >= asked.limit:
                return found[: asked.limit], None
        return found, behind

    def find(self, asked: FindRequest) -> Plan[Sequence[Record]]:
        """Reads records by their names. No index has this order, so it looks at all places of the tags in question."""
        names: Sequence[bytes] = [asked.least]
        if asked.least != asked.most:
            names = yield from self._names(asked.least, asked.most)
        found: list[Record] = []
        for part in _batches(names, _READ_AT_ONCE):
            replies = yield [self._commands.reading(name) for name in part]
            found += [packing.record(name, *reply) for name, reply in zip(part, replies, strict=True) if reply]
            if len(found) >= asked.limit:
                break
        return found[: asked.limit]

    def count(self, asked: CountRequest) -> Plan[tuple[Counts, None]]:
        """Counts the records of all tags."""
        keys, counts = self._keys, Counter[tuple[str, State]]()
        kinds = (keys.open, keys.done, keys.expiry, keys.methods)
        parts = yield self._of_all_tags("count", kinds, _YES if asked.completed else b"")
        for part in parts:
            for method, state, number in zip(part[::3], part[1::3], part[2::3], strict=True):
                counts[method.decode(), packing.state(state)] += number
        return +counts, None

    def methods(self, _: MethodsRequest) -> Plan[Collection[str]]:
        """Reads the methods of the records of all tags."""
        kinds = (self._keys.open, self._keys.done, self._keys.methods)
        parts = yield self._of_all_tags("methods", kinds)
        return {method.decode() for part in parts for method in part}

    def pending(self, asked: PendingRequest) -> Plan[Sequence[Record]]:
        """Reads the lapsed records of all tags, chooses among them, and reads those again with their requests."""
        pages = yield self._of_all_tags("reached", (self._keys.due,), _number(_MOST_LAPSED))
        names = [name for page in pages for name, _ in _pairs(page)]
        records = yield [self._commands.reading(name) for name in names]
        lapsed = _pending(names, records, asked.methods)
        found: list[tuple[bytes, Any]] = []
        for part in _batches([record.name for record in lapsed[: asked.limit]], _READ_AT_ONCE):
            replies = yield [self._commands.reading(name, requested=True) for name in part]
            found += zip(part, replies, strict=True)
        return _pending([name for name, _ in found], [reply for _, reply in found], asked.methods)

    def sweep(self, asked: SweepRequest) -> Plan[Swept]:
        """Deletes the records that expired first among all tags."""
        keys = self._keys
        pages = yield self._of_all_tags("reached", (keys.expiry,), _number(asked.limit + 1))
        expired = sorted((float(at), place) for page in pages for place, at in _pairs(page))
        swept = yield [self._sweeping(place) for _, place in expired[: asked.limit]]
        return Swept(deleted=sum(swept), more=len(expired) > asked.limit)

    # -- within

    def _of_all_tags(self, script_name: str, kinds: Sequence[Sequence[bytes]], *args: bytes) -> Sequence[Command]:
        """Returns a command for each tag, on the keys of these kinds."""
        return [self._commands.at(tag, script_name, [kind[tag] for kind in kinds], *args) for tag in range(TAGS)]

    def _sweeping(self, place: bytes) -> Command:
        _, name = packing.age_and_name(packing.position(place))
        own, tag = (self._keys.value, self._keys.steps), tag_of(name)
        return self._commands.on(name, "sweep", own, (self._keys.done[tag], self._keys.expiry[tag]), place)

    def _standings(self, names: Iterable[bytes], before: Sequence[Command] = ()) -> Plan[Mapping[bytes, Standing]]:
        """Reads the heads of values, after other commands."""
        groups, values = _by_tag(names), self._keys.value
        reading = [self._commands.at(tag, "standing", [values[tag] + name for name in own]) for tag, own in groups]
        replies = yield [*before, *reading]
        return {
            name: found
            for (_, own), (now, *heads) in zip(groups, replies[len(before) :], strict=True)
            for name, head in zip(own, heads, strict=True)
            if (found := packing.standing(head, now)) is not None
        }

    def _stuck(self, places: Sequence[Place]) -> Plan[Sequence[Place]]:
        """Returns those of the operations that are held or lapsed."""
        standings = yield from self._standings(name for _, name in places)
        return [place for place in places if (one := standings.get(place[1])) is not None and _is_stuck(one)]

    def _names(self, least: bytes, most: bytes) -> Plan[Sequence[bytes]]:
        """Returns the names between two, in their order, from the indexes of those tags that can have them."""
        tags = {tag_of(bytes([first])) for first in range(least[0], most[0] + 1)}
        left = {(tag, index[tag]): b"" for tag in tags for index in (self._keys.open, self._keys.done)}
        names: set[bytes] = set()
        while left:
            replies = yield [
                self._commands.at(tag, "names", (index,), after, least, most, _number(_LOOKED_AT))
                for (tag, index), after in left.items()
            ]
            for at, (after, *found) in zip([*left], replies, strict=True):
                names.update(found)
                left[at] = after
            left = {at: after for at, after in left.items() if after}
        return sorted(names)


def _between(asked: ListRequest) -> tuple[bytes, bytes]:
    """Returns the bounds of a list within each state and method. They are not included themselves."""
    low, high = packing.bound(asked.since or _BEGINNING), packing.bound(asked.until or _END)
    if asked.after is not None:
        after = packing.place_of(*asked.after)
        low, high = (low, min(high, after)) if asked.newest_first else (max(low, after), high)
    return low, high


def _is_stuck(one: Record | Standing) -> bool:
    return one.lapsed or one.state is State.HELD


def _is_wanted(record: Record, asked: ListRequest) -> bool:
    """False if the record has changed since its place was read, or has another method with the same CRC."""
    fits = asked.state in (None, record.state) and asked.method in (None, record.method)
    return fits and (not asked.stuck or _is_stuck(record))


def _by_tag(names: Iterable[bytes]) -> Sequence[tuple[int, Sequence[bytes]]]:
    """Returns the names by the number of their tag."""
    by_tag: dict[int, list[bytes]] = {}
    for name in names:
        by_tag.setdefault(tag_of(name), []).append(name)
    return [*by_tag.items()]


def _number(value: int) -> bytes:
    return b"%d" % value


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


_PLANS: dict[type[Request[Any]], Callable[[Surveys, Any], Plan[Any]]] = {
    PendingRequest: Surveys.pending,
    ListRequest: Surveys.list,
    FindRequest: Surveys.find,
    CountRequest: Surveys.count,
    MethodsRequest: Surveys.methods,
    StandingRequest: Surveys.standing,
    SweepRequest: Surveys.sweep,
}
