"""The promises of operations without a claim (5.1, "One commit") can be broken: each broken rule is caught."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Answered,
    Call,
    Conclusion,
    Effect,
    Execute,
    Executed,
    Found,
    Plan,
    Ran,
    Released,
)
from grpc_idempotency.policy import Disposition
from grpc_idempotency.records import Claim, Effects, Outcome, Record, State

from .scenarios import Behaviour, Claims, Scenario
from .schedules import caught
from .stores import Store
from .world import World

ONE = Scenario(effects=Effects.TRANSACTIONAL, claims=Claims.NONE)
TWO = replace(ONE, calls=(("A", "p", "x"), ("B", "q", "x")))


class CommitsOverRecords(Store):
    def commit(self, claim: Claim, outcome: Outcome, ttl: timedelta, *, claimed: bool) -> None:
        del claimed
        self.insert(claim, outcome, ttl)


class CommitsRowsAlone(Store):
    """The transaction commits, and its record does not."""

    def insert(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> None:
        """Makes none."""


class CommitsOverClaims(Store):
    """Only completed records stand in its way, as if an operation that is claimed were absent."""

    def commit(self, claim: Claim, outcome: Outcome, ttl: timedelta, *, claimed: bool) -> None:
        row = self.row(claim.name)
        if claimed or (row is not None and row.state is State.COMPLETED):
            super().commit(claim, outcome, ttl, claimed=claimed)
        else:
            self.insert(claim, outcome, ttl)


class ReplacesOutcomes(Store):
    def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> datetime | Record:
        self.rows.clear()
        return super().complete_unclaimed(claim, outcome, ttl)


class SaysStoredWhereAnotherStands(Store):
    def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> datetime | Record:
        stored = super().complete_unclaimed(claim, outcome, ttl)
        return stored if isinstance(stored, datetime) else stored.created_at


class ClaimsOverOutcomes(Store):
    def claim(self, claim: Claim, over: bytes | None) -> Record | None:
        self.rows.clear()
        return super().claim(claim, over)


REFUSING = replace(TWO, behaviour=Behaviour.REFUSING)
STORES: dict[Callable[[], Store], tuple[str, Scenario]] = {
    CommitsOverRecords: ("5.1: a transaction without a claim", TWO),
    CommitsRowsAlone: ("5.1: more than one run", TWO),
    CommitsOverClaims: ("5.1: a transaction without a claim", replace(TWO, claims=Claims.SOME)),
    ReplacesOutcomes: ("5.1: an outcome was stored", REFUSING),
    SaysStoredWhereAnotherStands: ("4.7", REFUSING),
    ClaimsOverOutcomes: ("5.1: more than one run", replace(TWO, behaviour=Behaviour.STEPPING)),
}


@pytest.mark.parametrize("store", STORES)
def test_a_store_that_breaks_its_contract_is_caught(store: Callable[[], Store]) -> None:
    """Each way to break what a store promises of operations without a claim breaks a promise in some schedule."""
    promise, scenario = STORES[store]
    caught(replace(scenario, store=store), promise)


def test_a_handler_that_runs_without_a_look_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commit would be refused, but it would run for each retry (5.1)."""
    honest = protocol.operate

    def blind(call: Call, fence: bytes) -> Plan[Conclusion]:
        plan = honest(call, fence)
        next(plan)
        execute: Effect[Ran] = plan.send(None)
        assert isinstance(execute, Execute)
        assert execute.claim is not None
        ran: Ran = yield execute
        return (yield from protocol._settle_unclaimed(call, execute.claim, ran))

    monkeypatch.setattr(protocol, "operate", blind)
    caught(ONE, "5.1: the handler ran, though its outcome was stored")


@pytest.mark.parametrize(
    ("scenario", "promise"),
    [
        (TWO, "5.1: . was told that its commit was refused"),
        (replace(TWO, behaviour=Behaviour.CATCHING), "5.1: . was told that its commit was refused"),
        (replace(ONE, faults=1), "5.1: . was answered .*, though its transaction has committed"),
        (replace(ONE, behaviour=Behaviour.CATCHING, faults=1), "5.1: . was answered .*, though its transaction"),
    ],
)
def test_a_failure_that_is_told_without_a_look_is_caught(
    scenario: Scenario, promise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit may have been refused for the record of another run, or be there though its answer was lost (5.1)."""

    def hasty(call: Call, claim: Claim) -> Plan[Conclusion]:
        del call, claim
        yield from ()
        return Found(None)

    monkeypatch.setattr(protocol, "_overtaken", hasty)
    caught(scenario, promise)


@pytest.mark.parametrize("scenario", [TWO, replace(ONE, faults=1)])
def test_a_handlers_word_that_nothing_happened_is_not_taken(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have caught the error of its transaction (4.6, 5.1)."""
    honest = protocol._settle_unclaimed

    def credulous(call: Call, claim: Claim, ran: Ran) -> Plan[Conclusion]:
        match ran.ended:
            case Answered(outcome, False) if protocol.disposition(outcome.status, call.policy) is Disposition.RELEASE:
                return Released(outcome)
            case _:
                return (yield from honest(call, claim, ran))

    monkeypatch.setattr(protocol, "_settle_unclaimed", credulous)
    caught(replace(scenario, behaviour=Behaviour.CATCHING), "5.1")


def test_an_answer_that_is_told_and_not_stored_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is answered without a transaction is kept as well (4.6, 5.1)."""
    monkeypatch.setattr(protocol, "disposition", lambda *_: Disposition.RELEASE)
    caught(replace(ONE, behaviour=Behaviour.REFUSING), "4.7")


def test_an_outcome_that_is_told_over_a_record_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run was quicker: its reply is the first one (5.1)."""
    honest = protocol._store

    def proud(call: Call, claim: Claim, outcome: Outcome, *, claimed: bool = True) -> Plan[Conclusion]:
        yield from honest(call, claim, outcome, claimed=claimed)
        return Executed(outcome)

    monkeypatch.setattr(protocol, "_store", proud)
    caught(REFUSING, "4.7")


def test_anothers_record_that_is_taken_for_ones_own_claim_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a claim of this run is given back, and the failure told (5.1, 5.5)."""
    monkeypatch.setattr(protocol, "_is_own_claim", lambda _claim, record: record is not None)
    caught(TWO, "5.1: . was told that its commit was refused")


def test_a_second_run_beside_one_that_can_not_be_stopped_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a claim only its process knows that it still runs (4.1)."""
    monkeypatch.setattr(World, "_conclude_early", World._conclude)
    caught(replace(ONE, behaviour=Behaviour.ABANDONED), "4.1: the handler runs twice at a time in one process")


@pytest.mark.parametrize("scenario", [ONE, TWO])
def test_another_request_that_is_answered_is_caught(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the latest when the record stands, a reused key is told (2.3, 5.1)."""
    monkeypatch.setattr(protocol, "same_request", lambda *_: True)
    caught(scenario, "2.3: another was answered with the outcome of another request")
