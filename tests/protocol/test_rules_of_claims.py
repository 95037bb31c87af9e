"""An execution until its handler begins: claims, take-overs, recovery, a dead store (4.1, 4.5, 4.9, 5.4, 5.5)."""

from dataclasses import replace
from datetime import timedelta

import pytest

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Answered,
    Complete,
    CutShort,
    Ended,
    Execute,
    Executed,
    Fate,
    Found,
    Get,
    Hold,
    LoadSteps,
    Raised,
    Ran,
    Release,
    Told,
    TryClaim,
    Unprotected,
    Wait,
)
from grpc_idempotency._protocol.refusals import Reason
from grpc_idempotency.policy import Policy
from grpc_idempotency.records import Code, Effects, Outcome, Record, State, StoredRequest

from .hand import ANOTHER, CALL, DOWN, LOST, NOON, OK, Hand, call, claim, claiming, reason_of, record


def test_an_operation_is_claimed_before_its_handler_begins_and_stored_before_it_is_told() -> None:
    """Claim, execute, complete, conclude: in this order and under one fence (4.1)."""
    hand = Hand(protocol.operate(CALL, b"mine"))
    assert hand.asked(TryClaim).claim == claim()
    hand.reply(TryClaim, None)
    assert hand.asked(Execute) == Execute(claim(), attempt=1)
    hand.reply(Execute, Ran(Answered(OK)))
    assert hand.asked(Complete) == Complete(b"name", b"mine", OK, CALL.policy.ttl)
    hand.reply(Complete, NOON)
    assert hand.result == Executed(OK)


@pytest.mark.parametrize(
    "standing",
    [
        record(),
        record(State.UNDOING),
        record(State.HELD),
        record(State.COMPLETED),
        record(lapsed=True, fingerprint=ANOTHER),
    ],
    ids=["running", "undoing", "held", "completed", "another request's"],
)
def test_a_record_in_the_way_is_left_alone(standing: Record) -> None:
    """No handler runs; nobody takes over for another request (2.3, 4.1, 4.9)."""
    assert claiming(standing).result == Found(standing)


@pytest.mark.parametrize("effects", [Effects.TRANSACTIONAL, Effects.REPEATABLE])
def test_what_is_safe_to_run_again_is_taken_over(effects: Effects) -> None:
    """Its lease ran out: the next call runs it, under a fence of its own, as one attempt more (4.5, 4.9)."""
    hand = claiming(record(lapsed=True, effects=effects, attempts=2), effects=effects)
    assert hand.asked(TryClaim).over == b"theirs"
    hand.reply(TryClaim, None)
    hand.reply(Get, record(fence=b"mine", effects=effects, attempts=3))
    hand.reply(LoadSteps, [])
    execute = hand.asked(Execute)
    assert (execute.attempt, execute.claim) == (3, claim(effects))
    assert hand.told == [Told.TOOK_OVER]


def test_a_take_over_that_came_too_late_finds_what_is_there_now() -> None:
    """Another caller was quicker (4.9)."""
    hand = claiming(record(lapsed=True, effects=Effects.REPEATABLE))
    quicker = record(fence=b"another")
    hand.reply(TryClaim, quicker)
    assert hand.result == Found(quicker)


def test_a_take_over_that_came_too_late_may_find_another_owner_gone() -> None:
    """The one that was quicker has lapsed, too: that one is taken over (4.9)."""
    hand = claiming(record(lapsed=True, effects=Effects.REPEATABLE), effects=Effects.REPEATABLE)
    hand.reply(TryClaim, record(lapsed=True, effects=Effects.REPEATABLE, fence=b"quicker"))
    assert hand.asked(TryClaim).over == b"quicker"


def test_an_opaque_operation_whose_server_died_is_held() -> None:
    """Nobody runs it again; its last fence stays (4.2, 4.5)."""
    lapsed = record(lapsed=True)
    hand = claiming(lapsed)
    hold = hand.asked(Hold)
    assert (hold.fence, hold.lapsed_only) == (b"theirs", True)
    hand.reply(Hold, True)
    assert hand.told == [Told.HELD]
    assert hand.result == Found(replace(lapsed, state=State.HELD, lapsed=False, reason=hold.reason))


