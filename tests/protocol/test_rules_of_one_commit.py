"""Operations without a claim: the commit of their transaction writes their record (5.1, "One commit")."""

from dataclasses import replace
from typing import Any

import pytest

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Answered,
    BeginLease,
    Complete,
    CompleteUnclaimed,
    CutShort,
    Ended,
    Execute,
    Executed,
    Found,
    Get,
    Hold,
    InDoubt,
    LeaseHolds,
    LoadSteps,
    Pause,
    Raised,
    Ran,
    Refused,
    Release,
    Released,
    RolledBack,
    Told,
    TryClaim,
    Unprotected,
    Wait,
    Waits,
)
from grpc_idempotency._protocol.refusals import Reason
from grpc_idempotency.errors import Unstorable
from grpc_idempotency.records import Code, Effects, Outcome, Record, State

from .hand import ANOTHER, CALL, DOWN, LOST, NOON, OK, Hand, call, claim, reason_of, record

CLAIM = claim(Effects.TRANSACTIONAL)
UNKNOWN = Outcome(status=Code.UNKNOWN, details="internal error")
BUSY = Outcome(status=Code.UNAVAILABLE, details="later")
DENIED = Outcome(status=Code.PERMISSION_DENIED, details="not yours")
REFUSED = Outcome(status=Code.INVALID_ARGUMENT, details="no such currency")


def looking(**policy: Any) -> Hand:
    """An execution that looks whether there is a record."""
    unclaimed = replace(call(effects=Effects.TRANSACTIONAL, **policy), unclaimed=True)
    hand = Hand(protocol.operate(unclaimed, b"mine"))
    assert hand.asked(Get).name == b"name"
    return hand


def running(ended: Ended, *, steps: bool = False, claimed: bool = False, **policy: Any) -> Hand:
    """An execution without a claim, whose handler has ended so."""
    hand = looking(**policy)
    hand.reply(Get, None)
    hand.reply(Execute, Ran(ended, steps=steps, claimed=claimed))
    return hand


def storing(outcome: Outcome, **policy: Any) -> Hand:
    """It has answered without a transaction, and its outcome is about to be stored."""
    hand = running(Answered(outcome), **policy)
    assert hand.asked(BeginLease).lease == CLAIM.lease  # the store is asked no longer than if there were a claim
    hand.reply(BeginLease, None)
    return hand


def standing(state: State = State.COMPLETED, **said: Any) -> Record:
    return record(state, effects=Effects.TRANSACTIONAL, **said)


# Before the handler


def test_one_look_and_one_commit() -> None:
    """The handler runs after one read; what its transaction has committed is not written again (5.1)."""
    hand = looking()
    hand.reply(Get, None)
    execute = hand.asked(Execute)
    assert (execute.claim, execute.claimed, execute.attempt, execute.steps) == (CLAIM, False, 1, ())
    hand.reply(Execute, Ran(Answered(OK, committed=True, at=NOON), claimed=False))
    assert (hand.result, hand.result.at) == (Executed(OK), NOON)


def test_the_claim_tells_all_that_the_record_will_say() -> None:
    """Its transaction writes the record with it (5.1, 6.1)."""
    asked = replace(call(effects=Effects.TRANSACTIONAL), unclaimed=True, streams=True, owner="host:1")
    hand = Hand(protocol.operate(asked, b"mine"))
    hand.reply(Get, None)
    assert hand.asked(Execute).claim == replace(CLAIM, streams=True, owner="host:1")


@pytest.mark.parametrize(
    "found",
    [
        standing(),
        standing(fingerprint=ANOTHER),
        standing(State.RUNNING),
        standing(State.WAITING),
        standing(State.UNDOING),
        standing(State.HELD),
        standing(State.RUNNING, lapsed=True, fingerprint=ANOTHER),
    ],
    ids=["completed", "reused", "running", "waiting", "undoing", "held", "another request's, lapsed"],
)
def test_a_record_in_the_way_is_found_before_the_handler_runs(found: Record) -> None:
    """The handler does not run, and nothing is written (4.1, 5.1)."""
    hand = looking()
    hand.reply(Get, found)
    assert hand.result == Found(found)


@pytest.mark.parametrize("state", [State.RUNNING, State.WAITING, State.UNDOING])
def test_what_was_claimed_and_has_lapsed_is_taken_over_by_a_claim(state: State) -> None:
    """It was claimed for its steps, or under another policy: the next run has a claim and its steps (4.9, 5.2)."""
    hand = looking()
    hand.reply(Get, standing(state, lapsed=True, attempts=2))
    assert (hand.asked(TryClaim).claim, hand.asked(TryClaim).over) == (CLAIM, b"theirs")
    hand.reply(TryClaim, None)
    assert hand.told == [Told.RUNS_AGAIN if state is State.WAITING else Told.TOOK_OVER]
    hand.reply(Get, standing(State.RUNNING, fence=b"mine", attempts=3))
    hand.reply(LoadSteps, ())
    execute = hand.asked(Execute)
    assert (execute.claimed, execute.attempt) == (True, 3)
    hand.reply(Execute, Ran(Answered(REFUSED)))
    assert hand.asked(Complete).outcome == REFUSED


