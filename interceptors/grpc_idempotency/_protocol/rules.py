"""The rules: every transition in the life of an operation is in this file.

No I/O, no gRPC, no clock, no threads. A rule that needs I/O yields an :class:`Effect` and gets its reply. The wings of
``_server`` perform the effects, awaiting or blocking (``_server/drive.py``). These plans make up the life of an
operation:

* :func:`answer` runs in each call: it joins the *execution* of its operation in this process, or leads one, and turns
  the conclusion of the execution into this call's answer.
* :func:`operate` is the execution: it claims the operation, lets the handler run, and settles the record. It outlives
  the call that leads it (4.4). A process has at most one execution of a name, unless a handler could not be stopped.
* :func:`keep_lease` runs beside an execution. :func:`poll` finds out for waiting calls when runs in other
  processes have ended.
* :func:`fate`, :func:`hold_lapsed` and :func:`release_lapsed` are for recovery, which acts for clients that do not come
  back.
"""

import enum
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeGuard, TypeVar

from grpc_idempotency._compat import assert_never
from grpc_idempotency._protocol.effects import (
    Answer,
    Answered,
    AwaitedRun,
    AwaitedRuns,
    BeginLease,
    Call,
    Complete,
    CompleteUnclaimed,
    Conclusion,
    CutShort,
    Effect,
    EndWaits,
    Execute,
    Executed,
    Fate,
    Follow,
    Followed,
    Found,
    Get,
    Hold,
    InDoubt,
    Join,
    Joined,
    LeaseHolds,
    LoadSteps,
    LoseLease,
    Pause,
    Plan,
    Raised,
    Ran,
    ReadStandings,
    Refused,
    Release,
    Released,
    Renew,
    RolledBack,
    Status,
    Tell,
    Told,
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
from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Outcome, Record, Renewal, Standing, State, Step

T = TypeVar("T")

# One call


def answer(call: Call) -> Plan[Answer | Refusal]:
    """Returns the answer to a keyed call, or its refusal (4.1, 4.3)."""
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
                return Answer(outcome, Status.EXECUTED if joined.leads else Status.ATTACHED)
            case Unprotected(outcome):
                return Answer(outcome, Status.UNPROTECTED)
            case Released(outcome):
                if joined.leads or begun:
                    return Answer(outcome, Status.EXECUTED if joined.leads else Status.ATTACHED)
                waited = True  # contend for a new claim
            case Waits():
                if begun:
                    return _not_stored()
                waited = True  # wait until it is due, or until another execution has run it
            case Found(_) if begun:
                return _not_stored()  # another run counts, and its messages may differ from those sent here
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
    """Returns the conclusion for a call whose key has an execution of another request in this process.

    Either of the two may be the one that reuses the key: the record decides.
    """
    try:
        # There may be a record of this call's request, which the execution has not met yet.
        record: Record | None = yield Get(call.name)
    except StoreUnavailable:
        return Refused(_store_unavailable("The handler did not run"))
    return Refused(_key_reused(call)) if record is None else Found(record)


def same_request(one: Fingerprint, other: Fingerprint) -> bool:
    """True if two requests count as the same (3.2): their bytes are equal, or else their canonical forms are."""
    return one.raw == other.raw or one.canonical == other.canonical


def _judge(call: Call, record: Record, waited: bool) -> Answer | Refusal | None:
    """Returns the answer to a call that finds this record, or its refusal; ``None`` if the operation has not ended."""
    if not same_request(record.fingerprint, call.fingerprint):
        return _key_reused(call)
    told: Answer | Refusal | None
    match record.state:
        case State.RUNNING | State.UNDOING | State.WAITING:
            told = None
        case State.HELD:
            told = _outcome_unknown(record.name, _public(record.reason))
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
        return Answer(record.outcome, Status.ATTACHED, record=record)
    return Answer(record.outcome, Status.REPLAYED, record.completed_at, record)


# One execution


def operate(call: Call, fence: bytes) -> Plan[Conclusion]:
    """Claims the operation, runs the handler, and settles the record.

    Args:
        call: The call that leads the execution.
        fence: The fence of the claim: 16 random bytes.

    Returns:
        The conclusion, for this call and for all that attached.
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
        trace=call.trace,
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
    """True if the record has lapsed and is of the same request (4.9).

    Another request must not run in its place: that call is told that it reuses a key.
    """
    return record.lapsed and same_request(record.fingerprint, call.fingerprint)


def _take_over(call: Call, claim: Claim, over: Record) -> Plan[Conclusion]:
    """Takes over a lapsed record and runs its handler, or finds the record that pre-empts that."""
    while True:
        if _is_in_doubt(over):
            if (yield from hold_lapsed(over)):
                return Found(replace(over, state=State.HELD, lapsed=False, reason=_OWNER_GONE))
            known = None  # its owner or another caller changed the record first
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
    told = Told.RUNS_AGAIN if known.state is State.WAITING else Told.TOOK_OVER
    yield Tell(told, attempt=known.attempts + 1)
    return (yield from _run_again(call, claim))


def _run_again(call: Call, claim: Claim) -> Plan[Conclusion]:
    """Runs the handler after a run that was cut short, or that failed in a way that may pass."""
    try:
        # Before the take-over the old owner may have changed the record again, for example to undoing.
        record: Record | None = yield Get(claim.name)
        steps: tuple[Step, ...] = tuple((yield LoadSteps(claim.name)))
    except StoreUnavailable:
        return Refused(_store_unavailable("The handler did not run"))  # another may try once the lease has run out
    if record is None or record.fence != claim.fence:
        return Found(record)
    ran: Ran = yield Execute(claim, record.attempts, steps, unwinds=record.failure is not None)
    if record.failure is None or ran.ended is CutShort.ABANDONED:
        return (yield from settle(call, claim, ran, record.failed_runs))
    return (yield from _unwind(call, claim, record.failure, record.failed_runs, record.failed_undos))


def _not_claimed(call: Call, claim: Claim, over: Record | None, error: StoreUnavailable) -> Plan[Conclusion]:
    """Concludes after a claim that the store did not answer. The claim may have landed."""
    if error.landed is not False:
        yield from _give_back(claim, over)
    return (yield from _without_claim(call))


def _give_back(claim: Claim, over: Record | None) -> Plan[None]:
    """Gives back a claim that may have landed, and whose handler did not run, so that no call waits for its lease.

    A record that was taken over is not released, since that would delete its finished steps (5.2): it becomes waiting,
    and due at once.
    """
    with suppress(StoreUnavailable):
        if over is None:
            yield Release(claim.name, claim.fence)
        else:
            yield Wait(claim.name, claim.fence, timedelta(0), over.failed_runs, over.failed_undos)


def _is_in_doubt(record: Record) -> bool:
    """True if a lapsed record is in doubt: its handler is opaque and was running, so it may have taken effect (4.5)."""
    return record.state in (State.RUNNING, State.UNDOING) and record.effects is Effects.OPAQUE


def hold_lapsed(record: Record) -> Plan[bool]:
    """Makes a lapsed record held, whose operation is in doubt (4.5).

    Returns:
        False if the record was changed first, or its lease has been renewed.
    """
    if not (yield Hold(record.name, record.fence, _OWNER_GONE, lapsed_only=True)):
        return False
    yield Tell(Told.HELD, _OWNER_GONE)
    return True


def release_lapsed(record: Record) -> Plan[bool]:
    """Releases a lapsed record whose operation has had no effect (5.4).

    If its owner is only slow, its transaction is refused by the fence (4.2). A step that the owner has finished in the
    meantime keeps the record.

    Returns:
        False if the record was changed first, its lease has been renewed, or it has a finished step.
    """
    if not (yield Release(record.name, record.fence, lapsed_only=True)):
        return False
    yield Tell(Told.RELEASED)
    return True


def fate(record: Record, policy: Policy) -> Fate:
    """Returns the fate of a lapsed record in recovery, if its method has this policy now (5.4).

    The effects are those of the record and not of the policy: its run had those.

    Args:
        record: A pending record. If it is transactional and has no request, it has no finished steps.
        policy: The policy of its method.
    """
    if _is_in_doubt(record):
        return Fate.HOLD
    if record.effects is Effects.TRANSACTIONAL and record.request is None:
        return Fate.RELEASE  # its transaction, if it had committed, would have completed the record
    return Fate.RUN if policy.recovers and record.request is not None else Fate.LEAVE


def needs_no_claim(effects: Effects, *, recovers: bool) -> bool:
    """True if the handler may run before anything is written of its operation (5.1, "One commit").

    Only a transaction that commits has any effect then, and recovery does not need the request.

    Args:
        effects: The effects of the method's handler.
        recovers: True if recovery finishes the method's operations.
    """
    return effects is Effects.TRANSACTIONAL and not recovers


def is_only_told(conclusion: Conclusion, *, claimed: bool) -> bool:
    """True if this conclusion of a handler that can't be stopped is told to the waiting calls and ends nothing (4.1).

    While the handler runs, no other run of the operation may begin in its process. If the operation is claimed, its
    record prevents that. Otherwise the execution does not conclude yet, and later calls wait for the handler's end.

    Args:
        conclusion: What :func:`settle` has concluded with for the abandoned handler.
        claimed: True if the operation is claimed.
    """
    return not claimed and isinstance(conclusion, Released)


def _without_claim(call: Call) -> Plan[Conclusion]:
    """Refuses the call because the store is down before the claim; or lets it through unprotected, by policy (5.5)."""
    if not call.policy.unprotected:
        return Refused(_store_unavailable("The handler did not run"))
    ran: Ran = yield Execute(None)
    ended = ran.ended
    return Unprotected(_CUT_SHORT if isinstance(ended, CutShort) else ended.outcome)


def settle(call: Call, claim: Claim, ran: Ran, failed_runs: int) -> Plan[Conclusion]:
    """Settles the record after the handler has ended (4.5, 4.6, 5.2).

    Args:
        call: The call that leads the execution.
        claim: The claim of this run.
        ran: How the run ended.
        failed_runs: How many runs had failed before this one.
    """
    opaque = claim.effects is Effects.OPAQUE
    if ran.unconfirmed and (stored := (yield from _confirmed(call, claim))) is not None:
        return stored
    match ran.ended:
        case Answered(outcome, True, at):
            return _executed(call, outcome, at)
        case Answered(outcome):
            if disposition(outcome.status, call.policy) is Disposition.STORE:
                return (yield from _end(call, claim, outcome, ran.steps, failed_runs))
            return (yield from _let_go(call, claim, outcome, ran.steps, failed_runs))
        case Raised(outcome):
            return (yield from (_end if opaque else _let_go)(call, claim, outcome, ran.steps, failed_runs))
        case RolledBack(outcome, own):
            if opaque and not own:  # it may have had other effects before
                return (yield from _end(call, claim, outcome, ran.steps, failed_runs))
            return (yield from _let_go(call, claim, _NOT_COMMITTED, ran.steps, failed_runs))
        case InDoubt(outcome, reason):
            if opaque:
                return (yield from _hold(call, claim, f"{_NOT_FOUND_OUT}: {reason}"))
            return (yield from _let_go(call, claim, _runs_again(outcome), ran.steps, failed_runs))
        case CutShort.CANCELLED | CutShort.OVERRAN | CutShort.ABANDONED:
            if opaque:
                return (yield from _hold(call, claim, ran.ended.value))
            if ran.ended is CutShort.ABANDONED:
                return Released(_CUT_SHORT)  # it still runs: another run may begin only when the lease has run out
            return (yield from _let_go(call, claim, _CUT_SHORT, ran.steps, failed_runs))
        case _:
            assert_never(ran.ended)


def _confirmed(call: Call, claim: Claim) -> Plan[Conclusion | None]:
    """Concludes if the record shows that the handler's own transaction has committed the outcome (5.6)."""
    try:
        record: Record | None = yield Get(claim.name)
    except StoreUnavailable:
        return None  # it may have committed all the same: then no other change of the record succeeds
    if record is None or record.fence != claim.fence or record.state is not State.COMPLETED:
        return None
    assert record.outcome is not None
    return _executed(call, record.outcome, record.completed_at)


def _settle_unclaimed(call: Call, claim: Claim, ran: Ran) -> Plan[Conclusion]:
    """Settles an operation that was not claimed: nothing is kept of it but what its transaction committed (5.1)."""
    match ran.ended:
        case Answered(outcome, True, at):
            return _executed(call, outcome, at)
        case Answered(outcome):
            if disposition(outcome.status, call.policy) is Disposition.STORE:
                # Without a claim there is no lease. The write is tried again for as long as one would last.
                yield BeginLease(claim.lease)
                return (yield from _store(call, claim, outcome, claimed=False))
        case CutShort.ABANDONED:
            return Released(_CUT_SHORT)  # its transaction may still commit, unless that of a later run commits first
        case Raised(outcome):
            pass
        case RolledBack():
            outcome = _NOT_COMMITTED
        case InDoubt(outcome):
            outcome = _runs_again(outcome)
        case CutShort.CANCELLED | CutShort.OVERRAN:
            outcome = _CUT_SHORT
        case _:
            assert_never(ran.ended)
    # Another process may have committed first, so that its transaction was refused; or the answer to its commit was
    # lost. The handler may have caught either error, so its own answer is no evidence.
    now = yield from _overtaken(call, claim)
    if not isinstance(now, Found):
        return now
    if _is_own_claim(claim, now.record):
        yield from _give_back(claim, None)
    elif now.record is not None:
        return now
    return Released(outcome)


def _is_own_claim(claim: Claim, record: Record | None) -> bool:
    """True if the record is this run's own claim.

    It was made for a step of an unclaimed run. The store did not answer it, but it landed (5.5).
    """
    return record is not None and record.state is State.RUNNING and record.fence == claim.fence


def _end(call: Call, claim: Claim, outcome: Outcome, steps: bool, failed_runs: int) -> Plan[Conclusion]:
    """Stores a final outcome. If it is a failure, the finished steps are undone first (5.2)."""
    if outcome.status is Code.OK or not steps:
        return (yield from _store(call, claim, outcome))
    # The messages of a stream are not kept for a later run, which must not replay the failure without them.
    failure = replace(outcome, message=None, retained=outcome.retained and not outcome.message)
    try:
        kept = yield from _insist(Undo(claim.name, claim.fence, failure))
    except Unstorable:
        stripped = yield from _stripped(outcome)
        if stripped is None:
            return Refused(_not_stored())
        return (yield from _end(call, claim, stripped, steps, failed_runs))
    match kept:
        case True:
            yield Tell(Told.GIVEN_UP)
            return (yield from _unwind(call, claim, outcome, failed_runs, 0))
        case False:
            return (yield from _overtaken(call, claim))
        case _Unheard.UNHEARD:
            return Refused(_not_stored())
        case _:
            assert_never(kept)


def _let_go(call: Call, claim: Claim, outcome: Outcome, steps: bool, failed_runs: int) -> Plan[Conclusion]:
    """Releases an operation whose failure may pass.

    With finished steps it waits for another run instead; after ``max_tries`` its steps are undone (5.2).
    """
    if not steps:
        return (yield from _release(call, claim, outcome))
    if failed_runs + 1 >= call.policy.max_tries:
        return (yield from _end(call, claim, _given_up(call, outcome, failed_runs + 1), steps, failed_runs))
    return (yield from _wait(call, claim, failed_runs + 1, 0))


def _wait(call: Call, claim: Claim, failed_runs: int, failed_undos: int) -> Plan[Conclusion]:
    """Makes the operation wait for its next run or its next undo, with a back-off (5.2)."""
    failed = failed_undos or failed_runs
    delay = min(call.policy.retry_delay * 2 ** min(failed - 1, _MOST_DOUBLINGS), _LONGEST_DELAY)
    kept = yield from _insist(Wait(claim.name, claim.fence, delay, failed_runs, failed_undos))
    match kept:
        case True:
            yield Tell(Told.WAITS)
            return Waits()
        case False:
            return (yield from _overtaken(call, claim))
        case _Unheard.UNHEARD:
            return Refused(_not_stored())
        case _:
            assert_never(kept)


def _unwind(call: Call, claim: Claim, failure: Outcome, failed_runs: int, failed_undos: int) -> Plan[Conclusion]:
    """Undoes the finished steps, then stores the failure.

    If an undo fails, the operation waits; after ``max_tries`` it is held (5.2).
    """
    try:
        trouble: str | None = yield Unwind()
    except FenceRefused:
        return (yield from _overtaken(call, claim))
    if trouble is None:
        return (yield from _store(call, claim, failure))
    if failed_undos + 1 >= call.policy.max_tries:
        return (yield from _hold(call, claim, trouble))
    return (yield from _wait(call, claim, failed_runs, failed_undos + 1))


def disposition(status: Code, policy: Policy) -> Disposition:
    """Returns the disposition of an answer with this status: it is stored, or the operation is released (4.6)."""
    override = policy.statuses.get(status)
    if override is not None:
        return override
    if status in _UNCLEAR:
        return Disposition.STORE if policy.effects is Effects.OPAQUE else Disposition.RELEASE
    return Disposition.RELEASE if status in _NOTHING_HAPPENED else Disposition.STORE


def retained(outcome: Outcome, policy: Policy) -> Outcome:
    """Returns the outcome as it is kept: without its message if that is larger than the policy allows (4.11)."""
    if outcome.message is not None and len(outcome.message) > policy.max_response_bytes:
        return replace(outcome, message=None, retained=False)
    return outcome


def _store(call: Call, claim: Claim, outcome: Outcome, *, claimed: bool = True) -> Plan[Conclusion]:
    """Stores the outcome: in the claimed record, or in a new record if the operation was not claimed."""
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
    """Returns the conclusion for a stored outcome.

    The time of storing is given only if the outcome is kept whole, so that it can be replayed as it is.
    """
    whole = retained(outcome, call.policy) is outcome and _is_whole(outcome)
    return Executed(outcome, at if whole else None)


def _stripped(outcome: Outcome) -> Plan[Outcome | None]:
    """Returns an outcome that a store can't keep, without details and trailers; ``None`` if it has neither."""
    if not (outcome.details or outcome.trailers):
        return None
    # The handler took effect, so an answer without these is better than none. No call gets them then.
    yield Tell(Told.STRIPPED)
    return replace(outcome, details="", trailers=())


def _release(call: Call, claim: Claim, outcome: Outcome) -> Plan[Conclusion]:
    released = yield from _insist(Release(claim.name, claim.fence))
    match released:
        case True:
            return Released(outcome)
        case False:
            now = yield from _overtaken(call, claim)
            # The record is gone: most likely this release landed, and only its answer was lost.
            return Released(outcome) if now == Found(None) else now
        case _Unheard.UNHEARD:
            return Unprotected(outcome) if call.policy.unprotected else Refused(_not_stored())
        case _:
            assert_never(released)


def _hold(call: Call, claim: Claim, cause: str) -> Plan[Conclusion]:
    if (yield from _insist(Hold(claim.name, claim.fence, cause))) is False:
        return (yield from _overtaken(call, claim))
    yield Tell(Told.HELD, cause)
    # If the store does not answer, the record will be held when its lease has run out.
    return Refused(_outcome_unknown(call.name, _public(cause)))


def _public(reason: str) -> str:
    """Returns the part of a held operation's reason that a client may read: not what its handler tells operators."""
    return _NOT_FOUND_OUT if reason.startswith(_NOT_FOUND_OUT) else reason


class _Unheard(enum.Enum):
    UNHEARD = "the store has not answered until the owner must be presumed dead"


def _insist(effect: Effect[T]) -> Plan[T | _Unheard]:
    """Tries a write again until it succeeds, or until the owner must be presumed dead (5.5).

    Returns:
        The reply of the store, or ``_Unheard.UNHEARD``.

    Raises:
        Unstorable: The store can't keep what it is given. Trying again would not help.
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
    """Concludes with the record as it is now, since the fence was refused (4.2)."""
    try:
        record: Record | None = yield Get(claim.name)
    except StoreUnavailable:
        return Refused(_not_stored())
    return _as_it_is(claim, record)


def _as_it_is(claim: Claim, record: Record | None) -> Conclusion:
    """Returns the conclusion of an execution whose own outcome does not count: the record decides."""
    if record is not None and record.fence == claim.fence and _is_whole(record.outcome):
        # This run's own transaction committed, and the answer was lost.
        return Executed(record.outcome, record.completed_at)
    return Found(record)


def _is_whole(outcome: Outcome | None) -> TypeGuard[Outcome]:
    """True if an outcome can be replayed: all of its messages are retained (4.7)."""
    if outcome is None or not outcome.retained:
        return False
    return outcome.message is not None or outcome.status is not Code.OK


# Beside an execution


def keep_lease(claim: Claim, every: timedelta) -> Plan[None]:
    """Renews the lease of a running operation until the lease is lost or the run has ended (4.9).

    The plan is started when the first renewal is due. A renewal that failed, that met a busy record, or that is not
    answered in time, is tried again at once and then after short pauses. If the lease runs out meanwhile, another run
    may have begun. The renewals go on all the same: if there was no take-over, the next one that succeeds makes the
    lease good again.

    Args:
        claim: The claim of the run, with its lease.
        every: The time between two renewals.
    """
    patience = (claim.lease - every).total_seconds() / 2
    pause, lapsed = 0.0, False
    while True:
        try:
            renewal: Renewal = yield Renew(claim.name, claim.fence, claim.lease, patience)
            record: Record | None = (yield Get(claim.name)) if renewal is Renewal.LOST else None
        except StoreUnavailable:
            renewal, record = Renewal.BUSY, None
        if renewal is Renewal.RENEWED:
            pause, lapsed = 0.0, False
            yield Pause(every.total_seconds())
            continue
        if renewal is Renewal.BUSY:
            if (yield LeaseHolds()):
                yield Pause(pause)
                pause = min(max(2 * pause, _FIRST_RETRY), patience / 4)
                continue
            if not lapsed:
                yield Tell(Told.LAPSED)
            lapsed = True
            yield Pause(every.total_seconds())
            continue
        if record is None or record.fence != claim.fence or record.state is State.HELD:
            yield LoseLease()
            yield Tell(Told.LOST)
        return  # otherwise the run has just ended by itself


def poll() -> Plan[None]:
    """Polls the store for all runs in other processes that calls of this process wait for, until no call waits (4.3).

    All waiting calls share this poll: one query in each round, however many they are. It is started by the first call
    that waits.
    """
    while True:
        yield Pause(_POLL)
        runs: Collection[AwaitedRun] = yield AwaitedRuns()
        if not runs:
            return
        try:
            standings: Mapping[bytes, Standing] = yield ReadStandings(frozenset(name for name, _ in runs))
        except StoreUnavailable:
            ended = runs  # the waiting calls try to claim next, and learn it from that
        else:
            ended = [run for run in runs if _has_ended(run, standings)]
        if ended:
            yield EndWaits(ended)


def _has_ended(run: AwaitedRun, standings: Mapping[bytes, Standing]) -> bool:
    """True if the run does not own its operation any more, or if another claim may take the operation over."""
    name, fence = run
    standing = standings.get(name)
    if standing is None or standing.fence != fence or standing.lapsed:
        return True
    return standing.state in (State.COMPLETED, State.HELD)


_UNCLEAR: Final = frozenset({Code.UNKNOWN, Code.INTERNAL, Code.DEADLINE_EXCEEDED, Code.CANCELLED})
"""Statuses that do not tell whether the handler took effect (4.5)."""
_NOTHING_HAPPENED: Final = frozenset(
    {
        Code.UNAVAILABLE,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
    }
)
"""Statuses by which a handler asserts that it had no effect (4.6). All others are stored."""

_TOO_LARGE: Final = "It succeeded, but its response was larger than may be kept"
_MESSAGES_LOST: Final = "It failed, and the messages that it may have sent before are not kept"
_NOT_GIVEN: Final = "It succeeded, but an operator resolved it without giving its response"
_NOT_FOUND_OUT: Final = "its handler could not find out"
_OWNER_GONE: Final = "its server stopped, or was cut off from the store, while the handler ran"
_CUT_SHORT: Final = Outcome(
    status=Code.UNAVAILABLE,
    details="The handler was stopped before its end, and nothing of it was kept. Retry with the same key.",
)
_NOT_COMMITTED: Final = Outcome(
    status=Code.UNAVAILABLE,
    details="The handler's transaction could not be committed, and nothing of it was kept. Retry with the same key.",
)
_RUNS_AGAIN: Final = Outcome(
    status=Code.UNAVAILABLE,
    details="The handler could not find out whether it took effect, and may run again. Retry with the same key.",
)

_LONGEST_DELAY: Final = timedelta(minutes=1)
_MOST_DOUBLINGS: Final = 16
_FIRST_RETRY, _LAST_RETRY = 0.05, 2.0  # seconds
_POLL: Final = 0.05  # seconds
_COME_BACK: Final = timedelta(seconds=1)


def _given_up(call: Call, outcome: Outcome, failed_runs: int) -> Outcome:
    """Returns the failure to store after the last try. Its status is one that does not ask the client to retry."""
    details = f"The operation failed {failed_runs} times and was given up; the steps it had finished are undone"
    retained = outcome.retained and not (call.streams and outcome.message is None)
    return replace(outcome, status=Code.ABORTED, details=f"{details}: {outcome.details}", retained=retained)


def _runs_again(raised: Outcome) -> Outcome:
    """Returns the answer of a handler in doubt that may run again. The messages of a stream may have been sent."""
    return replace(_RUNS_AGAIN, message=raised.message, retained=raised.retained)


def _store_unavailable(effect: str) -> Refusal:
    return Refusal(reason=Reason.STORE_UNAVAILABLE, variables={"effect": effect}, retry_after=_COME_BACK)


def _not_stored() -> Refusal:
    return _store_unavailable("The handler ran, but what became of it could not be stored")


def no_room() -> Conclusion:
    """Returns the conclusion of an execution that could not begin, since no thread could be started for it."""
    return Refused(_no_room())


def _no_room() -> Refusal:
    return _store_unavailable("This server takes on no further operation; the handler did not run")


def shut_down() -> Conclusion:
    """Returns the conclusion of an execution that its server could not finish (4.4). 4.5 decides about its record."""
    return Refused(_store_unavailable("This server stopped before the operation was over"))


def _key_reused(call: Call) -> Refusal:
    return Refusal(reason=Reason.KEY_REUSED, variables={"method": call.method})


def _not_retained(outcome: Outcome | None, completed_at: datetime, resolved: bool) -> Refusal:
    """Returns the refusal of a completed operation whose answer can't be replayed. It tells how the operation ended."""
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
