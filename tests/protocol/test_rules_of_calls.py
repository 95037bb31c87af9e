"""What one call is answered, by what the execution that it is on concludes with (2.3, 3.2, 4.1, 4.3, 4.7)."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Answer,
    Executed,
    Follow,
    Followed,
    Found,
    Get,
    Join,
    Refused,
    Released,
    Status,
    Unprotected,
    Watch,
)
from grpc_idempotency._protocol.refusals import Reason, Refusal
from grpc_idempotency.records import Code, Fingerprint, Outcome, State

from .hand import ANOTHER, CALL, DOWN, FINGERPRINT, NOON, OK, Hand, begun, concluded, joined, reason_of, record


def test_the_call_that_founds_a_execution_waits_for_its_end() -> None:
    """The first call gets the handler's answer, as ``executed``, however long it takes (2.2, 4.1)."""
    hand = Hand(protocol.answer(CALL))
    assert hand.asked(Join).call is CALL
    hand.reply(Join, joined(leads=True))
    assert hand.asked(Follow).until is None
    hand.reply(Follow, Followed(Executed(OK)))
    assert hand.result == Answer(OK, Status.EXECUTED)


def test_a_duplicate_attaches_and_gets_the_first_reply() -> None:
    """A duplicate in the same process waits for the execution, as long as it may (4.3)."""
    hand = Hand(protocol.answer(CALL))
    hand.reply(Join, joined(leads=False))
    assert hand.asked(Follow).until == CALL.until
    hand.reply(Follow, Followed(Executed(OK)))
    assert hand.result == Answer(OK, Status.ATTACHED)


def test_a_duplicate_that_has_waited_long_enough_is_told_so() -> None:
    """IN_FLIGHT, with a time to come again that gRPC's own retries heed (2.3, 4.3)."""
    refusal = concluded(None, leads=False).result
    assert reason_of(refusal) is Reason.IN_FLIGHT
    assert refusal.push_back
    assert refusal.retry_after > timedelta(0)


def test_a_server_that_takes_on_nothing_more_refuses() -> None:
    """Too many detached executions, or a server that stops: refused before the claim (4.4, 4.11)."""
    hand = Hand(protocol.answer(CALL))
    hand.reply(Join, None)
    assert reason_of(hand.result) is Reason.STORE_UNAVAILABLE


def test_what_nobody_can_be_answered_is_told_to_all() -> None:
    """A refusal that an execution concludes with goes to every call on it (5.5)."""
    refusal = Refusal(reason=Reason.KEY_REUSED)
    assert concluded(Refused(refusal)).result is refusal
    assert concluded(Refused(refusal), leads=False).result is refusal


def test_an_unprotected_answer_says_so() -> None:
    """The mark tells a client that its retry may run again (5.5)."""
    assert concluded(Unprotected(OK)).result == Answer(OK, Status.UNPROTECTED)


def test_a_released_answer_is_the_founders_alone() -> None:
    """Its own call hears UNAVAILABLE; those who waited contend for one new claim (4.3, 4.6)."""
    gone = Outcome(status=Code.UNAVAILABLE, details="later")
    assert concluded(Released(gone)).result == Answer(gone, Status.EXECUTED)
    hand = concluded(Released(gone), leads=False)
    hand.reply(Join, joined(leads=True))
    hand.reply(Follow, Followed(Found(record(State.COMPLETED))))
    assert hand.result == Answer(OK, Status.ATTACHED)  # it waited for this outcome, if not in one go


def test_a_stream_that_has_begun_ends_as_its_own_run_ended() -> None:
    """Who has part of a stream can't be given another run's: not by contending, not by a replay (4.3, 4.8)."""
    gone = Outcome(status=Code.UNAVAILABLE, message=b"")
    assert begun(Released(gone), leads=False) == Answer(gone, Status.ATTACHED)
    assert begun(Released(gone), leads=True) == Answer(gone, Status.EXECUTED)
    assert reason_of(begun(Found(record(State.COMPLETED)), leads=True)) is Reason.STORE_UNAVAILABLE
    assert reason_of(begun(Found(None), leads=False)) is Reason.STORE_UNAVAILABLE


