"""How an execution ends: stored, released, held; as a zombie; with a store that fails (4.2, 4.5, 4.6, 5.1, 5.5)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Answered,
    Complete,
    CutShort,
    Effect,
    Executed,
    Found,
    Get,
    Hold,
    InDoubt,
    LeaseHolds,
    Pause,
    Raised,
    Refused,
    Release,
    Released,
    RolledBack,
    Told,
    Unprotected,
)
from grpc_idempotency._protocol.refusals import Reason
from grpc_idempotency.errors import Unstorable
from grpc_idempotency.policy import Policy
from grpc_idempotency.records import Code, Effects, Outcome, Record, State

from .hand import (
    DOWN,
    LOST,
    NOON,
    OK,
    Hand,
    concluded,
    reason_of,
    record,
    settling,
)


def test_what_its_transaction_stored_is_not_stored_again() -> None:
    """Rows and outcome have committed together (5.1)."""
    assert settling(Answered(OK, committed=True), Effects.TRANSACTIONAL).result == Executed(OK)


def test_an_answer_that_says_nothing_happened_is_released() -> None:
    """A retry runs (4.6)."""
    busy = Outcome(status=Code.UNAVAILABLE)
    hand = settling(Answered(busy))
    hand.reply(Release, True)
    assert hand.result == Released(busy)


def test_an_exception_of_an_opaque_handler_is_stored() -> None:
    """Nobody knows what it did before it raised (4.5)."""
    raised = Outcome(status=Code.UNKNOWN, details="internal error")
    hand = settling(Raised(raised))
    assert hand.asked(Complete).outcome == raised
    hand.reply(Complete, NOON)
    assert hand.result == Executed(raised)


@pytest.mark.parametrize("effects", [Effects.TRANSACTIONAL, Effects.REPEATABLE])
def test_an_exception_of_a_handler_that_may_run_again_is_released(effects: Effects) -> None:
    """Rolled back, or harmless to repeat (4.5)."""
    raised = Outcome(status=Code.UNKNOWN, details="internal error")
    hand = settling(Raised(raised), effects)
    hand.reply(Release, True)
    assert hand.result == Released(raised)


@pytest.mark.parametrize("effects", Effects)
def test_a_commit_that_failed_is_answered_unavailable(effects: Effects) -> None:
    """Rolled back, and a retry runs it again (5.1)."""
    hand = settling(RolledBack(Outcome(status=Code.UNKNOWN)), effects)
    hand.reply(Release, True)
    assert hand.result.outcome.status is Code.UNAVAILABLE


def test_an_opaque_handler_that_the_store_failed_elsewhere_may_have_done_more() -> None:
    """Not its own transaction, but a read or another store: that is an exception as any other (4.5)."""
    failed = Outcome(status=Code.UNKNOWN)
    hand = settling(RolledBack(failed, own=False))
    hand.reply(Complete, NOON)
    assert hand.result == Executed(failed)


@pytest.mark.parametrize("effects", Effects)
def test_a_commit_whose_answer_was_lost_counts(effects: Effects) -> None:
    """It is looked up by its fence, whatever the handler made of the error (5.1)."""
    hand = settling(RolledBack(Outcome(status=Code.UNKNOWN)), effects)
    hand.reply(Release, False)
    hand.reply(Get, record(State.COMPLETED, fence=b"mine"))
    assert hand.result == Executed(OK)


@pytest.mark.parametrize("effects", Effects)
def test_a_commit_that_can_not_be_looked_up_is_not_told_as_a_failure(effects: Effects) -> None:
    """Nobody knows whether it is there, so nobody is answered with either (5.1, 5.5)."""
    hand = settling(RolledBack(Outcome(status=Code.UNKNOWN)), effects)
    hand.fail(Release, DOWN)
    hand.reply(LeaseHolds, False)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


def test_what_the_store_can_not_keep_is_left_out_of_the_outcome() -> None:
    """It is not tried again, and nobody is answered with it: the reply and its status are what counts (4.7, 5.5)."""
    odd = Outcome(status=Code.OK, message=b"done", details="\ud800", trailers=(("x", "\ud800"),))
    hand = settling(Answered(odd))
    hand.fail(Complete, Unstorable("no"))
    bare = Outcome(status=Code.OK, message=b"done")
    assert hand.told == [Told.STRIPPED]
    assert hand.asked(Complete).outcome == bare
    hand.reply(Complete, NOON)
    assert hand.result == Executed(bare)


def test_an_outcome_that_can_not_be_stored_at_all_is_told_at_once() -> None:
    """With no write tried again: no store recovers from what it is given."""
    hand = settling(Answered(Outcome(status=Code.OK, message=b"done")))
    hand.fail(Complete, Unstorable("no"))
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


@pytest.mark.parametrize("cut", CutShort)
def test_an_opaque_handler_that_was_cut_short_is_held(cut: CutShort) -> None:
    """OUTCOME_UNKNOWN, and why (4.5)."""
    hand = settling(cut)
    assert hand.asked(Hold) == Hold(b"name", b"mine", cut.value)
    hand.reply(Hold, True)
    assert hand.told == [Told.HELD]
    assert reason_of(hand.result.refusal) is Reason.OUTCOME_UNKNOWN
    assert hand.result.refusal.variables["cause"] == cut.value


@pytest.mark.parametrize("effects", [Effects.TRANSACTIONAL, Effects.REPEATABLE])
@pytest.mark.parametrize("cut", [CutShort.CANCELLED, CutShort.OVERRAN])
def test_a_handler_that_was_cut_short_and_may_run_again_is_released(cut: CutShort, effects: Effects) -> None:
    """A retry runs it (4.5)."""
    hand = settling(cut, effects)
    hand.reply(Release, True)
    assert hand.result.outcome.status is Code.UNAVAILABLE


@pytest.mark.parametrize("effects", [Effects.TRANSACTIONAL, Effects.REPEATABLE])
def test_a_handler_that_can_not_be_stopped_keeps_its_claim(effects: Effects) -> None:
    """It still runs: only its lease's end may let another run begin (4.1, 4.5)."""
    assert settling(CutShort.ABANDONED, effects).result == Released(protocol._CUT_SHORT)


