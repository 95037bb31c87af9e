"""The rules one by one: each plan driven by hand, effect after effect. They cover every branch of the rulebook."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

import pytest

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Answer,
    Answered,
    Board,
    Boarded,
    Call,
    Complete,
    CutShort,
    Effect,
    Ended,
    Event,
    Execute,
    Executed,
    Fate,
    Found,
    Get,
    Hold,
    Land,
    Landed,
    Landing,
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
from grpc_idempotency.errors import FenceRefused, StoreError, StoreUnavailable, Unstorable
from grpc_idempotency.policy import Disposition, Policy
from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Outcome, Record, State, Step, StoredRequest

E = TypeVar("E", bound=Effect[Any])

FINGERPRINT = Fingerprint(raw=b"raw", canonical=b"canonical")
ANOTHER = Fingerprint(raw=b"another", canonical=b"another")
CALL = Call(b"name", "/s.S/M", FINGERPRINT, Policy(), until=7.0)
OK = Outcome(status=Code.OK, message=b"reply")
DOWN = StoreUnavailable("down")
LOST = StoreUnavailable("down", landed=None)
NOON = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)


def call(**policy: Any) -> Call:
    return replace(CALL, policy=Policy(**policy))


def claim(effects: Effects = Effects.OPAQUE) -> Claim:
    return Claim(
        name=b"name",
        method="/s.S/M",
        fence=b"mine",
        fingerprint=FINGERPRINT,
        effects=effects,
        lease=Policy().lease,
    )


def record(state: State = State.RUNNING, **said: Any) -> Record:
    values: dict[str, Any] = {
        "name": b"name",
        "method": "/s.S/M",
        "state": state,
        "fence": b"theirs",
        "fingerprint": FINGERPRINT,
        "effects": Effects.OPAQUE,
        "attempts": 1,
        "created_at": NOON,
    }
    if state is State.COMPLETED:
        values |= {"completed_at": NOON, "outcome": OK}
    return Record(**(values | said))


class Hand:
    """Drives a plan by hand."""

    def __init__(self, plan: Plan[Any]) -> None:
        self._plan = plan
        self._effect: Effect[Any] | None = None
        self._result: Any = None
        self.told: list[Event] = []
        """What it has written to the log."""
        self._go(lambda: next(plan))

    def _go(self, step: Any) -> None:
        try:
            self._effect = step()
        except StopIteration as done:
            self._effect, self._result = None, done.value
        if isinstance(self._effect, Tell):
            self.told.append(self._effect.event)
            self._go(lambda: self._plan.send(None))

    def asked(self, kind: type[E]) -> E:
        """The effect that the plan asks for now."""
        assert type(self._effect) is kind, self._effect
        return self._effect

    def reply(self, kind: type[Effect[Any]], reply: Any) -> None:
        self.asked(kind)
        self._go(lambda: self._plan.send(reply))

    def fail(self, kind: type[Effect[Any]], error: StoreError) -> None:
        self.asked(kind)
        self._go(lambda: self._plan.throw(error))

    @property
    def result(self) -> Any:
        assert self._effect is None, f"the plan is not over; it asks for {self._effect}"
        return self._result


def boarded(*, founded: bool, fingerprint: Fingerprint = FINGERPRINT) -> Boarded:
    return Boarded(fingerprint, founded, flight=object())


def landed(landing: Landing | None, *, founded: bool = True) -> Hand:
    """A call whose flight lands with this."""
    hand = Hand(protocol.answer(CALL))
    hand.reply(Board, boarded(founded=founded))
    hand.reply(Land, Landed(landing))
    return hand


def reason_of(told: Any) -> Reason:
    assert isinstance(told, Refusal)
    return told.reason


# One call


def test_the_call_that_founds_a_flight_waits_for_its_end() -> None:
    """The first call gets the handler's answer, as ``executed``, however long it takes (2.2, 4.1)."""
    hand = Hand(protocol.answer(CALL))
    assert hand.asked(Board).call is CALL
    hand.reply(Board, boarded(founded=True))
    assert hand.asked(Land).until is None
    hand.reply(Land, Landed(Executed(OK)))
    assert hand.result == Answer(OK, Mark.EXECUTED)


