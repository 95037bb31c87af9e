"""What goes on beside an execution: its lease is renewed, runs in other processes are watched (4.3, 4.9)."""

from dataclasses import replace
from datetime import timedelta

import pytest

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    AwaitedRuns,
    EndWaits,
    Get,
    LeaseHolds,
    LoseLease,
    Pause,
    ReadStandings,
    Renew,
    Told,
)
from grpc_idempotency.records import Record, Renewal, Standing, State

from .hand import DOWN, Hand, claim, record


def test_a_lease_is_renewed_every_so_often() -> None:
    """At once, since it begins when the first renewal is due, and then at its interval (4.9)."""
    hand = Hand(protocol.keep_lease(claim(), timedelta(seconds=5)))
    for _ in range(3):
        assert hand.asked(Renew) == Renew(b"name", b"mine", timedelta(seconds=15), 5.0)
        hand.reply(Renew, Renewal.RENEWED)
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
    hand.reply(Renew, Renewal.RENEWED)
    assert hand.asked(Pause).seconds == 5.0
    hand.reply(Pause, None)
    hand.fail(Renew, DOWN)
    hand.reply(LeaseHolds, True)
    assert hand.asked(Pause).seconds == 0.0
    assert hand.told == []


def test_a_busy_record_loses_nothing() -> None:
    """While another transaction uses the record, its renewal is tried again, as one that failed (4.9)."""
    hand = Hand(protocol.keep_lease(claim(), timedelta(seconds=5)))
    pauses = []
    for _ in range(3):
        hand.reply(Renew, Renewal.BUSY)
        hand.reply(LeaseHolds, True)
        pauses.append(hand.asked(Pause).seconds)
        hand.reply(Pause, None)
    assert pauses == [0.0, 0.05, 0.1]
    hand.reply(Renew, Renewal.RENEWED)
    hand.reply(Pause, None)
    hand.reply(Renew, Renewal.BUSY)
    hand.reply(LeaseHolds, False)
    assert hand.told == [Told.LAPSED]


def test_a_lease_that_ran_out_is_told_once_and_may_be_had_again() -> None:
    """A run whose server could not renew in time goes on trying: nobody may have been there to take over (4.9)."""
    hand = Hand(protocol.keep_lease(claim(), timedelta(seconds=5)))
    for _ in range(2):
        hand.fail(Renew, DOWN)
        hand.reply(LeaseHolds, False)
        assert hand.asked(Pause).seconds == 5.0
        hand.reply(Pause, None)
        assert hand.told == [Told.LAPSED]
    hand.reply(Renew, Renewal.RENEWED)
    hand.reply(Pause, None)
    hand.fail(Renew, DOWN)
    hand.reply(LeaseHolds, False)
    assert hand.told == [Told.LAPSED, Told.LAPSED]


@pytest.mark.parametrize(
    "now",
    [None, record(fence=b"next"), record(State.HELD, fence=b"mine")],
    ids=["released", "taken over", "held"],
)
def test_a_lease_of_another_is_lost(now: Record | None) -> None:
    """The run is told, and its lease is renewed no more (4.2, 4.9)."""
    hand = Hand(protocol.keep_lease(claim(), timedelta(seconds=5)))
    hand.reply(Renew, Renewal.LOST)
    hand.reply(Get, now)
    hand.reply(LoseLease, None)
    assert hand.told == [Told.LOST]
    assert hand.result is None


@pytest.mark.parametrize("state", [State.COMPLETED, State.WAITING])
def test_a_run_that_has_ended_by_itself_has_lost_nothing(state: State) -> None:
    """A transaction that has committed the reply, say, ends the renewals of a handler that goes on (4.9, 5.1)."""
    hand = Hand(protocol.keep_lease(claim(), timedelta(seconds=5)))
    hand.reply(Renew, Renewal.LOST)
    hand.fail(Get, DOWN)
    hand.reply(LeaseHolds, True)
    hand.reply(Pause, None)
    hand.reply(Renew, Renewal.LOST)
    hand.reply(Get, record(state, fence=b"mine"))
    assert (hand.told, hand.result) == ([], None)


OURS = (b"name", b"theirs")
OTHER = (b"other", b"another's")
RUNNING = Standing(fence=b"theirs", state=State.RUNNING, lapsed=False)


@pytest.mark.parametrize(
    "now",
    [
        None,
        replace(RUNNING, fence=b"next"),
        replace(RUNNING, state=State.HELD),
        replace(RUNNING, state=State.COMPLETED),
        replace(RUNNING, lapsed=True),
        replace(RUNNING, state=State.WAITING, lapsed=True),
    ],
    ids=["absent", "of another fence", "held", "completed", "lapsed", "due"],
)
def test_a_run_elsewhere_has_ended_when_its_record_says_so(now: Standing | None) -> None:
    """One query in each round tells of all runs that calls wait for; the waits for those that ended are over (4.3)."""
    hand = Hand(protocol.poll())
    other = Standing(fence=b"another's", state=State.UNDOING, lapsed=False)
    for state in (State.RUNNING, State.UNDOING, State.WAITING):
        assert hand.asked(Pause).seconds == 0.05
        hand.reply(Pause, None)
        hand.reply(AwaitedRuns, [OURS, OTHER])
        assert hand.asked(ReadStandings).names == {b"name", b"other"}
        hand.reply(ReadStandings, {b"name": replace(RUNNING, state=state), b"other": other})
    hand.reply(Pause, None)
    hand.reply(AwaitedRuns, [OURS, OTHER])
    hand.reply(ReadStandings, {b"other": other} if now is None else {b"name": now, b"other": other})
    assert hand.asked(EndWaits).runs == [OURS]
    hand.reply(EndWaits, None)
    hand.reply(Pause, None)
    hand.reply(AwaitedRuns, [])
    assert hand.result is None


def test_without_a_store_all_waits_end() -> None:
    """The next claim will say what is wrong (4.3, 5.5)."""
    hand = Hand(protocol.poll())
    hand.reply(Pause, None)
    hand.reply(AwaitedRuns, [OURS, OTHER])
    hand.fail(ReadStandings, DOWN)
    assert hand.asked(EndWaits).runs == [OURS, OTHER]
    hand.reply(EndWaits, None)
    assert hand.asked(Pause).seconds == 0.05