DOUBT = InDoubt(Outcome(status=Code.UNKNOWN), "card 4711 may be charged")


def test_an_opaque_handler_in_doubt_is_held_with_its_reason() -> None:
    """Operators get the reason, and no client does: neither this one nor one that finds the record (4.5)."""
    hand = settling(DOUBT)
    held = hand.asked(Hold).reason
    assert held.endswith(": card 4711 may be charged")
    hand.reply(Hold, True)
    assert hand.told == [Told.HELD]
    later = concluded(Found(record(State.HELD, reason=held))).result
    for refusal in (hand.result.refusal, later):
        assert reason_of(refusal) is Reason.OUTCOME_UNKNOWN
        assert refusal.variables["cause"] == held.removesuffix(": card 4711 may be charged")


@pytest.mark.parametrize("effects", [Effects.TRANSACTIONAL, Effects.REPEATABLE])
def test_a_handler_in_doubt_that_may_run_again_is_released(effects: Effects) -> None:
    """Its client is asked to retry (4.5)."""
    hand = settling(DOUBT, effects)
    hand.reply(Release, True)
    assert hand.result == Released(protocol._RUNS_AGAIN)
    assert hand.result.outcome.status is Code.UNAVAILABLE


def test_a_response_that_is_too_large_is_sent_but_not_kept() -> None:
    """The first call gets it whole (4.8, 4.11)."""
    hand = settling(Answered(OK), max_response_bytes=4)
    assert hand.asked(Complete).outcome == replace(OK, message=None, retained=False)
    hand.reply(Complete, NOON)
    assert hand.result == Executed(OK)
    assert protocol.retained(OK, Policy(max_response_bytes=5)) == OK


# A zombie


def overtaken(now: Record | None) -> Hand:
    hand = settling(Answered(OK), Effects.REPEATABLE)
    hand.reply(Complete, None)
    assert hand.asked(Get).name == b"name"
    hand.reply(Get, now)
    return hand


@pytest.mark.parametrize("now", [None, record(), record(State.COMPLETED), record(State.HELD)])
def test_a_zombie_answers_with_what_is_there_now(now: Record | None) -> None:
    """Its own outcome is nobody's (4.2)."""
    assert overtaken(now).result == Found(now)