def test_a_duplicate_attaches_and_gets_the_first_reply() -> None:
    """A duplicate in the same process waits for the flight, as long as it may (4.3)."""
    hand = Hand(protocol.answer(CALL))
    hand.reply(Board, boarded(founded=False))
    assert hand.asked(Land).until == CALL.until
    hand.reply(Land, Landed(Executed(OK)))
    assert hand.result == Answer(OK, Mark.ATTACHED)


def test_a_duplicate_that_has_waited_long_enough_is_told_so() -> None:
    """IN_FLIGHT, with a time to come again that gRPC's own retries heed (2.3, 4.3)."""
    refusal = landed(None, founded=False).result
    assert reason_of(refusal) is Reason.IN_FLIGHT
    assert refusal.push_back
    assert refusal.retry_after > timedelta(0)


def test_a_server_that_takes_on_nothing_more_refuses() -> None:
    """Too many detached executions, or a server that stops: refused before the claim (4.4, 4.11)."""
    hand = Hand(protocol.answer(CALL))
    hand.reply(Board, None)
    assert reason_of(hand.result) is Reason.STORE_UNAVAILABLE


def test_what_nobody_can_be_answered_is_told_to_all() -> None:
    """A refusal that a flight lands with goes to every call on it (5.5)."""
    refusal = Refusal(reason=Reason.KEY_REUSED)
    assert landed(Refused(refusal)).result is refusal
    assert landed(Refused(refusal), founded=False).result is refusal


def test_an_unprotected_answer_says_so() -> None:
    """The mark tells a client that its retry may run again (5.5)."""
    assert landed(Unprotected(OK)).result == Answer(OK, Mark.UNPROTECTED)


def test_a_released_answer_is_the_founders_alone() -> None:
    """Its own call hears UNAVAILABLE; those who waited contend for one new claim (4.3, 4.6)."""
    gone = Outcome(status=Code.UNAVAILABLE, details="later")
    assert landed(Released(gone)).result == Answer(gone, Mark.EXECUTED)
    hand = landed(Released(gone), founded=False)
    hand.reply(Board, boarded(founded=True))
    hand.reply(Land, Landed(Found(record(State.COMPLETED))))
    assert hand.result == Answer(OK, Mark.ATTACHED)  # it waited for this outcome, if not in one go


def begun(landing: Landing | None, *, founded: bool) -> Any:
    """What a call is told that has sent messages of its flight's stream already."""
    hand = Hand(protocol.answer(replace(CALL, streams=True)))
    hand.reply(Board, boarded(founded=founded))
    hand.reply(Land, Landed(landing, begun=True))
    return hand.result


def test_a_stream_that_has_begun_ends_as_its_own_run_ended() -> None:
    """Who has part of a stream can't be given another run's: not by contending, not by a replay (4.3, 4.8)."""
    gone = Outcome(status=Code.UNAVAILABLE, message=b"")
    assert begun(Released(gone), founded=False) == Answer(gone, Mark.ATTACHED)
    assert begun(Released(gone), founded=True) == Answer(gone, Mark.EXECUTED)
    assert reason_of(begun(Found(record(State.COMPLETED)), founded=True)) is Reason.STORE_UNAVAILABLE
    assert reason_of(begun(Found(None), founded=False)) is Reason.STORE_UNAVAILABLE


def test_a_failed_stream_is_replayed_only_with_its_messages() -> None:
    """Its status alone would be another answer than the first (4.7, 4.8)."""
    for retained, told in ((False, Refusal), (True, Answer)):
        hand = Hand(protocol.answer(replace(CALL, streams=True)))
        hand.reply(Board, boarded(founded=True))
        failed = Outcome(status=Code.NOT_FOUND, retained=retained)
        hand.reply(Land, Landed(Found(record(State.COMPLETED, outcome=failed))))
        assert type(hand.result) is told


def test_an_operation_that_is_gone_is_begun_again() -> None:
    """Whoever finds that the record vanished meanwhile begins anew (4.3)."""
    hand = landed(Found(None))
    hand.reply(Board, boarded(founded=True))
    hand.reply(Land, Landed(Executed(OK)))
    assert hand.result == Answer(OK, Mark.EXECUTED)


def test_a_completed_operation_is_replayed() -> None:
    """The stored outcome, and when it was stored (2.2, 4.7)."""
    assert landed(Found(record(State.COMPLETED))).result == Answer(OK, Mark.REPLAYED, NOON)