def test_a_failed_stream_is_replayed_only_with_its_messages() -> None:
    """Its status alone would be another answer than the first (4.7, 4.8)."""
    for retained, told in ((False, Refusal), (True, Answer)):
        hand = Hand(protocol.answer(replace(CALL, streams=True)))
        hand.reply(Join, joined(leads=True))
        failed = Outcome(status=Code.NOT_FOUND, retained=retained)
        hand.reply(Follow, Followed(Found(record(State.COMPLETED, outcome=failed))))
        assert type(hand.result) is told


def test_an_operation_that_is_gone_is_begun_again() -> None:
    """Whoever finds that the record vanished meanwhile begins anew (4.3)."""
    hand = concluded(Found(None))
    hand.reply(Join, joined(leads=True))
    hand.reply(Follow, Followed(Executed(OK)))
    assert hand.result == Answer(OK, Status.EXECUTED)


def test_a_completed_operation_is_replayed() -> None:
    """The stored outcome, and when it was stored (2.2, 4.7)."""
    assert concluded(Found(record(State.COMPLETED))).result == Answer(OK, Status.REPLAYED, NOON)


def test_a_stored_failure_is_replayed() -> None:
    """An outcome without a message is whole unless it is OK (4.6, 4.7)."""
    failed = Outcome(status=Code.NOT_FOUND, details="no such thing")
    answer = concluded(Found(record(State.COMPLETED, outcome=failed))).result
    assert answer == Answer(failed, Status.REPLAYED, NOON)


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
    refusal = concluded(Found(record(State.COMPLETED, **said))).result
    assert reason_of(refusal) is Reason.RESPONSE_NOT_RETAINED
    assert refusal.variables["created"] == NOON.isoformat(timespec="seconds")
    assert (refusal.variables["status"], refusal.variables["cause"].startswith(cause)) == (status, True)


def test_a_held_operation_names_itself_to_its_operator() -> None:
    """OUTCOME_UNKNOWN, with the cause and the operation (2.3, 4.5)."""
    refusal = concluded(Found(record(State.HELD, reason="it was cut off"))).result
    assert reason_of(refusal) is Reason.OUTCOME_UNKNOWN
    assert refusal.variables == {"cause": "it was cut off", "operation": b"name".hex()}


@pytest.mark.parametrize("state", State)
def test_a_reused_key_is_told_whatever_state_its_operation_is_in(state: State) -> None:
    """KEY_REUSED at once, without waiting (2.3)."""
    assert reason_of(concluded(Found(record(state, fingerprint=ANOTHER))).result) is Reason.KEY_REUSED


def test_a_run_in_another_process_is_watched() -> None:
    """The call waits for the end of exactly that run, then looks again (4.3)."""
    for state in (State.RUNNING, State.UNDOING, State.WAITING):
        assert concluded(Found(record(state))).asked(Watch).fence == b"theirs"
    hand = concluded(Found(record()))
    watch = hand.asked(Watch)
    assert (watch.name, watch.fence, watch.until) == (b"name", b"theirs", CALL.until)
    hand.reply(Watch, True)
    hand.reply(Join, joined(leads=True))
    hand.reply(Follow, Followed(Found(record(State.COMPLETED))))
    assert hand.result == Answer(OK, Status.ATTACHED)


def test_a_run_in_another_process_can_outlast_a_wait() -> None:
    """IN_FLIGHT when the wait budget is spent (4.3)."""
    hand = concluded(Found(record()))
    hand.reply(Watch, False)
    assert reason_of(hand.result) is Reason.IN_FLIGHT


def beside_another() -> Hand:
    hand = Hand(protocol.answer(CALL))
    hand.reply(Join, joined(leads=False, fingerprint=ANOTHER))
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
    assert hand.result == Answer(OK, Status.REPLAYED, NOON)


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
