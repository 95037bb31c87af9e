"""Every rule of the protocol: from a keyed call to its one outcome. Each transition lives here and nowhere else.

No I/O, no gRPC, no clock, no threads. A rule that needs the world yields an :class:`Effect` and gets its reply; who
performs it, awaiting or blocking, is the shells' affair (``_drive.py``). These plans make up the life of an operation:

* :func:`answer` runs in each call: it joins the *flight* of its operation in this process, or founds one, and turns
  what the flight landed with into this call's answer.
* :func:`operate` is the flight: it claims the operation, lets the handler run, and settles the record. It outlives the
  call that founded it (4.4). A process has at most one flight of a name, but for a handler that won't be stopped.
* :func:`keep_lease` runs beside a flight; :func:`watch` looks out for a run in another process.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, TypeGuard

from grpc_idempotency._compat import assert_never
from grpc_idempotency._effects import (
    Answer,
    Answered,
    Board,
    Call,
    Complete,
    CutShort,
    Effect,
    Ended,
    Event,
    Execute,
    Executed,
    Found,
    Get,
    Hold,
    Land,
    Landed,
    Landing,
    LeaseHolds,
    Mark,
    NewFence,
    Pause,
    Plan,
    Raised,
    Refused,
    Release,
    Released,
    Renew,
    Renewed,
    RolledBack,
    Tell,
    TryClaim,
    Unprotected,
    Watch,
    do,
)
from grpc_idempotency._refusals import Reason, Refusal
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.policy import Disposition, Policy
from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Outcome, Record, State

# One call


def answer(call: Call) -> Plan[Answer | Refusal]:
    """What a keyed call is answered with (4.1, 4.3)."""
    waited = False
    while True:
        boarded = yield from do(Board(call))
        if boarded is None:
            return _store_unavailable("This server takes on no further operation; the handler did not run")
        if same_request(boarded.fingerprint, call.fingerprint):
            landed = yield from do(Land(boarded, None if boarded.founded else call.until))
        else:
            landed = Landed((yield from _beside_another(call)))
        begun = landed.begun
        match landed.landing:
            case None:
                return _in_flight()
            case Refused(refusal):
                return refusal
            case Executed(outcome):
                return Answer(outcome, Mark.EXECUTED if boarded.founded else Mark.ATTACHED)
            case Unprotected(outcome):
                return Answer(outcome, Mark.UNPROTECTED)
            case Released(outcome):
                if boarded.founded or begun:
                    return Answer(outcome, Mark.EXECUTED if boarded.founded else Mark.ATTACHED)
                waited = True  # and contend for a new claim
            case Found(_) if begun:
                return _not_stored()  # another run counts, whose messages may be others
            case Found(record):
                if record is None:
                    continue
                told = _judge(call, record, waited)
                if told is not None:
                    return told
                if not (yield from do(Watch(call.name, record.fence, call.until))):
                    return _in_flight()
                waited = True
            case _:
                assert_never(landed.landing)


def _beside_another(call: Call) -> Plan[Landing]:
    """What a call learns that meets a flight of another request: it may be that flight which reuses the key."""
    try:
        # The flight may not have heard yet of a record that stands in its way, and that is of this call's request.
        record = yield from do(Get(call.name))
    except StoreUnavailable:
        return Refused(_store_unavailable("The handler did not run"))
    return Refused(_key_reused(call)) if record is None else Found(record)


def same_request(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two requests count as the same (3.2): equal bytes are enough, else an equal canonical form decides."""
    return one.raw == other.raw or one.canonical == other.canonical


def _judge(call: Call, record: Record, waited: bool) -> Answer | Refusal | None:
    """What a record that is there means for a call; ``None``: it is still running."""
    if not same_request(record.fingerprint, call.fingerprint):
        return _key_reused(call)
    told: Answer | Refusal | None
    match record.state:
        case State.RUNNING:
            told = None
        case State.HELD:
            told = _outcome_unknown(record.name, record.reason)
        case State.COMPLETED:
            told = _replay(call, record, waited)
        case _:
            assert_never(record.state)
    return told


def _replay(call: Call, record: Record, waited: bool) -> Answer | Refusal:
    assert record.completed_at is not None
    if not _whole(record.outcome, call):
        created = record.completed_at.isoformat(timespec="seconds")
        return Refusal(reason=Reason.RESPONSE_NOT_RETAINED, variables={"created": created})
    if waited:
        return Answer(record.outcome, Mark.ATTACHED)
    return Answer(record.outcome, Mark.REPLAYED, record.completed_at)


# One flight


@dataclass(frozen=True, slots=True)
class _Won:
    attempt: int