def test_recovery_takes_over_what_it_has_seen() -> None:
    """Its first claim names the fence of the record that it found, so that it need not lose once (5.4)."""
    seen = record(lapsed=True, effects=Effects.REPEATABLE, attempts=2, failed_runs=1)
    repeatable = replace(call(effects=Effects.REPEATABLE), lapsed=seen)
    hand = Hand(protocol.operate(repeatable, b"mine"))
    assert hand.asked(TryClaim).over == b"theirs"
    hand.reply(TryClaim, None)
    hand.reply(Get, record(fence=b"mine", effects=Effects.REPEATABLE, attempts=3, failed_runs=1))
    hand.reply(LoadSteps, ())
    assert hand.asked(Execute).attempt == 3
    assert hand.told == [Told.TOOK_OVER]


def test_recovery_of_what_waits_runs_it_again() -> None:
    """And what another was quicker with is left to that one (5.2, 5.4)."""
    seen = record(State.WAITING, lapsed=True, effects=Effects.REPEATABLE, failed_runs=1)
    hand = Hand(protocol.operate(replace(call(effects=Effects.REPEATABLE), lapsed=seen), b"mine"))
    hand.reply(TryClaim, None)
    assert hand.told == [Told.RUNS_AGAIN]
    hand = Hand(protocol.operate(replace(call(effects=Effects.REPEATABLE), lapsed=seen), b"mine"))
    quicker = record(fence=b"another")
    hand.reply(TryClaim, quicker)
    assert hand.result == Found(quicker)


REQUEST = StoredRequest(principal=b"ada", metadata=(), messages=(b"",))
REPEATS = Policy(effects=Effects.REPEATABLE)
TRANSACTS = Policy(effects=Effects.TRANSACTIONAL)
FATES: dict[str, tuple[Record, Policy, Fate]] = {
    "in doubt": (record(lapsed=True), Policy(), Fate.HOLD),
    "in doubt, recover=True": (record(lapsed=True, request=REQUEST), Policy(recover=True), Fate.HOLD),
    "in doubt, recover=False": (record(lapsed=True), Policy(recover=False), Fate.HOLD),
    "in doubt, being undone": (record(State.UNDOING, lapsed=True, request=REQUEST), Policy(recover=True), Fate.HOLD),
    "being undone": (
        record(State.UNDOING, lapsed=True, effects=Effects.REPEATABLE, request=REQUEST),
        REPEATS,
        Fate.RUN,
    ),
    "in doubt, of a method that repeats by now": (record(lapsed=True), REPEATS, Fate.HOLD),
    "repeatable": (record(lapsed=True, effects=Effects.REPEATABLE, request=REQUEST), REPEATS, Fate.RUN),
    "opaque and waiting": (record(State.WAITING, lapsed=True, request=REQUEST), Policy(recover=True), Fate.RUN),
    "no request": (record(lapsed=True, effects=Effects.REPEATABLE), REPEATS, Fate.LEAVE),
    "without effect": (record(lapsed=True, effects=Effects.TRANSACTIONAL), TRANSACTS, Fate.RELEASE),
    "without effect, and waiting": (
        record(State.WAITING, lapsed=True, effects=Effects.TRANSACTIONAL),
        TRANSACTS,
        Fate.RELEASE,
    ),
    "without effect, of another method by now": (
        record(lapsed=True, effects=Effects.TRANSACTIONAL),
        Policy(),
        Fate.RELEASE,
    ),
    "transactional": (
        record(lapsed=True, effects=Effects.TRANSACTIONAL, request=REQUEST),
        replace(TRANSACTS, recover=True),
        Fate.RUN,
    ),
    "transactional, no recovery": (
        record(lapsed=True, effects=Effects.TRANSACTIONAL, request=REQUEST),
        TRANSACTS,
        Fate.LEAVE,
    ),
    "no recovery": (record(lapsed=True, effects=Effects.REPEATABLE, request=REQUEST), Policy(), Fate.LEAVE),
}


@pytest.mark.parametrize("case", FATES)
def test_what_recovery_does(case: str) -> None:
    """In doubt it is held, and without effect released, as the record says; else policy and request decide (5.4)."""
    found, policy, expected = FATES[case]
    assert protocol.fate(found, policy) is expected


