"""The rules: every transition in the life of an operation is in this file.

No I/O, no gRPC, no clock, no threads. A rule that needs the world yields an :class:`Effect` and gets its reply. The
wings of ``_server`` perform the effects, awaiting or blocking (``_server/drive.py``). These plans make up the life of
an operation:

* :func:`answer` runs in each call: it joins the *execution* of its operation in this process, or leads one, and turns
  the conclusion of the execution into this call's answer.
* :func:`operate` is the execution: it claims the operation, lets the handler run, and settles the record. It outlives
  the call that leads it (4.4). A process has at most one execution of a name, but for a handler that won't be stopped.
* :func:`keep_lease` runs beside an execution; :func:`watch` looks out for a run in another process.
* :func:`fate` and :func:`hold_lapsed` are for recovery, which acts for clients that do not come back.
"""

import enum
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeGuard, TypeVar

from grpc_idempotency._compat import assert_never
from grpc_idempotency._protocol.effects import (
    Answer,
    Answered,
    Call,
    Complete,
    CompleteUnclaimed,
    Conclusion,
    CutShort,
    Effect,
    Event,
    Execute,
    Executed,
    Fate,
    Follow,
    Followed,
    Found,
    Get,
    Hold,
    Join,
    Joined,
    LeaseHolds,
    LoadSteps,
    LoseLease,
    Mark,
    Pause,
    Plan,
    Raised,
    Ran,
    Refused,
    Release,
    Released,
    Renew,
    RolledBack,
    Tell,
    TryClaim,
    Undo,
    Unprotected,
    Unwind,
    Wait,
    Waits,
    Watch,
)
from grpc_idempotency._protocol.refusals import Reason, Refusal
from grpc_idempotency.errors import FenceRefused, StoreUnavailable, Unstorable
from grpc_idempotency.policy import Disposition, Policy
from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Outcome, Record, State, Step

T = TypeVar("T")

# One call


def answer(call: Call) -> Plan[Answer | Refusal]:
    """What a keyed call is answered with (4.1, 4.3)."""
    waited = False
    while True:
        joined: Joined | None = yield Join(call)
        if joined is None:
            return _no_room()
        if same_request(joined.fingerprint, call.fingerprint):
            concluded: Followed = yield Follow(joined, None if joined.leads else call.until)
        else:
            concluded = Followed((yield from _beside_another(call)))
        begun = concluded.begun
        match concluded.conclusion:
            case None:
                return _in_flight()
            case Refused(refusal):
                return refusal
            case Executed(outcome):
                return Answer(outcome, Mark.EXECUTED if joined.leads else Mark.ATTACHED)
            case Unprotected(outcome):
                return Answer(outcome, Mark.UNPROTECTED)
            case Released(outcome):
                if joined.leads or begun:
                    return Answer(outcome, Mark.EXECUTED if joined.leads else Mark.ATTACHED)
                waited = True  # and contend for a new claim
            case Waits():
                if begun:
                    return _not_stored()
                waited = True  # until it is due, or somebody else has run it
            case Found(_) if begun:
                return _not_stored()  # another run counts, whose messages may be others
            case Found(record):
                if record is None:
                    continue
                told = _judge(call, record, waited)
                if told is not None:
                    return told
                if not (yield Watch(call.name, record.fence, call.until)):
                    return _in_flight()
                waited = True
            case _:
                assert_never(concluded.conclusion)


def _beside_another(call: Call) -> Plan[Conclusion]:
    """What a call learns that meets an execution of another request: it may be that execution which reuses the key."""
    try:
        # The execution may not have heard yet of a record that stands in its way, and that is of this call's request.
        record: Record | None = yield Get(call.name)
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
        case State.RUNNING | State.UNDOING | State.WAITING:
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
    if not _is_whole(record.outcome):
        return _not_retained(record.outcome, record.completed_at, record.resolved)
    if waited:
        return Answer(record.outcome, Mark.ATTACHED)
    return Answer(record.outcome, Mark.REPLAYED, record.completed_at, record)


# One execution