def operate(call: Call) -> Plan[Landing]:
    """Claims the operation, runs the handler, settles the record."""
    policy = call.policy
    claim = Claim(
        name=call.name,
        method=call.method,
        fence=(yield from do(NewFence())),
        fingerprint=call.fingerprint,
        effects=policy.effects,
        lease=policy.lease,
    )
    try:
        seized = yield from _seize(claim)
    except StoreUnavailable as exc:
        return (yield from _without_claim(call, claim, exc))
    match seized:
        case Record():
            return Found(seized)
        case _Won(attempt):
            if attempt > 1:
                yield from do(Tell(Event.TOOK_OVER))
            ended = yield from do(Execute(claim, attempt))
            return (yield from settle(call, claim, ended))
        case _:
            assert_never(seized)


def _seize(claim: Claim) -> Plan[_Won | Record]:
    """Wins the claim, taking over from an owner that is gone (4.9), or finds the record that stands in its way."""
    attempt, over = 1, None
    while True:
        record = yield from do(TryClaim(claim, over))
        if record is None:
            return _Won(attempt)
        # Another request must not run in the place of this one: it learns of its reused key instead.
        if not record.lapsed or not same_request(record.fingerprint, claim.fingerprint):
            return record
        match record.effects:
            case Effects.OPAQUE:
                if (yield from do(Hold(record.name, record.fence, _OWNER_GONE, lapsed_only=True))):
                    yield from do(Tell(Event.HELD))
                    return replace(record, state=State.HELD, lapsed=False, reason=_OWNER_GONE)
                attempt, over = 1, None  # its owner, or another caller, was quicker
            case Effects.TRANSACTIONAL | Effects.REPEATABLE:
                attempt, over = record.attempts + 1, record.fence
            case _:
                assert_never(record.effects)


def _without_claim(call: Call, claim: Claim, error: StoreUnavailable) -> Plan[Landing]:
    """The store is down before the claim (5.5): refused, or by policy let through unprotected."""
    if error.landed is not False:
        # The claim may be there all the same, of a handler that never ran: nobody should have to wait for its lease.
        with suppress(StoreUnavailable):
            yield from do(Release(claim.name, claim.fence))
    if not call.policy.unprotected:
        return Refused(_store_unavailable("The handler did not run"))
    ended = yield from do(Execute(None))
    return Unprotected(_CUT_SHORT if isinstance(ended, CutShort) else ended.outcome)


def settle(call: Call, claim: Claim, ended: Ended) -> Plan[Landing]:
    """What becomes of the record when the handler has ended (4.5, 4.6)."""
    opaque = claim.effects is Effects.OPAQUE
    match ended:
        case Answered(outcome, committed=True):
            return Executed(outcome)
        case Answered(outcome):
            if disposition(outcome.status, call.policy) is Disposition.STORE:
                return (yield from _store(call, claim, outcome))
            return (yield from _release(call, claim, outcome))
        case Raised(outcome):
            return (yield from (_store if opaque else _release)(call, claim, outcome))
        case RolledBack(outcome):
            if not opaque:
                return (yield from _release(call, claim, _NOT_COMMITTED))
            if (yield from _insist(Renew(claim.name, claim.fence, claim.lease))) is False:
                return (yield from _overtaken(call, claim))  # or it was committed after all
            # Its transaction left nothing, but who knows what else it did.
            return (yield from _store(call, claim, outcome))
        case CutShort.CANCELLED | CutShort.OVERRAN | CutShort.ABANDONED:
            if opaque:
                return (yield from _hold(call, claim, ended.value))
            if ended is CutShort.ABANDONED:
                return Released(_CUT_SHORT)  # it still runs: only its lease's end may let another run begin
            return (yield from _release(call, claim, _CUT_SHORT))
        case _:
            assert_never(ended)


def disposition(status: Code, policy: Policy) -> Disposition:
    """Whether an answer with this status is stored or releases the operation (4.6)."""
    override = policy.statuses.get(status)
    if override is not None:
        return override
    if status in _UNCLEAR:
        return Disposition.STORE if policy.effects is Effects.OPAQUE else Disposition.RELEASE
    return Disposition.RELEASE if status in _NOTHING_HAPPENED else Disposition.STORE


def retained(outcome: Outcome, policy: Policy) -> Outcome:
    """The part of an outcome that is kept (4.11)."""
    if outcome.message is not None and len(outcome.message) > policy.max_response_bytes:
        return replace(outcome, message=None)
    return outcome


def _store(call: Call, claim: Claim, outcome: Outcome) -> Plan[Landing]:
    kept = retained(outcome, call.policy)
    stored = yield from _insist(Complete(claim.name, claim.fence, kept, call.policy.ttl))
    match stored:
        case True:
            return Executed(outcome)
        case False:
            return (yield from _overtaken(call, claim))
        case None:
            return Unprotected(outcome) if call.policy.unprotected else Refused(_not_stored())
        case _:
            assert_never(stored)


def _release(call: Call, claim: Claim, outcome: Outcome) -> Plan[Landing]:
    released = yield from _insist(Release(claim.name, claim.fence))
    match released:
        case True:
            return Released(outcome)
        case False:
            now = yield from _overtaken(call, claim)
            # Nothing is there any more: most likely it was released, and only the answer to that was lost.
            return Released(outcome) if now == Found(None) else now
        case None:
            return Unprotected(outcome) if call.policy.unprotected else Refused(_not_stored())
        case _:
            assert_never(released)