def test_a_take_over_can_be_lost() -> None:
    """To another caller that was quicker (4.9)."""
    hand = looking()
    hand.reply(Get, standing(State.RUNNING, lapsed=True))
    hand.reply(TryClaim, standing())
    assert hand.result == Found(standing())


def test_a_take_over_without_an_answer_is_given_back() -> None:
    """With the counts that were found (5.5)."""
    hand = looking()
    hand.reply(Get, standing(State.WAITING, lapsed=True, failed_runs=2))
    hand.fail(TryClaim, LOST)
    assert hand.asked(Wait).failed_runs == 2
    hand.reply(Wait, True)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


@pytest.mark.parametrize("held", [True, False])
def test_what_is_in_doubt_is_held(held: bool) -> None:
    """A record of a time when the method was opaque; where somebody was quicker, a claim decides (4.5)."""
    hand = looking()
    doubtful = record(lapsed=True)
    hand.reply(Get, doubtful)
    hand.reply(Hold, held)
    if held:
        assert isinstance(hand.result, Found)
        assert hand.result.record is not None
        assert hand.result.record.state is State.HELD
        return
    assert hand.asked(TryClaim).over is None
    hand.reply(TryClaim, None)
    assert hand.asked(Execute) == Execute(CLAIM)
    hand.reply(Execute, Ran(Answered(OK, committed=True)))
    assert hand.result == Executed(OK)


def test_without_the_look_nothing_runs() -> None:
    """STORE_UNAVAILABLE, and the handler did not run; or by policy it runs unprotected (2.3, 5.5)."""
    hand = looking()
    hand.fail(Get, DOWN)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE
    assert "did not run" in hand.result.refusal.message
    hand = looking(unprotected=True)
    hand.fail(Get, DOWN)
    assert hand.asked(Execute) == Execute(None)
    hand.reply(Execute, Ran(Answered(OK)))
    assert hand.result == Unprotected(OK)


# The handler has answered without a transaction


@pytest.mark.parametrize("outcome", [OK, REFUSED])
def test_what_is_answered_without_a_transaction_is_stored_in_a_write_of_its_own(outcome: Outcome) -> None:
    """Claim and outcome at once (5.1)."""
    hand = storing(outcome)
    assert hand.asked(CompleteUnclaimed) == CompleteUnclaimed(CLAIM, outcome, CALL.policy.ttl)
    hand.reply(CompleteUnclaimed, NOON)
    assert (hand.result, hand.result.at) == (Executed(outcome), NOON)


@pytest.mark.parametrize("found", [standing(), standing(fingerprint=ANOTHER), standing(State.RUNNING)])
def test_an_answer_that_another_run_has_forestalled_does_not_count(found: Record) -> None:
    """What is stored is the truth, as for a zombie (4.2, 5.1)."""
    hand = storing(REFUSED)
    hand.reply(CompleteUnclaimed, found)
    assert hand.result == Found(found)


def test_an_answer_after_a_commit_whose_answer_was_lost_does_not_count() -> None:
    """The handler has caught the error of its transaction, and answered a failure; what it has committed counts."""
    hand = storing(REFUSED)
    hand.reply(CompleteUnclaimed, standing(fence=b"mine"))
    assert hand.result == Executed(OK)


def test_a_response_that_is_too_large_is_sent_but_not_kept() -> None:
    """As for a claimed operation (4.8, 4.11)."""
    hand = storing(OK, max_response_bytes=4)
    assert hand.asked(CompleteUnclaimed).outcome == replace(OK, message=None, retained=False)
    hand.reply(CompleteUnclaimed, NOON)
    assert (hand.result, hand.result.at) == (Executed(OK), None)


def test_what_the_store_can_not_keep_is_left_out() -> None:
    """It is stored without a claim all the same, or not at all (4.7, 5.5)."""
    odd = replace(REFUSED, details="\ud800")
    hand = storing(odd)
    hand.fail(CompleteUnclaimed, Unstorable("no"))
    bare = replace(odd, details="")
    assert (hand.told, hand.asked(CompleteUnclaimed).outcome) == ([Told.STRIPPED], bare)
    hand.fail(CompleteUnclaimed, Unstorable("no"))
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


def test_the_write_is_tried_again_and_not_for_ever() -> None:
    """As long as a lease would last; what is not stored is not told, or told as unprotected (5.5)."""
    for policy, told in (({}, Refused), ({"unprotected": True}, Unprotected)):
        hand = storing(REFUSED, **policy)
        hand.fail(CompleteUnclaimed, LOST)
        hand.reply(LeaseHolds, True)
        hand.reply(Pause, None)
        hand.fail(CompleteUnclaimed, DOWN)
        hand.reply(LeaseHolds, False)
        assert type(hand.result) is told


# It has failed, or its transaction has

RELEASED: list[tuple[Ended, Outcome]] = [
    (Answered(BUSY), BUSY),
    (Answered(DENIED), DENIED),
    (Raised(UNKNOWN), UNKNOWN),
    (InDoubt(UNKNOWN, "no answer"), protocol._RUNS_AGAIN),
    (RolledBack(UNKNOWN), protocol._NOT_COMMITTED),
    (RolledBack(UNKNOWN, own=False), protocol._NOT_COMMITTED),
    (CutShort.CANCELLED, protocol._CUT_SHORT),
    (CutShort.OVERRAN, protocol._CUT_SHORT),
]


