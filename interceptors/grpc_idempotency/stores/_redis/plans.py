"""The plan of each request: it yields commands, gets their replies, and returns the value of the request."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from grpc_idempotency.operator_store import NOTES_KEPT
from grpc_idempotency.records import Note, Outcome, Record, Renewal, Step
from grpc_idempotency.stores._calls.requests import (
    ClaimRequest,
    CompleteRequest,
    FencedRequest,
    ForgetRequest,
    GetRequest,
    HoldRequest,
    NotesRequest,
    ReleaseLapsedRequest,
    ReleaseRequest,
    RenewRequest,
    Request,
    ResolveRequest,
    StepRequest,
    StepsRequest,
    UndoRequest,
    WaitRequest,
)
from grpc_idempotency.stores._redis import packing
from grpc_idempotency.stores._redis.commands import Commands, Plan
from grpc_idempotency.stores._redis.keys import Keys, tag_of
from grpc_idempotency.stores._redis.surveys import Surveys
from grpc_idempotency.stores._redis.watch import Watch

_YES = b"1"
_NOTES_KEPT = b"%d" % packing.milliseconds(NOTES_KEPT)
_KEPT_MS = 3_600_000
"""How long the server keeps a listed value after its expiry, so that a sweep finds it and its index entries."""


class Plans:
    """Makes the plans of all requests of one store.

    Args:
        keys: The names of the store's keys.
        watch: Receives the notifications of runs that end in other processes.
        list_completed: True if completed records have index entries.
        clock: Returns the time in milliseconds, for tests; ``None``: the server's clock decides.
    """

    def __init__(self, keys: Keys, watch: Watch, *, list_completed: bool, clock: Callable[[], int] | None) -> None:
        self._keys = keys
        self._commands = Commands(keys, clock)
        self._listed = _YES if list_completed else b""
        self._kept = _number(_KEPT_MS if list_completed else 0)
        self._surveys = Surveys(self._commands, keys, watch)

    def plan(self, request: Request[Any]) -> Plan[Any]:
        """Returns the plan of a request."""
        make = _PLANS.get(type(request))
        return self._surveys.plan(request) if make is None else make(self, request)

    # -- a record's changes

    def claim(self, asked: ClaimRequest) -> Plan[Record | None]:
        claim, tag, keys = asked.claim, tag_of(asked.claim.name), self._keys
        args = packing.draft(claim), asked.over or b"", _duration(claim.lease), packing.draft_request(claim)
        own = (keys.value, keys.request, keys.steps, keys.waiters)
        shared = *_indexes(keys, tag), keys.methods[tag]
        (reply,) = yield [self._commands.on(claim.name, "claim", own, shared, *args)]
        return None if reply is None else packing.record(claim.name, *reply)

    def complete(self, asked: CompleteRequest) -> Plan[datetime | None]:
        return (yield from self._complete(asked, asked.outcome, asked.ttl, ()))

    def resolve(self, asked: ResolveRequest) -> Plan[bool]:
        if asked.outcome is None:
            return (yield from self._forget(asked, asked.note, _YES))
        notes = self._keys.notes[tag_of(asked.name)] + asked.name
        args = packing.draft_note(asked.note), _NOTES_KEPT
        at = yield from self._complete(asked, asked.outcome, asked.ttl, (notes,), *args)
        return at is not None

    def forget(self, asked: ForgetRequest) -> Plan[bool]:
        return (yield from self._forget(asked, asked.note, b""))

    def release(self, asked: ReleaseRequest) -> Plan[bool]:
        return (yield from self._release(asked))

    def release_lapsed(self, asked: ReleaseLapsedRequest) -> Plan[bool]:
        return (yield from self._release(asked, _YES))

    def renew(self, asked: RenewRequest) -> Plan[Renewal]:
        renewed = yield from self._change(asked, "renew", [self._keys.due], _duration(asked.lease))
        return Renewal.RENEWED if renewed else Renewal.LOST

    def wait(self, asked: WaitRequest) -> Plan[bool]:
        args = map(_number, (packing.delay_ms(asked.delay), asked.failed_runs, asked.failed_undos))
        own = (self._keys.value, self._keys.steps, self._keys.waiters)
        return (yield from self._change(asked, "wait", [self._keys.open, self._keys.due], *args, own=own))

    def undo(self, asked: UndoRequest) -> Plan[bool]:
        return (yield from self._change(asked, "undo", [self._keys.open], packing.ending(asked.failure)))

    def hold(self, asked: HoldRequest) -> Plan[bool]:
        args = asked.reason.encode(), _YES if asked.lapsed_only else b""
        own = (self._keys.value, self._keys.request, self._keys.waiters)
        return (yield from self._change(asked, "hold", [self._keys.open, self._keys.due], *args, own=own))

    def record_step(self, asked: StepRequest) -> Plan[bool]:
        own = (self._keys.value, self._keys.steps)
        args = asked.step.name.encode(), packing.step_draft(asked.step)
        return (yield from self._change(asked, "record_step", [self._keys.due], *args, own=own))

    # -- one record's reads

    def get(self, asked: GetRequest) -> Plan[Record | None]:
        (reply,) = yield [self._commands.reading(asked.name)]
        return None if reply is None else packing.record(asked.name, *reply)

    def steps(self, asked: StepsRequest) -> Plan[Sequence[Step]]:
        (found,) = yield [self._commands.on(asked.name, "steps", (self._keys.value, self._keys.steps), ())]
        return packing.steps(found)

    def notes(self, asked: NotesRequest) -> Plan[Sequence[Note]]:
        (found,) = yield [self._commands.on(asked.name, "notes", (self._keys.notes,), (), _NOTES_KEPT)]
        return list(map(packing.note, found))

    # -- within

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
        command = self._commands.on(asked.name, script_name, own or (self._keys.value,), within, asked.fence, *args)
        (changed,) = yield [command]
        return bool(changed)

    def _release(self, asked: FencedRequest[bool], recovers: bytes = b"") -> Plan[bool]:
        keys = self._keys
        own = (keys.value, keys.request, keys.steps, keys.waiters)
        return (yield from self._change(asked, "release", [keys.open, keys.due], recovers, own=own))

    def _forget(self, asked: FencedRequest[bool], note: Note | None, held_only: bytes) -> Plan[bool]:
        keys = self._keys
        own = (keys.value, keys.request, keys.steps, keys.waiters, keys.notes)
        indexes = [keys.open, keys.due, keys.done, keys.expiry]
        args = held_only, packing.draft_note(note), _NOTES_KEPT
        return (yield from self._change(asked, "forget", indexes, *args, own=own))

    def _complete(
        self, asked: FencedRequest[Any], outcome: Outcome, ttl: timedelta, further: Sequence[bytes], *resolving: bytes
    ) -> Plan[datetime | None]:
        keys = self._keys
        own = (keys.value, keys.request, keys.steps, keys.waiters)
        shared = *_indexes(keys, tag_of(asked.name)), *further
        args = packing.ending(outcome), _duration(ttl), self._listed, self._kept, *resolving
        (at,) = yield [self._commands.on(asked.name, "complete", own, shared, asked.fence, *args)]
        return None if at is None else packing.instant(at)


def _indexes(keys: Keys, tag: int) -> Sequence[bytes]:
    return keys.open[tag], keys.due[tag], keys.done[tag], keys.expiry[tag]


def _number(value: int) -> bytes:
    return b"%d" % value


def _duration(value: Any) -> bytes:
    return _number(packing.milliseconds(value))


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
    HoldRequest: Plans.hold,
    ResolveRequest: Plans.resolve,
    ForgetRequest: Plans.forget,
    GetRequest: Plans.get,
    NotesRequest: Plans.notes,
}