def operate(call: Call, fence: bytes) -> Plan[Conclusion]:
    """Claims the operation, runs the handler, settles the record.

    Args:
        call: The call that leads the execution.
        fence: 16 random bytes.
    """
    claim = Claim(
        name=call.name,
        method=call.method,
        fence=fence,
        fingerprint=call.fingerprint,
        effects=call.policy.effects,
        lease=call.policy.lease,
        owner=call.owner,
        streams=call.streams,
        request=call.request,
    )
    over = call.lapsed
    if call.unclaimed:
        try:
            standing: Record | None = yield Get(call.name)
        except StoreUnavailable:
            return (yield from _without_claim(call))
        if standing is None:
            ran: Ran = yield Execute(claim, claimed=False)
            return (yield from (settle(call, claim, ran, 0) if ran.claimed else _settle_unclaimed(call, claim, ran)))
        if not _may_take_over(call, standing):
            return Found(standing)
        over = standing
    if over is None:
        try:
            standing = yield TryClaim(claim)
        except StoreUnavailable as exc:
            return (yield from _not_claimed(call, claim, None, exc))
        if standing is None:
            ran = yield Execute(claim)
            return (yield from settle(call, claim, ran, 0))
        if not _may_take_over(call, standing):
            return Found(standing)
        over = standing
    return (yield from _take_over(call, claim, over))


def _may_take_over(call: Call, record: Record) -> bool:
    """True if the record's owner is gone (4.9).

    Another request must not run in the place of this one: it learns of its reused key instead.
    """
    return record.lapsed and same_request(record.fingerprint, call.fingerprint)


def _take_over(call: Call, claim: Claim, over: Record) -> Plan[Conclusion]:
    """Claims the operation from an owner that is gone, or finds the record that stands in its way."""
    while True:
        if _is_in_doubt(over):
            if (yield from hold_lapsed(over)):
                return Found(replace(over, state=State.HELD, lapsed=False, reason=_OWNER_GONE))
            known = None  # its owner, or another caller, was quicker
        else:
            known = over
        try:
            standing: Record | None = yield TryClaim(claim, None if known is None else known.fence)
        except StoreUnavailable as exc:
            return (yield from _not_claimed(call, claim, known, exc))
        if standing is None:
            break
        if not _may_take_over(call, standing):
            return Found(standing)
        over = standing
    if known is None:
        ran: Ran = yield Execute(claim)
        return (yield from settle(call, claim, ran, 0))
    yield Tell(Event.RUNS_AGAIN if known.state is State.WAITING else Event.TOOK_OVER)
    return (yield from _run_again(call, claim))


def _run_again(call: Call, claim: Claim) -> Plan[Conclusion]:
    """A run after one that was cut short, or that failed in a way that may pass."""
    try:
        # Its owner may have gone on between the look and the take-over, and have failed for good, say.
        record: Record | None = yield Get(claim.name)
        steps: tuple[Step, ...] = tuple((yield LoadSteps(claim.name)))
    except StoreUnavailable:
        return Refused(_store_unavailable("The handler did not run"))  # the lease's end lets another try
    if record is None or record.fence != claim.fence:
        return Found(record)
    ran: Ran = yield Execute(claim, record.attempts, steps, unwinds=record.failure is not None)
    if record.failure is None or ran.ended is CutShort.ABANDONED:
        return (yield from settle(call, claim, ran, record.tries))
    return (yield from _unwind(call, claim, record.failure, record.tries, record.undo_tries))


def _not_claimed(call: Call, claim: Claim, over: Record | None, error: StoreUnavailable) -> Plan[Conclusion]:
    """The store has not answered a claim, which may be there all the same."""
    if error.landed is not False:
        yield from _give_back(claim, over)
    return (yield from _without_claim(call))


def _give_back(claim: Claim, over: Record | None) -> Plan[None]:
    """Gives back a claim that may be there, of a handler that did not run: nobody should have to wait for its lease.

    One that took over an operation must not forget its finished steps with it (5.2): that is due again at once.
    """
    with suppress(StoreUnavailable):
        if over is None:
            yield Release(claim.name, claim.fence)
        else:
            yield Wait(claim.name, claim.fence, timedelta(0), over.tries, over.undo_tries)