def test_a_stored_failure_is_replayed() -> None:
    """An outcome without a message is whole unless it is OK (4.6, 4.7)."""
    failed = Outcome(status=Code.NOT_FOUND, details="no such thing")
    answer = landed(Found(record(State.COMPLETED, outcome=failed))).result
    assert answer == Answer(failed, Mark.REPLAYED, NOON)


@pytest.mark.parametrize(
    ("said", "status", "cause"),
    [
        ({"outcome": None}, "OK", "It succeeded, but its response was larger"),
        ({"outcome": Outcome(status=Code.OK, retained=False)}, "OK", "It succeeded, but its response was larger"),
        ({"outcome": Outcome(status=Code.OK), "resolved": True}, "OK", "It succeeded, but an operator"),
        (
            {"outcome": Outcome(status=Code.OK), "resolved": True, "streams": True},
            "OK",
            "It succeeded, but an operator",
        ),
        ({"outcome": Outcome(status=Code.NOT_FOUND, retained=False)}, "NOT_FOUND", "It failed, and the messages"),
    ],
)
def test_an_answer_that_was_not_kept_is_not_made_up(said: dict[str, Any], status: str, cause: str) -> None:
    """RESPONSE_NOT_RETAINED tells how the operation ended, and why its answer is not there (2.3, 4.7, 4.8)."""
    refusal = landed(Found(record(State.COMPLETED, **said))).result
    assert reason_of(refusal) is Reason.RESPONSE_NOT_RETAINED
    assert refusal.variables["created"] == NOON.isoformat(timespec="seconds")
    assert (refusal.variables["status"], refusal.variables["cause"].startswith(cause)) == (status, True)


def test_a_held_operation_names_itself_to_its_operator() -> None:
    """OUTCOME_UNKNOWN, with the cause and the operation (2.3, 4.5)."""
    refusal = landed(Found(record(State.HELD, reason="it was cut off"))).result
    assert reason_of(refusal) is Reason.OUTCOME_UNKNOWN
    assert refusal.variables == {"cause": "it was cut off", "operation": b"name".hex()}


@pytest.mark.parametrize("state", State)
def test_a_reused_key_is_told_whatever_state_its_operation_is_in(state: State) -> None:
    """KEY_REUSED at once, without waiting (2.3)."""
    assert reason_of(landed(Found(record(state, fingerprint=ANOTHER))).result) is Reason.KEY_REUSED


def test_a_run_in_another_process_is_watched() -> None:
    """The call waits for the end of exactly that run, then looks again (4.3)."""
    for state in (State.RUNNING, State.UNDOING, State.WAITING):
        assert landed(Found(record(state))).asked(Watch).fence == b"theirs"
    hand = landed(Found(record()))
    watch = hand.asked(Watch)
    assert (watch.name, watch.fence, watch.until) == (b"name", b"theirs", CALL.until)
    hand.reply(Watch, True)
    hand.reply(Board, boarded(founded=True))
    hand.reply(Land, Landed(Found(record(State.COMPLETED))))
    assert hand.result == Answer(OK, Mark.ATTACHED)


def test_a_run_in_another_process_can_outlast_a_wait() -> None:
    """IN_FLIGHT when the wait budget is spent (4.3)."""
    hand = landed(Found(record()))
    hand.reply(Watch, False)
    assert reason_of(hand.result) is Reason.IN_FLIGHT


def beside_another() -> Hand:
    hand = Hand(protocol.answer(CALL))
    hand.reply(Board, boarded(founded=False, fingerprint=ANOTHER))
    assert hand.asked(Get).name == b"name"
    return hand


def test_a_call_that_meets_another_request_in_its_process_is_told_at_once() -> None:
    """KEY_REUSED without waiting for the other's handler (2.3)."""
    for standing in (None, record(fingerprint=ANOTHER)):
        hand = beside_another()
        hand.reply(Get, standing)
        assert reason_of(hand.result) is Reason.KEY_REUSED


def test_a_call_that_meets_another_request_may_be_in_the_right() -> None:
    """The record says whose key it is: a repeat is replayed, though a stranger with its key came first (2.3)."""
    hand = beside_another()
    hand.reply(Get, record(State.COMPLETED))
    assert hand.result == Answer(OK, Mark.REPLAYED, NOON)