def _hold(call: Call, claim: Claim, cause: str) -> Plan[Landing]:
    if (yield from _insist(Hold(claim.name, claim.fence, cause))) is False:
        return (yield from _overtaken(call, claim))
    yield from do(Tell(Event.HELD))
    # Where the store can't be told, the lease's end will hold the record all the same.
    return Refused(_outcome_unknown(call.name, cause))


def _insist(effect: Effect[bool]) -> Plan[bool | None]:
    """Tries a write again until the owner must be presumed dead (5.5): then ``None``."""
    pause = _FIRST_RETRY
    while True:
        try:
            return (yield from do(effect))
        except StoreUnavailable:
            if not (yield from do(LeaseHolds())):
                return None
        yield from do(Pause(pause))
        pause = min(pause * 2, _LAST_RETRY)


def _overtaken(call: Call, claim: Claim) -> Plan[Landing]:
    """The fence was refused (4.2): the record as it is now is the truth."""
    try:
        record = yield from do(Get(claim.name))
    except StoreUnavailable:
        return Refused(_not_stored())
    if record is not None and record.fence == claim.fence and _whole(record.outcome, call):
        return Executed(record.outcome)  # a transaction of ours committed, and we were cut off from its answer
    return Found(record)


def _whole(outcome: Outcome | None, call: Call) -> TypeGuard[Outcome]:
    """Whether an outcome can be sent as it is: one whose response was not retained can't."""
    if outcome is None:
        return False
    return outcome.message is not None or (outcome.status is not Code.OK and not call.streams)


# Beside a flight


def keep_lease(claim: Claim, every: timedelta) -> Plan[None]:
    """Renews the lease of a running operation, now and then every so often, until it is lost (4.9)."""
    while True:
        try:
            if not (yield from do(Renew(claim.name, claim.fence, claim.lease))):
                yield from do(Tell(Event.LOST))
                return
            yield from do(Renewed())
        except StoreUnavailable:
            pass  # the lease is longer than one interval, so that the next one may still be in time
        yield from do(Pause(every.total_seconds()))


def watch(name: bytes, fence: bytes) -> Plan[None]:
    """Ends when the run under this fence, in another process, is over or its owner is gone (4.3)."""
    pause = _FIRST_POLL
    while True:
        yield from do(Pause(pause))
        try:
            record = yield from do(Get(name))
        except StoreUnavailable:
            return  # the claim that those who wait try next will say so
        if record is None or record.fence != fence or record.state is not State.RUNNING or record.lapsed:
            return
        pause = min(pause * 1.5, _LAST_POLL)


_UNCLEAR: Final = frozenset({Code.UNKNOWN, Code.INTERNAL, Code.DEADLINE_EXCEEDED, Code.CANCELLED})
"""Statuses after which nobody can tell from the answer whether anything happened (4.5)."""
_NOTHING_HAPPENED: Final = frozenset(
    {
        Code.UNAVAILABLE,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
    }
)
"""Statuses by which a handler asserts that nothing happened (4.6). All others are stored."""

_OWNER_GONE: Final = "its server stopped, or was cut off from the store, while the handler ran"
_CUT_SHORT: Final = Outcome(
    status=Code.UNAVAILABLE,
    details="The handler was stopped before its end, and nothing of it was kept. Retry with the same key.",
)
_NOT_COMMITTED: Final = Outcome(
    status=Code.UNAVAILABLE,
    details="The handler's transaction could not be committed, and nothing of it was kept. Retry with the same key.",
)

_FIRST_RETRY, _LAST_RETRY = 0.05, 2.0  # seconds
_FIRST_POLL, _LAST_POLL = 0.02, 0.5  # seconds
_COME_BACK: Final = timedelta(seconds=1)


def _store_unavailable(effect: str) -> Refusal:
    return Refusal(reason=Reason.STORE_UNAVAILABLE, variables={"effect": effect}, retry_after=_COME_BACK)


def _not_stored() -> Refusal:
    return _store_unavailable("The handler ran, but what became of it could not be stored")


def shut_down() -> Landing:
    """What a flight lands with that its server could not bring to its end (4.4); 4.5 decides about its record."""
    return Refused(_store_unavailable("This server stopped before the operation was over"))


def _key_reused(call: Call) -> Refusal:
    return Refusal(reason=Reason.KEY_REUSED, variables={"method": call.method})


def _outcome_unknown(name: bytes, cause: str) -> Refusal:
    return Refusal(reason=Reason.OUTCOME_UNKNOWN, variables={"cause": cause, "operation": name.hex()})


def _in_flight() -> Refusal:
    milliseconds = str(int(_COME_BACK.total_seconds() * 1000))
    return Refusal(
        reason=Reason.IN_FLIGHT, variables={"retry_after_ms": milliseconds}, retry_after=_COME_BACK, push_back=True
    )