def _is_in_doubt(record: Record) -> bool:
    """Whether nobody can know of a lapsed record what its handler did: an opaque one that did not wait (4.5)."""
    return record.state in (State.RUNNING, State.UNDOING) and record.effects is Effects.OPAQUE


def hold_lapsed(record: Record) -> Plan[bool]:
    """Makes a lapsed record held whose outcome is in doubt; whether nobody was quicker (4.5)."""
    if not (yield Hold(record.name, record.fence, _OWNER_GONE, lapsed_only=True)):
        return False
    yield Tell(Event.HELD)
    return True


def fate(record: Record, policy: Policy) -> Fate:
    """What recovery does with a lapsed record of a method that has this policy now (5.4).

    What the record says of its handler's effects counts, since its run had that policy.
    """
    if _is_in_doubt(record):
        return Fate.HOLD
    return Fate.RUN if policy.recovers and record.request is not None else Fate.LEAVE


def _without_claim(call: Call) -> Plan[Conclusion]:
    """The store is down before the claim (5.5): refused, or by policy let through unprotected."""
    if not call.policy.unprotected:
        return Refused(_store_unavailable("The handler did not run"))
    ran: Ran = yield Execute(None)
    ended = ran.ended
    return Unprotected(_CUT_SHORT if isinstance(ended, CutShort) else ended.outcome)


def settle(call: Call, claim: Claim, ran: Ran, tries: int) -> Plan[Conclusion]:
    """What becomes of the record when the handler has ended (4.5, 4.6, 5.2)."""
    opaque = claim.effects is Effects.OPAQUE
    match ran.ended:
        case Answered(outcome, True, at):
            return _executed(call, outcome, at)
        case Answered(outcome):
            if disposition(outcome.status, call.policy) is Disposition.STORE:
                return (yield from _end(call, claim, outcome, ran.steps, tries))
            return (yield from _let_go(call, claim, outcome, ran.steps, tries))
        case Raised(outcome):
            return (yield from (_end if opaque else _let_go)(call, claim, outcome, ran.steps, tries))
        case RolledBack(outcome, own):
            if opaque and not own:  # who knows what it had done before
                return (yield from _end(call, claim, outcome, ran.steps, tries))
            return (yield from _let_go(call, claim, _NOT_COMMITTED, ran.steps, tries))
        case CutShort.CANCELLED | CutShort.OVERRAN | CutShort.ABANDONED:
            if opaque:
                return (yield from _hold(call, claim, ran.ended.value))
            if ran.ended is CutShort.ABANDONED:
                return Released(_CUT_SHORT)  # it still runs: only its lease's end may let another run begin
            return (yield from _let_go(call, claim, _CUT_SHORT, ran.steps, tries))
        case _:
            assert_never(ran.ended)


def _settle_unclaimed(call: Call, claim: Claim, ran: Ran) -> Plan[Conclusion]:
    """What becomes of an operation that was not claimed: only what its transaction has committed is there (5.1)."""
    match ran.ended:
        case Answered(outcome, True, at):
            return _executed(call, outcome, at)
        case Answered(outcome):
            if disposition(outcome.status, call.policy) is Disposition.STORE:
                return (yield from _store(call, claim, outcome, claimed=False))
        case CutShort.ABANDONED:
            return Released(_CUT_SHORT)  # its transaction may commit yet, if none of a later run's has before
        case Raised(outcome):
            pass
        case RolledBack():
            outcome = _NOT_COMMITTED
        case CutShort.CANCELLED | CutShort.OVERRAN:
            outcome = _CUT_SHORT
        case _:
            assert_never(ran.ended)
    # Its transaction may have been refused, since another process was quicker, or the answer to its commit was lost.
    # The handler may have caught the error of either, so its own answer is no evidence.
    now = yield from _overtaken(call, claim)
    if not isinstance(now, Found):
        return now
    if _is_own_claim(claim, now.record):
        yield from _give_back(claim, None)
    elif now.record is not None:
        return now
    return Released(outcome)


def _is_own_claim(claim: Claim, record: Record | None) -> bool:
    """True if the handler came to a step, and the store did not answer the claim for it, which is there (5.5)."""
    return record is not None and record.state is State.RUNNING and record.fence == claim.fence