def test_a_call_that_meets_another_request_and_no_store_may_come_again() -> None:
    """Nobody can say whose key it is, so nobody is told that it is reused, which would be final (5.5)."""
    hand = beside_another()
    hand.fail(Get, DOWN)
    assert reason_of(hand.result) is Reason.STORE_UNAVAILABLE


def test_requests_are_the_same_by_bytes_or_by_meaning() -> None:
    """Equal raw bytes are enough; else the canonical form decides (3.2)."""
    assert protocol.same_request(FINGERPRINT, replace(FINGERPRINT, canonical=b"other"))
    assert protocol.same_request(FINGERPRINT, replace(FINGERPRINT, raw=b"other"))
    assert not protocol.same_request(FINGERPRINT, Fingerprint(raw=b"other", canonical=b"other"))


# One flight


def claiming(standing: Record | None = None, **policy: Any) -> Hand:
    """A flight whose first try at the claim is answered so."""
    hand = Hand(protocol.operate(call(**policy), b"mine"))
    assert hand.asked(TryClaim).over is None
    hand.reply(TryClaim, standing)
    return hand


def test_an_operation_is_claimed_before_its_handler_begins_and_stored_before_it_is_told() -> None:
    """Claim, execute, complete, land: in this order and under one fence (4.1)."""
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
    assert hand.told == [Event.TOOK_OVER]


def test_a_take_over_that_came_too_late_finds_what_is_there_now() -> None:
    """Another caller was quicker (4.9)."""
    hand = claiming(record(lapsed=True, effects=Effects.REPEATABLE))
    quicker = record(fence=b"another")
    hand.reply(TryClaim, quicker)
    assert hand.result == Found(quicker)


def test_an_opaque_operation_whose_server_died_is_held() -> None:
    """Nobody runs it again; its last fence stays (4.2, 4.5)."""
    lapsed = record(lapsed=True)
    hand = claiming(lapsed)
    hold = hand.asked(Hold)
    assert (hold.fence, hold.lapsed_only) == (b"theirs", True)
    hand.reply(Hold, True)
    assert hand.told == [Event.HELD]
    assert hand.result == Found(replace(lapsed, state=State.HELD, lapsed=False, reason=hold.reason))


def test_recovery_takes_over_what_it_has_seen() -> None:
    """Its first claim names the fence of the record that it found, so that it need not lose once (5.4)."""
    seen = record(lapsed=True, effects=Effects.REPEATABLE, attempts=2, tries=1)
    repeatable = replace(call(effects=Effects.REPEATABLE), lapsed=seen)
    hand = Hand(protocol.operate(repeatable, b"mine"))
    assert hand.asked(TryClaim).over == b"theirs"
    hand.reply(TryClaim, None)
    hand.reply(Get, record(fence=b"mine", effects=Effects.REPEATABLE, attempts=3, tries=1))
    hand.reply(LoadSteps, ())
    assert hand.asked(Execute).attempt == 3
    assert hand.told == [Event.TOOK_OVER]


def test_recovery_of_what_waits_runs_it_again() -> None:
    """And what another was quicker with is left to that one (5.2, 5.4)."""
    seen = record(State.WAITING, lapsed=True, effects=Effects.REPEATABLE, tries=1)
    hand = Hand(protocol.operate(replace(call(effects=Effects.REPEATABLE), lapsed=seen), b"mine"))
    hand.reply(TryClaim, None)
    assert hand.told == [Event.RUNS_AGAIN]
    hand = Hand(protocol.operate(replace(call(effects=Effects.REPEATABLE), lapsed=seen), b"mine"))
    quicker = record(fence=b"another")
    hand.reply(TryClaim, quicker)
    assert hand.result == Found(quicker)


REQUEST = StoredRequest(principal=b"ada", metadata=(), messages=(b"",))
REPEATS = Policy(effects=Effects.REPEATABLE)
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
    "no recovery": (record(lapsed=True, effects=Effects.REPEATABLE, request=REQUEST), Policy(), Fate.LEAVE),
}


@pytest.mark.parametrize("case", FATES)
def test_what_recovery_does(case: str) -> None:
    """In doubt it is held, as the record says; else it is run where the policy has recovery and a request is there."""
    found, policy, expected = FATES[case]
    assert protocol.fate(found, policy) is expected