@pytest.mark.parametrize("held", [True, False])
def test_recovery_holds_what_is_in_doubt(held: bool) -> None:
    """Unless its owner has renewed the lease, or somebody else was quicker (4.5, 5.4)."""
    hand = Hand(protocol.hold_lapsed(record(lapsed=True)))
    asked = hand.asked(Hold)
    assert (asked.name, asked.fence, asked.lapsed_only) == (b"name", b"theirs", True)
    hand.reply(Hold, held)
    assert (hand.result, hand.told) == (held, [Told.HELD] if held else [])


@pytest.mark.parametrize("released", [True, False])
def test_recovery_releases_what_has_had_no_effect(released: bool) -> None:
    """Unless its owner has renewed the lease or finished a step, or somebody else was quicker (4.2, 5.4)."""
    hand = Hand(protocol.release_lapsed(record(lapsed=True, effects=Effects.TRANSACTIONAL)))
    asked = hand.asked(Release)
    assert (asked.name, asked.fence, asked.lapsed_only) == (b"name", b"theirs", True)
    hand.reply(Release, released)
    assert (hand.result, hand.told) == (released, [Told.RELEASED] if released else [])


def test_how_it_was_begun_decides_and_not_how_it_would_be_now() -> None:
    """A policy that was changed does not set an opaque run free (4.5)."""
    hand = claiming(record(lapsed=True), effects=Effects.REPEATABLE)
    hand.asked(Hold)


def test_an_owner_that_came_back_keeps_its_operation() -> None:
    """It renewed its lease before it could be held: the claim is tried again from the start (4.2, 4.9)."""
    hand = claiming(record(lapsed=True))
    hand.reply(Hold, False)
    assert hand.asked(TryClaim).over is None
    hand.reply(TryClaim, record())
    assert hand.result == Found(record())


# The store is down


def test_without_a_claim_nothing_runs() -> None:
    """STORE_UNAVAILABLE, and the handler did not run (2.3, 5.5)."""
    hand = Hand(protocol.operate(CALL, b"mine"))
    hand.fail(TryClaim, DOWN)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE
    assert "did not run" in hand.result.refusal.message


@pytest.mark.parametrize("fails", [False, True])
def test_a_claim_that_may_be_there_is_given_back(fails: bool) -> None:
    """Nobody should wait for the lease of a run that never began (5.5)."""
    hand = Hand(protocol.operate(CALL, b"mine"))
    hand.fail(TryClaim, LOST)
    assert hand.asked(Release) == Release(b"name", b"mine")
    if fails:
        hand.fail(Release, DOWN)
    else:
        hand.reply(Release, True)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


@pytest.mark.parametrize("state", [State.WAITING, State.RUNNING, State.UNDOING])
@pytest.mark.parametrize("fails", [False, True])
def test_a_take_over_that_may_be_there_forgets_no_steps(state: State, fails: bool) -> None:
    """It is due again at once, with the steps that the operation has finished, and is not released (5.2, 5.5)."""
    seen = record(state, lapsed=True, effects=Effects.REPEATABLE, failed_runs=2, failed_undos=3)
    hand = claiming(seen, effects=Effects.REPEATABLE)
    hand.fail(TryClaim, LOST)
    assert hand.asked(Wait) == Wait(b"name", b"mine", timedelta(0), 2, 3)
    if fails:
        hand.fail(Wait, DOWN)
    else:
        hand.reply(Wait, True)
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (Answered(OK), OK),
        (Raised(Outcome(status=Code.UNKNOWN)), Outcome(status=Code.UNKNOWN)),
        (CutShort.CANCELLED, protocol._CUT_SHORT),
    ],
)
def test_a_policy_may_let_calls_through_unprotected(ended: Ended, told: Outcome) -> None:
    """The handler runs as if there were no key (5.5)."""
    hand = Hand(protocol.operate(call(unprotected=True), b"mine"))
    hand.fail(TryClaim, DOWN)
    assert hand.asked(Execute) == Execute(None)
    hand.reply(Execute, Ran(ended))
    assert hand.result == Unprotected(told)