def _end(call: Call, claim: Claim, outcome: Outcome, steps: bool, tries: int) -> Plan[Conclusion]:
    """The outcome is final. Steps that were finished for a failure are undone before it is stored (5.2)."""
    if outcome.status is Code.OK or not steps:
        return (yield from _store(call, claim, outcome))
    # A later run knows of a stream's messages only that there were some, and must not replay the failure without them.
    failure = replace(outcome, message=None, retained=outcome.retained and not outcome.message)
    try:
        kept = yield from _insist(Undo(claim.name, claim.fence, failure))
    except Unstorable:
        stripped = yield from _stripped(outcome)
        return Refused(_not_stored()) if stripped is None else (yield from _end(call, claim, stripped, steps, tries))
    match kept:
        case True:
            yield Tell(Event.GIVEN_UP)
            return (yield from _unwind(call, claim, outcome, tries, 0))
        case False:
            return (yield from _overtaken(call, claim))
        case _Unheard.UNHEARD:
            return Refused(_not_stored())
        case _:
            assert_never(kept)


def _let_go(call: Call, claim: Claim, outcome: Outcome, steps: bool, tries: int) -> Plan[Conclusion]:
    """The failure may pass. With finished steps the operation runs again by itself, but not for ever (5.2)."""
    if not steps:
        return (yield from _release(call, claim, outcome))
    if tries + 1 >= call.policy.max_tries:
        return (yield from _end(call, claim, _given_up(call, outcome, tries + 1), steps, tries))
    return (yield from _wait(call, claim, tries + 1, 0))


def _wait(call: Call, claim: Claim, tries: int, undo_tries: int) -> Plan[Conclusion]:
    """The operation is to run again, or to be undone again, the later the more often that has failed."""
    failed = undo_tries or tries
    delay = min(call.policy.retry_delay * 2 ** min(failed - 1, _MOST_DOUBLINGS), _LONGEST_DELAY)
    kept = yield from _insist(Wait(claim.name, claim.fence, delay, tries, undo_tries))
    match kept:
        case True:
            yield Tell(Event.WAITS)
            return Waits()
        case False:
            return (yield from _overtaken(call, claim))
        case _Unheard.UNHEARD:
            return Refused(_not_stored())
        case _:
            assert_never(kept)


def _unwind(call: Call, claim: Claim, failure: Outcome, tries: int, undo_tries: int) -> Plan[Conclusion]:
    """Undoes what was finished, then stores the failure; an undo that fails again and again is an operator's (5.2)."""
    try:
        trouble: str | None = yield Unwind()
    except FenceRefused:
        return (yield from _overtaken(call, claim))
    if trouble is None:
        return (yield from _store(call, claim, failure))
    if undo_tries + 1 >= call.policy.max_tries:
        return (yield from _hold(call, claim, trouble))
    return (yield from _wait(call, claim, tries, undo_tries + 1))


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
        return replace(outcome, message=None, retained=False)
    return outcome


def _store(call: Call, claim: Claim, outcome: Outcome, *, claimed: bool = True) -> Plan[Conclusion]:
    """The outcome is stored: in the record that was claimed, or in a record of its own."""
    kept, ttl = retained(outcome, call.policy), call.policy.ttl
    write: Effect[datetime | Record | None] = (
        Complete(claim.name, claim.fence, kept, ttl) if claimed else CompleteUnclaimed(claim, kept, ttl)
    )
    try:
        at = yield from _insist(write)
    except Unstorable:
        stripped = yield from _stripped(outcome)
        if stripped is None:
            return Refused(_not_stored())
        return (yield from _store(call, claim, stripped, claimed=claimed))
    match at:
        case datetime():
            return _executed(call, outcome, at)
        case Record():
            if _is_own_claim(claim, at):
                return (yield from _store(call, claim, outcome))
            return _as_it_is(claim, at)
        case None:
            return (yield from _overtaken(call, claim))
        case _Unheard.UNHEARD:
            return Unprotected(outcome) if call.policy.unprotected else Refused(_not_stored())
        case _:
            assert_never(at)