@pytest.mark.parametrize("held", [True, False])
def test_recovery_holds_what_is_in_doubt(held: bool) -> None:
    """Unless its owner has renewed the lease, or somebody else was quicker (4.5, 5.4)."""
    hand = Hand(protocol.hold_lapsed(record(lapsed=True)))
    asked = hand.asked(Hold)
    assert (asked.name, asked.fence, asked.lapsed_only) == (b"name", b"theirs", True)
    hand.reply(Hold, held)
    assert (hand.result, hand.told) == (held, [Event.HELD] if held else [])


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
    seen = record(state, lapsed=True, effects=Effects.REPEATABLE, tries=2, undo_tries=3)
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


# How it ended


def settling(ended: Ended, effects: Effects = Effects.OPAQUE, **policy: Any) -> Hand:
    return Hand(protocol.settle(call(effects=effects, **policy), claim(effects), Ran(ended), 0))


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
    assert hand.told == [Event.STRIPPED]
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
    assert hand.told == [Event.HELD]
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


@pytest.mark.parametrize("landed", [protocol.shut_down, protocol.no_room])
def test_a_server_that_stops_or_lacks_what_it_takes_says_so(landed: Callable[[], object]) -> None:
    """What could not begin, or be brought to its end, is refused so that a retry asks again (4.4)."""
    landing = landed()
    assert isinstance(landing, Refused)
    assert landing.refusal.reason is Reason.STORE_UNAVAILABLE


# Steps


FAILURE = Outcome(status=Code.FAILED_PRECONDITION, details="no credit")
PASSING = Outcome(status=Code.UNAVAILABLE, details="later")
STEP = Step(name="charge", position=0, result=b"jnull", undoable=True)


def stepping(ended: Ended, *, tries: int = 0, effects: Effects = Effects.REPEATABLE, **policy: Any) -> Hand:
    """A handler that has ended after it had finished a step."""
    plan = protocol.settle(call(effects=effects, **policy), claim(effects), Ran(ended, steps=True), tries)
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
    assert hand.told == [Event.GIVEN_UP]
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
    assert hand.told == [Event.STRIPPED]
    bare = replace(FAILURE, details="")
    assert hand.asked(Undo).failure == bare
    hand.reply(Undo, True)
    hand.reply(Unwind, None)
    hand.reply(Complete, NOON)
    assert hand.result == Executed(bare)
    hand = stepping(Answered(bare))
    hand.fail(Undo, Unstorable("not in this table"))
    assert reason_of(hand.result.refusal) is Reason.STORE_UNAVAILABLE


@pytest.mark.parametrize("ended", [Answered(PASSING), Raised(FAILURE), RolledBack(FAILURE), CutShort.OVERRAN])
def test_an_operation_with_finished_steps_waits_and_is_never_released(ended: Ended) -> None:
    """What may pass makes it run again, with its steps kept (4.6, 5.2)."""
    hand = stepping(ended)
    assert hand.asked(Wait) == Wait(b"name", b"mine", timedelta(seconds=1), 1, 0)
    hand.reply(Wait, True)
    assert hand.told == [Event.WAITS]
    assert hand.result == Waits()


def test_the_wait_grows_up_to_a_minute() -> None:
    """Twice as long before each further run (5.2)."""
    delays = [stepping(Answered(PASSING), tries=tries, max_tries=99).asked(Wait).delay for tries in range(50)]
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
    hand = stepping(Answered(PASSING), tries=4)
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
    """Whoever waited for an operation that now waits itself goes on waiting, its founder too (4.3, 5.2)."""
    for founded in (True, False):
        hand = landed(Waits(), founded=founded)
        hand.reply(Board, boarded(founded=True))
        hand.reply(Land, Landed(Found(record(State.WAITING))))
        assert hand.asked(Watch).fence == b"theirs"
    assert reason_of(begun(Waits(), founded=True)) is Reason.STORE_UNAVAILABLE


def running_again(*, steps: list[Step], state: State = State.WAITING, **said: Any) -> Hand:
    """A flight that has claimed an operation which is due to run again; what was ``said`` is in its record."""
    hand = Hand(protocol.operate(call(effects=Effects.REPEATABLE), b"mine"))
    hand.reply(TryClaim, record(state, lapsed=True, effects=Effects.REPEATABLE, **said))
    hand.reply(TryClaim, None)
    hand.reply(Get, record(fence=b"mine", effects=Effects.REPEATABLE, attempts=4, **said))
    hand.reply(LoadSteps, steps)
    return hand


