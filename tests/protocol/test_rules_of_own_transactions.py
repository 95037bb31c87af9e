"""The rules of an outcome that was written in a transaction which the handler opened itself (5.6)."""

import pytest

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Answered,
    Complete,
    Ended,
    Executed,
    Get,
    Raised,
    Ran,
    Release,
    Released,
    RolledBack,
)
from grpc_idempotency.records import Code, Effects, Outcome, State

from .hand import CALL, DOWN, NOON, OK, Hand, claim, record

FAILED = Outcome(status=Code.UNKNOWN)


def settling(ended: Ended, effects: Effects = Effects.TRANSACTIONAL) -> Hand:
    return Hand(protocol.settle(CALL, claim(effects), Ran(ended, unconfirmed=True), 0))


@pytest.mark.parametrize("effects", Effects)
@pytest.mark.parametrize("ended", [RolledBack(OK), Raised(FAILED), Answered(FAILED)])
def test_what_the_record_shows_as_committed_is_the_answer(ended: Ended, effects: Effects) -> None:
    """However the handler has ended after its commit."""
    hand = settling(ended, effects)
    hand.reply(Get, record(State.COMPLETED, fence=b"mine", outcome=OK, completed_at=NOON))
    assert hand.result == Executed(OK, NOON)


@pytest.mark.parametrize("effects", Effects)
def test_a_handler_that_returned_without_its_commit_has_failed(effects: Effects) -> None:
    """Its rows are not there, so its reply is not stored; a retry runs it again."""
    hand = settling(RolledBack(OK), effects)
    hand.reply(Get, record(State.RUNNING, fence=b"mine"))
    hand.reply(Release, True)
    assert hand.result.outcome.status is Code.UNAVAILABLE


def test_a_handler_that_failed_without_its_commit_is_settled_as_ever() -> None:
    """An exception after a rollback is that exception."""
    hand = settling(Raised(FAILED))
    hand.reply(Get, record(State.RUNNING, fence=b"mine"))
    hand.reply(Release, True)
    assert hand.result == Released(FAILED)
    hand = settling(Raised(FAILED), Effects.OPAQUE)
    hand.reply(Get, None)
    assert hand.asked(Complete).outcome == FAILED


def test_another_owners_record_is_no_evidence() -> None:
    """A run that was taken over has not committed, whatever its successor has."""
    hand = settling(Raised(FAILED))
    hand.reply(Get, record(State.COMPLETED, fence=b"other"))
    hand.reply(Release, False)
    hand.reply(Get, record(State.COMPLETED, fence=b"other"))
    assert hand.result.record.fence == b"other"


def test_a_commit_that_can_not_be_looked_up_is_found_by_the_release() -> None:
    """A completed record can't be released. So it is found after all."""
    hand = settling(RolledBack(OK))
    hand.fail(Get, DOWN)
    hand.reply(Release, False)
    hand.reply(Get, record(State.COMPLETED, fence=b"mine"))
    assert hand.result == Executed(OK)