def _executed(call: Call, outcome: Outcome, at: datetime | None) -> Executed:
    """The outcome is stored; when that was is told where all of it is kept, so that it can be replayed as it is."""
    whole = retained(outcome, call.policy) is outcome and _is_whole(outcome)
    return Executed(outcome, at if whole else None)


def _stripped(outcome: Outcome) -> Plan[Outcome | None]:
    """An outcome that a store can't keep, without what may be the cause of that; ``None`` where it has none of it."""
    if not (outcome.details or outcome.trailers):
        return None
    # The effect is there, and an answer without these is better than none: they are nobody's then.
    yield Tell(Event.STRIPPED)
    return replace(outcome, details="", trailers=())


def _release(call: Call, claim: Claim, outcome: Outcome) -> Plan[Conclusion]:
    released = yield from _insist(Release(claim.name, claim.fence))
    match released:
        case True:
            return Released(outcome)
        case False:
            now = yield from _overtaken(call, claim)
            # Nothing is there any more: most likely it was released, and only the answer to that was lost.
            return Released(outcome) if now == Found(None) else now
        case _Unheard.UNHEARD:
            return Unprotected(outcome) if call.policy.unprotected else Refused(_not_stored())
        case _:
            assert_never(released)


def _hold(call: Call, claim: Claim, cause: str) -> Plan[Conclusion]:
    if (yield from _insist(Hold(claim.name, claim.fence, cause))) is False:
        return (yield from _overtaken(call, claim))
    yield Tell(Event.HELD)
    # Where the store can't be told, the lease's end will hold the record all the same.
    return Refused(_outcome_unknown(call.name, cause))


class _Unheard(enum.Enum):
    UNHEARD = "the store has not answered until the owner must be presumed dead"


def _insist(effect: Effect[T]) -> Plan[T | _Unheard]:
    """Tries a write again until the owner must be presumed dead (5.5).

    Raises:
        Unstorable: At once: a store does not recover from what it is given.
    """
    pause = _FIRST_RETRY
    while True:
        try:
            reply: T = yield effect
        except Unstorable:
            raise
        except StoreUnavailable:
            if not (yield LeaseHolds()):
                return _Unheard.UNHEARD
        else:
            return reply
        yield Pause(pause)
        pause = min(pause * 2, _LAST_RETRY)


def _overtaken(call: Call, claim: Claim) -> Plan[Conclusion]:
    """The fence was refused (4.2): the record as it is now is the truth."""
    try:
        record: Record | None = yield Get(claim.name)
    except StoreUnavailable:
        return Refused(_not_stored())
    return _as_it_is(claim, record)


def _as_it_is(claim: Claim, record: Record | None) -> Conclusion:
    """What an execution concludes with whose own outcome does not count: the record."""
    if record is not None and record.fence == claim.fence and _is_whole(record.outcome):
        # A transaction of ours committed, and we were cut off from its answer.
        return Executed(record.outcome, record.completed_at)
    return Found(record)


def _is_whole(outcome: Outcome | None) -> TypeGuard[Outcome]:
    """Returns whether an outcome can be replayed: one whose messages were not retained can't (4.7)."""
    if outcome is None or not outcome.retained:
        return False
    return outcome.message is not None or outcome.status is not Code.OK


# Beside an execution


def keep_lease(claim: Claim, every: timedelta) -> Plan[None]:
    """Renews the lease of a running operation until it is lost; begins when the first renewal is due (4.9).

    A renewal that failed, or is not answered in time, is tried again at once and then after short pauses. When the
    lease has run out meanwhile the run counts as one that may have been replaced, but it goes on trying: where nobody
    was there to take over, its next renewal makes the lease hold again.
    """
    patience = (claim.lease - every).total_seconds() / 2
    pause, lapsed = 0.0, False
    while True:
        try:
            if (yield Renew(claim.name, claim.fence, claim.lease, patience)):
                pause, lapsed = 0.0, False
                yield Pause(every.total_seconds())
                continue
            record: Record | None = yield Get(claim.name)
        except StoreUnavailable:
            if (yield LeaseHolds()):
                yield Pause(pause)
                pause = min(max(2 * pause, _FIRST_RETRY), patience / 4)
                continue
            if not lapsed:
                yield Tell(Event.LAPSED)
            lapsed = True
            yield Pause(every.total_seconds())
            continue
        if record is None or record.fence != claim.fence or record.state is State.HELD:
            yield LoseLease()
            yield Tell(Event.LOST)
        return  # else the run has come to its own end just now