def test_a_later_run_gets_the_steps_of_the_earlier_ones() -> None:
    """And goes on counting the tries (5.2)."""
    hand = running_again(steps=[STEP], tries=2)
    assert hand.told == [Event.RUNS_AGAIN]
    execute = hand.asked(Execute)
    assert (execute.steps, execute.attempt, execute.unwinds) == ((STEP,), 4, False)
    hand.reply(Execute, Ran(Answered(PASSING), steps=True))
    assert hand.asked(Wait).tries == 3


def taken_over() -> Hand:
    """A flight that has just taken over an operation whose server is gone."""
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
    """A flight of an operation that failed for good and was not undone yet."""
    hand = running_again(steps=[STEP], failure=FAILURE, **said)
    assert hand.asked(Execute).unwinds
    return hand


def test_a_failed_operation_is_undone_by_whoever_runs_it_next() -> None:
    """However its handler ends now: the failure that was kept counts (5.2)."""
    hand = unwinding(tries=1)
    hand.reply(Execute, Ran(Answered(OK), steps=True))
    hand.reply(Unwind, None)
    assert hand.asked(Complete).outcome == FAILURE


def test_an_undo_that_fails_is_tried_again_and_then_held() -> None:
    """Only an undo that fails N times makes it held; the tries before do not count, nor do they slow it (5.2)."""
    hand = unwinding(tries=4)
    hand.reply(Execute, Ran(Raised(FAILURE), steps=True))
    hand.reply(Unwind, "an undo failed")
    assert hand.asked(Wait) == Wait(b"name", b"mine", timedelta(seconds=1), 4, 1)
    hand = unwinding(tries=4, undo_tries=4)
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


# Beside a flight


def test_a_lease_is_renewed_every_so_often() -> None:
    """At once, since it begins when the first renewal is due, and then at its interval (4.9)."""
    hand = Hand(protocol.keep_lease(claim(), timedelta(seconds=5)))
    for _ in range(3):
        assert hand.asked(Renew) == Renew(b"name", b"mine", timedelta(seconds=15), 5.0)
        hand.reply(Renew, True)
        assert hand.asked(Pause).seconds == 5.0
        hand.reply(Pause, None)


def test_a_renewal_that_failed_is_tried_again_at_once() -> None:
    """Without a pause, and then after short ones that grow, for as long as the lease holds (4.9)."""
    hand = Hand(protocol.keep_lease(claim(), timedelta(seconds=5)))
    pauses = []
    for _ in range(12):
        hand.fail(Renew, DOWN)
        hand.reply(LeaseHolds, True)
        pauses.append(hand.asked(Pause).seconds)
        hand.reply(Pause, None)
    assert pauses[:3] == [0.0, 0.05, 0.1]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 1.25
    assert sum(pauses) < 10  # so that it is tried until the lease's end
    hand.reply(Renew, True)
    assert hand.asked(Pause).seconds == 5.0
    hand.reply(Pause, None)
    hand.fail(Renew, DOWN)
    hand.reply(LeaseHolds, True)
    assert hand.asked(Pause).seconds == 0.0
    assert hand.told == []


def test_a_lease_that_ran_out_is_told_once_and_may_be_had_again() -> None:
    """A run whose server could not renew in time goes on trying: nobody may have been there to take over (4.9)."""
    hand = Hand(protocol.keep_lease(claim(), timedelta(seconds=5)))
    for _ in range(2):
        hand.fail(Renew, DOWN)
        hand.reply(LeaseHolds, False)
        assert hand.asked(Pause).seconds == 5.0
        hand.reply(Pause, None)
        assert hand.told == [Event.LAPSED]
    hand.reply(Renew, True)
    hand.reply(Pause, None)
    hand.fail(Renew, DOWN)
    hand.reply(LeaseHolds, False)
    assert hand.told == [Event.LAPSED, Event.LAPSED]


