"""Operations with finished steps: they wait, run again and are undone (5.2)."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Answered,
    Complete,
    CutShort,
    Effect,
    Ended,
    Execute,
    Executed,
    Follow,
    Followed,
    Found,
    Get,
    Hold,
    InDoubt,
    Join,
    LeaseHolds,
    LoadSteps,
    Pause,
    Raised,
    Ran,
    Released,
    RolledBack,
    Told,
    TryClaim,
    Undo,
    Unwind,
    Wait,
    Waits,
    Watch,
)
from grpc_idempotency._protocol.refusals import Reason
from grpc_idempotency.errors import FenceRefused, Unstorable
from grpc_idempotency.records import Code, Effects, Outcome, State, Step

from .hand import CALL, DOWN, LOST, NOON, OK, Hand, begun, call, claim, concluded, joined, reason_of, record

FAILURE = Outcome(status=Code.FAILED_PRECONDITION, details="no credit")
PASSING = Outcome(status=Code.UNAVAILABLE, details="later")
STEP = Step(name="charge", position=0, result=b"jnull", undoable=True)


def stepping(ended: Ended, *, failed_runs: int = 0, effects: Effects = Effects.REPEATABLE, **policy: Any) -> Hand:
    """A handler that has ended after it had finished a step."""
    plan = protocol.settle(call(effects=effects, **policy), claim(effects), Ran(ended, steps=True), failed_runs)
    return Hand(plan)


def test_success_after_steps_is_stored_like_any_other() -> None:
    """Nothing is undone (5.2)."""
    hand = stepping(Answered(OK))
    hand.reply(Complete, NOON)
    assert hand.result == Executed(OK)


def test_an_operation_that_fails_for_good_is_undone_first() -> None:
    """That it has failed is kept, then its steps are undone, and only then the failure is stored (5.2)."""
    hand = stepping(Answered(FAILURE))
    assert hand.asked(Undo) == Undo(b"name", b"mine", FAILURE)
    hand.reply(Undo, True)
    assert hand.told == [Told.GIVEN_UP]
    hand.reply(Unwind, None)
    assert hand.asked(Complete).outcome == FAILURE
    hand.reply(Complete, NOON)
    assert hand.result == Executed(FAILURE)


def test_a_stream_that_fails_after_steps_keeps_its_messages() -> None:
    """They are stored with its failure; a later run, which has none, must not replay it without them (4.7, 5.2)."""
    failed = replace(FAILURE, message=b"part of a stream")
    hand = stepping(Answered(failed))
    assert hand.asked(Undo).failure == replace(FAILURE, retained=False)
    hand.reply(Undo, True)
    hand.reply(Unwind, None)
    assert hand.asked(Complete).outcome == failed
    hand.reply(Complete, NOON)
    assert hand.result == Executed(failed)


@pytest.mark.parametrize("message", [None, b"", b"part of a stream"])
def test_a_stream_that_is_given_up_keeps_its_messages(message: bytes | None) -> None:
    """Where they are not known, it is not replayed as if there had been none (4.7, 5.2)."""
    plan = protocol.settle(
        replace(call(effects=Effects.REPEATABLE, max_tries=1), streams=True),
        claim(Effects.REPEATABLE),
        Ran(Raised(replace(PASSING, message=message)), steps=True),
        0,
    )
    hand = Hand(plan)
    hand.reply(Undo, True)
    hand.reply(Unwind, None)
    outcome = hand.asked(Complete).outcome
    assert (outcome.status, outcome.message, outcome.retained) == (Code.ABORTED, message, message is not None)


def test_nothing_is_undone_whose_failure_could_not_be_kept() -> None:
    """A zombie, or one whose store is gone, leaves it to the next run (4.2, 5.2)."""
    hand = stepping(Answered(FAILURE))
    hand.reply(Undo, False)
    theirs = record(fence=b"theirs")
    hand.reply(Get, theirs)
    assert hand.result == Found(theirs)
    hand = stepping(Answered(FAILURE))
    hand.fail(Undo, DOWN)
    hand.reply(LeaseHolds, False)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


def test_a_failure_whose_keeping_was_answered_late() -> None:
    """It is asked for again, and the undoing goes on (5.5)."""
    hand = stepping(Answered(FAILURE))
    hand.fail(Undo, LOST)
    hand.reply(LeaseHolds, True)
    hand.reply(Pause, None)
    assert hand.asked(Undo).failure == FAILURE
    hand.reply(Undo, True)
    hand.asked(Unwind)


def test_a_failure_that_a_store_can_not_keep_is_kept_without_its_text() -> None:
    """Its steps are undone all the same, and what is stored then is what was kept (5.2, 5.5)."""
    hand = stepping(Answered(FAILURE))
    hand.fail(Undo, Unstorable("not in this table"))
    assert hand.told == [Told.STRIPPED]
    bare = replace(FAILURE, details="")
    assert hand.asked(Undo).failure == bare
    hand.reply(Undo, True)
    hand.reply(Unwind, None)
    hand.reply(Complete, NOON)
    assert hand.result == Executed(bare)
    hand = stepping(Answered(bare))
    hand.fail(Undo, Unstorable("not in this table"))
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


@pytest.mark.parametrize(
    "ended", [Answered(PASSING), Raised(FAILURE), RolledBack(FAILURE), InDoubt(FAILURE, "no answer"), CutShort.OVERRAN]
)
def test_an_operation_with_finished_steps_waits_and_is_never_released(ended: Ended) -> None:
    """What may pass makes it run again, with its steps kept (4.6, 5.2)."""
    hand = stepping(ended)
    assert hand.asked(Wait) == Wait(b"name", b"mine", timedelta(seconds=1), 1, 0)
    hand.reply(Wait, True)
    assert hand.told == [Told.WAITS]
    assert hand.result == Waits()


def test_the_wait_grows_up_to_a_minute() -> None:
    """Twice as long before each further run (5.2)."""
    delays = [
        stepping(Answered(PASSING), failed_runs=failed_runs, max_tries=99).asked(Wait).delay
        for failed_runs in range(50)
    ]
    assert [delay.total_seconds() for delay in delays[:7]] == [1, 2, 4, 8, 16, 32, 60]
    assert delays[-1] == timedelta(minutes=1)


def test_a_wait_that_can_not_be_kept() -> None:
    """Another owner's record is the truth (4.2); where the store is gone, the lease's end lets another run (5.5)."""
    hand = stepping(Answered(PASSING))
    hand.reply(Wait, False)
    hand.reply(Get, None)
    assert hand.result == Found(None)
    hand = stepping(Answered(PASSING))
    hand.fail(Wait, DOWN)
    hand.reply(LeaseHolds, False)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


def test_what_does_not_pass_is_given_up() -> None:
    """After N tries it is undone, and the failure that is stored no longer says "retry" (5.2)."""
    hand = stepping(Answered(PASSING), failed_runs=4)
    hand.reply(Undo, True)
    hand.reply(Unwind, None)
    given_up = hand.asked(Complete).outcome
    assert given_up.status is Code.ABORTED
    assert given_up.details.endswith("later")
    assert "5 times" in given_up.details


def test_an_exception_of_an_opaque_handler_with_steps_is_final() -> None:
    """It is stored, as without steps, and what it had finished is undone before (4.5, 5.2)."""
    hand = stepping(Raised(FAILURE), effects=Effects.OPAQUE)
    hand.reply(Undo, True)
    hand.reply(Unwind, None)
    hand.reply(Complete, NOON)
    assert hand.result == Executed(FAILURE)


def test_a_waiting_call_looks_out_for_the_next_run() -> None:
    """Whoever waited for an operation that now waits itself goes on waiting, its leader too (4.3, 5.2)."""
    for leads in (True, False):
        hand = concluded(Waits(), leads=leads)
        hand.reply(Join, joined(leads=True))
        hand.reply(Follow, Followed(Found(record(State.WAITING))))
        assert hand.asked(Watch).fence == b"theirs"
    assert reason_of(begun(Waits(), leads=True)) is Reason.STORE_UNAVAILABLE


def running_again(*, steps: list[Step], state: State = State.WAITING, **said: Any) -> Hand:
    """An execution that has claimed an operation which is due to run again; what was ``said`` is in its record."""
    hand = Hand(protocol.operate(call(effects=Effects.REPEATABLE), b"mine"))
    hand.reply(TryClaim, record(state, lapsed=True, effects=Effects.REPEATABLE, **said))
    hand.reply(TryClaim, None)
    hand.reply(Get, record(fence=b"mine", effects=Effects.REPEATABLE, attempts=4, **said))
    hand.reply(LoadSteps, steps)
    return hand


def test_a_later_run_gets_the_steps_of_the_earlier_ones() -> None:
    """And goes on counting the tries (5.2)."""
    hand = running_again(steps=[STEP], failed_runs=2)
    assert hand.told == [Told.RUNS_AGAIN]
    execute = hand.asked(Execute)
    assert (execute.steps, execute.attempt, execute.unwinds) == ((STEP,), 4, False)
    hand.reply(Execute, Ran(Answered(PASSING), steps=True))
    assert hand.asked(Wait).failed_runs == 3


def taken_over() -> Hand:
    """An execution that has just taken over an operation whose server is gone."""
    hand = Hand(protocol.operate(call(effects=Effects.REPEATABLE), b"mine"))
    hand.reply(TryClaim, record(lapsed=True, effects=Effects.REPEATABLE))
    hand.reply(TryClaim, None)
    return hand


def test_what_failed_for_good_in_the_last_moment_is_undone() -> None:
    """Between the look at a lapsed record and its take-over its slow owner may have given it up (4.2, 5.2)."""
    hand = taken_over()
    hand.reply(Get, record(State.UNDOING, fence=b"mine", attempts=2, failure=FAILURE))
    hand.reply(LoadSteps, [STEP])
    assert hand.asked(Execute).unwinds


def test_a_take_over_that_was_taken_over_does_not_begin() -> None:
    """Another caller was quicker than this one, which was held up on its way (4.1)."""
    for now in (None, record(fence=b"another")):
        hand = taken_over()
        hand.reply(Get, now)
        hand.reply(LoadSteps, [])
        assert hand.result == Found(now)


@pytest.mark.parametrize("what", [Get, LoadSteps])
def test_a_run_whose_steps_can_not_be_read_does_not_begin(what: type[Effect[Any]]) -> None:
    """It would run them again (5.2)."""
    hand = taken_over()
    if what is LoadSteps:
        hand.reply(Get, record(fence=b"mine"))
    hand.fail(what, DOWN)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


def test_an_opaque_operation_that_waits_runs_again() -> None:
    """It waits because its steps may be repeated, whatever its effects (5.2)."""
    hand = Hand(protocol.operate(CALL, b"mine"))
    hand.reply(TryClaim, record(State.WAITING, lapsed=True))
    assert hand.asked(TryClaim).over == b"theirs"


def unwinding(**said: Any) -> Hand:
    """An execution of an operation that failed for good and was not undone yet."""
    hand = running_again(steps=[STEP], failure=FAILURE, **said)
    assert hand.asked(Execute).unwinds
    return hand


def test_a_failed_operation_is_undone_by_whoever_runs_it_next() -> None:
    """However its handler ends now: the failure that was kept counts (5.2)."""
    hand = unwinding(failed_runs=1)
    hand.reply(Execute, Ran(Answered(OK), steps=True))
    hand.reply(Unwind, None)
    assert hand.asked(Complete).outcome == FAILURE


def test_an_undo_that_fails_is_tried_again_and_then_held() -> None:
    """Only an undo that fails N times makes it held; the tries before do not count, nor do they slow it (5.2)."""
    hand = unwinding(failed_runs=4)
    hand.reply(Execute, Ran(Raised(FAILURE), steps=True))
    hand.reply(Unwind, "an undo failed")
    assert hand.asked(Wait) == Wait(b"name", b"mine", timedelta(seconds=1), 4, 1)
    hand = unwinding(failed_runs=4, failed_undos=4)
    hand.reply(Execute, Ran(Raised(FAILURE), steps=True))
    hand.reply(Unwind, "an undo failed")
    assert hand.asked(Hold).reason == "an undo failed"


def test_a_zombie_undoes_nothing_more() -> None:
    """Its fence is refused in the middle (4.2)."""
    hand = unwinding()
    hand.reply(Execute, Ran(CutShort.CANCELLED, steps=True))
    hand.fail(Unwind, FenceRefused("not ours"))
    hand.reply(Get, None)
    assert hand.result == Found(None)


def test_a_handler_that_can_not_be_stopped_is_not_undone_beside() -> None:
    """It may still be at its steps (4.1)."""
    hand = unwinding()
    hand.reply(Execute, Ran(CutShort.ABANDONED, steps=True))
    assert hand.result == Released(protocol._CUT_SHORT)