def watch(name: bytes, fence: bytes) -> Plan[None]:
    """Ends when the run under this fence, in another process, is over or its owner is gone (4.3)."""
    pause = _FIRST_POLL
    while True:
        yield Pause(pause)
        try:
            record: Record | None = yield Get(name)
        except StoreUnavailable:
            return  # the claim that those who wait try next will say so
        if record is None or record.fence != fence or record.state in (State.COMPLETED, State.HELD) or record.lapsed:
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

_TOO_LARGE: Final = "It succeeded, but its response was larger than may be kept"
_MESSAGES_LOST: Final = "It failed, and the messages that it may have sent before are not kept"
_NOT_GIVEN: Final = "It succeeded, but an operator resolved it without giving its response"
_OWNER_GONE: Final = "its server stopped, or was cut off from the store, while the handler ran"
_CUT_SHORT: Final = Outcome(
    status=Code.UNAVAILABLE,
    details="The handler was stopped before its end, and nothing of it was kept. Retry with the same key.",
)
_NOT_COMMITTED: Final = Outcome(
    status=Code.UNAVAILABLE,
    details="The handler's transaction could not be committed, and nothing of it was kept. Retry with the same key.",
)

_LONGEST_DELAY: Final = timedelta(minutes=1)
_MOST_DOUBLINGS: Final = 16
_FIRST_RETRY, _LAST_RETRY = 0.05, 2.0  # seconds
_FIRST_POLL, _LAST_POLL = 0.02, 0.5  # seconds
_COME_BACK: Final = timedelta(seconds=1)


def _given_up(call: Call, outcome: Outcome, tries: int) -> Outcome:
    """The failure that is stored when one that might have passed did not: no longer one that says "retry"."""
    details = f"The operation failed {tries} times and was given up; the steps it had finished are undone"
    retained = outcome.retained and not (call.streams and outcome.message is None)
    return replace(outcome, status=Code.ABORTED, details=f"{details}: {outcome.details}", retained=retained)


def _store_unavailable(effect: str) -> Refusal:
    return Refusal(reason=Reason.STORE_UNAVAILABLE, variables={"effect": effect}, retry_after=_COME_BACK)


def _not_stored() -> Refusal:
    return _store_unavailable("The handler ran, but what became of it could not be stored")


def no_room() -> Conclusion:
    """The conclusion of an execution that could not begin, since its server lacks what it takes."""
    return Refused(_no_room())


def _no_room() -> Refusal:
    return _store_unavailable("This server takes on no further operation; the handler did not run")


def shut_down() -> Conclusion:
    """The conclusion of an execution that its server could not bring to its end (4.4); 4.5 decides about its record."""
    return Refused(_store_unavailable("This server stopped before the operation was over"))


def _key_reused(call: Call) -> Refusal:
    return Refusal(reason=Reason.KEY_REUSED, variables={"method": call.method})


def _not_retained(outcome: Outcome | None, completed_at: datetime, resolved: bool) -> Refusal:
    """Returns the refusal that tells how the operation ended, where its answer can't be replayed."""
    status = Code.OK if outcome is None else outcome.status
    succeeded = _NOT_GIVEN if resolved else _TOO_LARGE
    cause = succeeded if status is Code.OK else _MESSAGES_LOST
    variables = {"status": status.name, "created": completed_at.isoformat(timespec="seconds"), "cause": cause}
    return Refusal(reason=Reason.RESPONSE_NOT_RETAINED, variables=variables)


def _outcome_unknown(name: bytes, cause: str) -> Refusal:
    return Refusal(reason=Reason.OUTCOME_UNKNOWN, variables={"cause": cause, "operation": name.hex()})


def _in_flight() -> Refusal:
    milliseconds = str(int(_COME_BACK.total_seconds() * 1000))
    return Refusal(
        reason=Reason.IN_FLIGHT, variables={"retry_after_ms": milliseconds}, retry_after=_COME_BACK, push_back=True
    )