@pytest.mark.parametrize(("ended", "told"), RELEASED)
def test_a_failure_is_told_once_it_is_known_that_nothing_was_committed(ended: Ended, told: Outcome) -> None:
    """There is nothing to release, so nothing is written (4.5, 4.6, 5.1)."""
    hand = running(ended)
    hand.reply(Get, None)
    assert hand.result == Released(told)


@pytest.mark.parametrize(("ended", "told"), RELEASED)
def test_a_failure_is_not_told_where_its_commit_has_an_answer_that_was_lost(ended: Ended, told: Outcome) -> None:
    """Whatever the handler has made of the error (5.1)."""
    assert told != OK
    hand = running(ended)
    hand.reply(Get, standing(fence=b"mine", completed_at=NOON))
    assert (hand.result, hand.result.at) == (Executed(OK), NOON)


@pytest.mark.parametrize("found", [standing(), standing(fingerprint=ANOTHER), standing(State.RUNNING)])
@pytest.mark.parametrize(("ended", "told"), RELEASED)
def test_a_failure_is_not_told_where_another_run_has_a_record(ended: Ended, told: Outcome, found: Record) -> None:
    """The commit was refused since another process was quicker: its reply is the first one (4.3, 5.1)."""
    assert told != found.outcome
    hand = running(ended)
    hand.reply(Get, found)
    assert hand.result == Found(found)


@pytest.mark.parametrize(("ended", "told"), RELEASED)
def test_a_failure_is_not_told_where_nobody_can_look(ended: Ended, told: Outcome) -> None:
    """It may be that its transaction has committed (5.1, 5.5)."""
    hand = running(ended)
    hand.fail(Get, DOWN)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE
    assert told.details not in hand.result.refusal.message


def test_who_waits_for_a_handler_that_can_not_be_stopped_is_told_at_once() -> None:
    """It still runs, and may commit yet: nothing is asked, and nothing written (4.1, 5.1)."""
    assert running(CutShort.ABANDONED).result == Released(protocol._CUT_SHORT)


# It has come to a step


def test_what_came_to_a_step_is_claimed_and_settled_as_such() -> None:
    """With steps it waits, without it is released, and its outcome completes the record of its claim (5.1, 5.2)."""
    hand = running(Answered(REFUSED), claimed=True)
    assert hand.asked(Complete) == Complete(b"name", b"mine", REFUSED, CALL.policy.ttl)
    hand = running(Raised(UNKNOWN), claimed=True)
    assert hand.asked(Release) == Release(b"name", b"mine")
    hand = running(Raised(UNKNOWN), steps=True, claimed=True)
    assert (hand.asked(Wait).name, hand.asked(Wait).failed_runs) == (b"name", 1)
    hand.reply(Wait, True)
    assert hand.result == Waits()


def test_what_committed_after_a_step_is_not_stored_again() -> None:
    """Its transaction has completed the record that it was claimed with (5.1, 5.2)."""
    hand = running(Answered(OK, committed=True, at=NOON), steps=True, claimed=True)
    assert hand.result == Executed(OK)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("ended", "told"), RELEASED)
def test_a_claim_for_a_step_that_was_not_answered_is_given_back(ended: Ended, told: Outcome, fails: bool) -> None:
    """Its step was not begun, and nobody should have to wait for its lease (5.5)."""
    hand = running(ended)
    hand.reply(Get, standing(State.RUNNING, fence=b"mine"))
    assert hand.asked(Release) == Release(b"name", b"mine")
    if fails:
        hand.fail(Release, DOWN)
    else:
        hand.reply(Release, True)
    assert hand.result == Released(told)


def test_a_claim_for_a_step_that_was_not_answered_is_completed() -> None:
    """Where the handler has caught the error and answered otherwise (5.5)."""
    hand = storing(REFUSED)
    hand.reply(CompleteUnclaimed, standing(State.RUNNING, fence=b"mine"))
    assert hand.asked(Complete) == Complete(b"name", b"mine", REFUSED, CALL.policy.ttl)
    hand.reply(Complete, NOON)
    assert hand.result == Executed(REFUSED)


@pytest.mark.parametrize("effects", Effects)
def test_who_needs_no_claim(effects: Effects) -> None:
    """Transactional operations that recovery does not finish, and no others (5.1)."""
    assert protocol.needs_no_claim(effects, recovers=False) == (effects is Effects.TRANSACTIONAL)
    assert not protocol.needs_no_claim(effects, recovers=True)


def test_what_is_only_told_of_a_handler_that_can_not_be_stopped() -> None:
    """Only that it was released, and only without a claim: any other conclusion has a record behind it (4.1)."""
    assert protocol.is_only_told(Released(BUSY), claimed=False)
    assert not protocol.is_only_told(Released(BUSY), claimed=True)
    assert not protocol.is_only_told(Executed(OK), claimed=False)