@pytest.mark.parametrize(
    "now",
    [None, record(fence=b"next"), record(State.HELD, fence=b"mine")],
    ids=["released", "taken over", "held"],
)
def test_a_lease_of_another_is_lost(now: Record | None) -> None:
    """The run is told, and its lease is renewed no more (4.2, 4.9)."""
    hand = Hand(protocol.keep_lease(claim(), timedelta(seconds=5)))
    hand.reply(Renew, False)
    hand.reply(Get, now)
    hand.reply(LoseLease, None)
    assert hand.told == [Event.LOST]
    assert hand.result is None


@pytest.mark.parametrize("state", [State.COMPLETED, State.WAITING])
def test_a_run_that_has_ended_by_itself_has_lost_nothing(state: State) -> None:
    """A transaction that has committed the reply, say, ends the renewals of a handler that goes on (4.9, 5.1)."""
    hand = Hand(protocol.keep_lease(claim(), timedelta(seconds=5)))
    hand.reply(Renew, False)
    hand.fail(Get, DOWN)
    hand.reply(LeaseHolds, True)
    hand.reply(Pause, None)
    hand.reply(Renew, False)
    hand.reply(Get, record(state, fence=b"mine"))
    assert (hand.told, hand.result) == ([], None)


@pytest.mark.parametrize(
    "now",
    [None, record(fence=b"next"), record(State.HELD), record(State.COMPLETED), record(lapsed=True)],
    ids=["absent", "of another fence", "held", "completed", "lapsed"],
)
def test_a_run_elsewhere_is_over_when_its_record_says_so(now: Record | None) -> None:
    """Polled with growing pauses while it runs (4.3)."""
    hand = Hand(protocol.watch(b"name", b"theirs"))
    pauses = []
    for _ in range(12):
        pauses.append(hand.asked(Pause).seconds)
        hand.reply(Pause, None)
        hand.reply(Get, record())
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.02, 0.5)
    hand.reply(Pause, None)
    hand.reply(Get, now)
    assert hand.result is None


def test_a_lookout_without_a_store_comes_home() -> None:
    """The next claim will say what is wrong (4.3, 5.5)."""
    hand = Hand(protocol.watch(b"name", b"theirs"))
    hand.reply(Pause, None)
    hand.fail(Get, DOWN)
    assert hand.result is None


# Statuses

STORED, FREED = Disposition.STORE, Disposition.RELEASE
STATUSES = {
    # status: opaque, transactional, repeatable
    Code.OK: (STORED, STORED, STORED),
    Code.CANCELLED: (STORED, FREED, FREED),
    Code.UNKNOWN: (STORED, FREED, FREED),
    Code.INVALID_ARGUMENT: (STORED, STORED, STORED),
    Code.DEADLINE_EXCEEDED: (STORED, FREED, FREED),
    Code.NOT_FOUND: (STORED, STORED, STORED),
    Code.ALREADY_EXISTS: (STORED, STORED, STORED),
    Code.PERMISSION_DENIED: (FREED, FREED, FREED),
    Code.RESOURCE_EXHAUSTED: (FREED, FREED, FREED),
    Code.FAILED_PRECONDITION: (STORED, STORED, STORED),
    Code.ABORTED: (FREED, FREED, FREED),
    Code.OUT_OF_RANGE: (STORED, STORED, STORED),
    Code.UNIMPLEMENTED: (STORED, STORED, STORED),
    Code.INTERNAL: (STORED, FREED, FREED),
    Code.UNAVAILABLE: (FREED, FREED, FREED),
    Code.DATA_LOSS: (STORED, STORED, STORED),
    Code.UNAUTHENTICATED: (FREED, FREED, FREED),
}


@pytest.mark.parametrize("status", Code)
def test_each_status_is_stored_or_released_as_the_design_says(status: Code) -> None:
    """All 17 statuses under each of the three effects (4.5, 4.6)."""
    by_effects = zip((Effects.OPAQUE, Effects.TRANSACTIONAL, Effects.REPEATABLE), STATUSES[status], strict=True)
    for effects, expected in by_effects:
        assert protocol.disposition(status, Policy(effects=effects)) is expected


@pytest.mark.parametrize("status", [code for code in Code if code is not Code.OK])
@pytest.mark.parametrize("wanted", Disposition)
def test_a_policy_can_change_each_status(status: Code, wanted: Disposition) -> None:
    """But for OK (4.6)."""
    for effects in Effects:
        policy = Policy(effects=effects, statuses={status: wanted})
        assert protocol.disposition(status, policy) is wanted