def test_an_outcome_under_ones_own_fence_is_ones_own() -> None:
    """A transaction of this run committed, and the run was cut off from its answer (5.1)."""
    said = replace(OK, message=b"committed")
    assert overtaken(record(State.COMPLETED, fence=b"mine", outcome=said)).result == Executed(said)
    bare = record(State.COMPLETED, fence=b"mine", outcome=replace(OK, message=None))
    assert overtaken(bare).result == Found(bare)


def test_a_zombie_without_a_store_does_not_guess() -> None:
    """STORE_UNAVAILABLE: the handler ran, but what counts can't be seen (5.5)."""
    hand = settling(Answered(OK), Effects.REPEATABLE)
    hand.reply(Complete, None)
    hand.fail(Get, DOWN)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


@pytest.mark.parametrize("now", [record(), record(State.COMPLETED)])
def test_a_zombie_releases_nothing(now: Record) -> None:
    """The operation is another's by now (4.2)."""
    hand = settling(CutShort.CANCELLED, Effects.REPEATABLE)
    hand.reply(Release, False)
    hand.reply(Get, now)
    assert hand.result == Found(now)


def test_a_release_whose_answer_was_lost_is_a_release() -> None:
    """The handler is not run a second time in one call (4.6)."""
    busy = Outcome(status=Code.UNAVAILABLE)
    hand = settling(Answered(busy))
    hand.fail(Release, LOST)
    hand.reply(LeaseHolds, True)
    hand.reply(Pause, None)
    hand.reply(Release, False)
    hand.reply(Get, None)
    assert hand.result == Released(busy)


def test_a_zombie_holds_nothing() -> None:
    """Who was held meanwhile, or taken over, hears of it (4.2, 4.5)."""
    held = record(State.HELD, fence=b"mine")
    hand = settling(CutShort.CANCELLED)
    hand.reply(Hold, False)
    hand.reply(Get, held)
    assert hand.result == Found(held)


# A store that fails at the end


def test_a_write_is_tried_again_while_its_owner_may_be_taken_for_alive() -> None:
    """With growing pauses, up to a limit (5.5)."""
    hand = settling(Answered(OK))
    pauses = []
    for _ in range(8):
        hand.fail(Complete, DOWN)
        hand.reply(LeaseHolds, True)
        pauses.append(hand.asked(Pause).seconds)
        hand.reply(Pause, None)
    hand.reply(Complete, NOON)
    assert hand.result == Executed(OK)
    assert pauses[:3] == [0.05, 0.1, 0.2]
    assert pauses == sorted(pauses)
    assert pauses[-1] == pauses[-2] == 2.0


@pytest.mark.parametrize(
    ("ended", "write"), [(Answered(OK), Complete), (Answered(Outcome(status=Code.UNAVAILABLE)), Release)]
)
def test_an_outcome_that_can_not_be_stored_is_not_told(ended: Answered, write: type[Effect[Any]]) -> None:
    """STORE_UNAVAILABLE when the owner must be presumed dead; or by policy the reply, unprotected (5.5)."""
    hand = settling(ended)
    hand.fail(write, DOWN)
    hand.reply(LeaseHolds, False)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE
    assert "The handler ran" in hand.result.refusal.message
    hand = settling(ended, unprotected=True)
    hand.fail(write, DOWN)
    hand.reply(LeaseHolds, False)
    assert hand.result == Unprotected(ended.outcome)


def test_who_can_not_be_held_now_is_held_by_its_leases_end() -> None:
    """The caller hears OUTCOME_UNKNOWN all the same (4.5, 5.5)."""
    hand = settling(CutShort.OVERRAN)
    hand.fail(Hold, DOWN)
    hand.reply(LeaseHolds, False)
    assert reason_of(hand.result.refusal) is Reason.OUTCOME_UNKNOWN


@pytest.mark.parametrize("concluded", [protocol.shut_down, protocol.no_room])
def test_a_server_that_stops_or_lacks_what_it_takes_says_so(concluded: Callable[[], object]) -> None:
    """What could not begin, or be brought to its end, is refused so that a retry asks again (4.4)."""
    conclusion = concluded()
    assert isinstance(conclusion, Refused)
    assert conclusion.refusal.reason is Reason.STORE_UNAVAILABLE
