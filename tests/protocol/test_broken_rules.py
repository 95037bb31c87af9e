"""The promises that ``test_interleavings.py`` finds kept can be broken: each broken rule is caught."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    AwaitedRuns,
    Call,
    Conclusion,
    Executed,
    Follow,
    Join,
    Pause,
    Plan,
    Ran,
    ReadStandings,
    Refused,
    RolledBack,
)
from grpc_idempotency.policy import Disposition
from grpc_idempotency.records import Claim, Effects, Outcome, Record, State

from .scenarios import Behaviour, Scenario
from .schedules import caught
from .stores import NAME, Store

TWO = (("A", "p", "x"), ("B", "q", "x"))


class Forgetful(Store):
    def forget_running(self) -> None:
        row = self.rows.get(NAME)
        if row is not None and row.state is State.RUNNING:
            del self.rows[NAME]


class CompletesWithoutFence(Store):
    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        row = self.rows.get(name)
        return super().complete(name, fence if row is None else row.fence, outcome, ttl)


class ReleasesWithoutFence(Store):
    def release(self, name: bytes, fence: bytes) -> bool:
        return self.rows.pop(name, None) is not None


class ClaimsAlways(Forgetful):
    def claim(self, claim: Claim, over: bytes | None) -> Record | None:
        self.forget_running()
        return super().claim(claim, over)


class TakesOverLiveLeases(Forgetful):
    def claim(self, claim: Claim, over: bytes | None) -> Record | None:
        if over is not None:
            self.forget_running()
        return super().claim(claim, over)


class HoldsLiveLeases(Store):
    def hold(self, name: bytes, fence: bytes, reason: str, lapsed_only: bool) -> bool:
        return super().hold(name, fence, reason, lapsed_only=False)


class ReleasesLiveLeases(Store):
    def release_lapsed(self, name: bytes, fence: bytes) -> bool:
        return self.release(name, fence)


class ReleasesFinishedSteps(Store):
    def release_lapsed(self, name: bytes, fence: bytes) -> bool:
        row = self.row(name)
        return row is not None and self.lapsed(row) and self.release(name, fence)


class CommitsWithoutFence(Store):
    def commit(self, claim: Claim, outcome: Outcome, ttl: timedelta, *, claimed: bool) -> None:
        row = self.rows.get(claim.name)
        if row is not None:
            self.rows[claim.name] = replace(row, state=State.COMPLETED, completed=self.now, outcome=outcome)


class ForgetsRunningRecords(Forgetful):
    def crashed(self) -> None:
        self.forget_running()


class ForgetsOutcomes(Store):
    def crashed(self) -> None:
        self.rows.clear()


class ForgetsEffects(Store):
    """As if an opaque operation might be taken over."""

    def claim(self, claim: Claim, over: bytes | None) -> Record | None:
        record = super().claim(claim, over)
        return None if record is None else replace(record, effects=Effects.REPEATABLE)


class KeepsAnotherOutcome(Store):
    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        return super().complete(name, fence, replace(outcome, message=b"garbled"), ttl)


STORES: dict[Callable[[], Store], tuple[str, Scenario]] = {
    CompletesWithoutFence: ("4.2", Scenario(effects=Effects.REPEATABLE, calls=TWO, lapses=1)),
    ReleasesWithoutFence: (
        "4.2",
        Scenario(effects=Effects.REPEATABLE, behaviour=Behaviour.RELEASING, calls=TWO, lapses=1),
    ),
    CommitsWithoutFence: ("4.2", Scenario(effects=Effects.TRANSACTIONAL, calls=TWO, lapses=1)),
    ClaimsAlways: ("4.1", Scenario(effects=Effects.REPEATABLE, calls=TWO)),
    TakesOverLiveLeases: ("4.1", Scenario(effects=Effects.REPEATABLE, calls=TWO, lapses=1, renewing=True)),
    HoldsLiveLeases: ("4.9", Scenario(effects=Effects.OPAQUE, calls=TWO, lapses=1, renewing=True)),
    ReleasesLiveLeases: (
        "5.4",
        Scenario(effects=Effects.TRANSACTIONAL, calls=TWO, lapses=1, recoveries=1, renewing=True),
    ),
    ReleasesFinishedSteps: (
        "5.4",
        Scenario(effects=Effects.TRANSACTIONAL, behaviour=Behaviour.STEPPING, calls=TWO, lapses=1, recoveries=1),
    ),
    ForgetsRunningRecords: ("4.1", Scenario(effects=Effects.OPAQUE, crashes=1, retries=True)),
    ForgetsOutcomes: ("4.7", Scenario(effects=Effects.REPEATABLE, calls=TWO, crashes=1)),
    ForgetsEffects: ("4.5", Scenario(effects=Effects.OPAQUE, calls=TWO, lapses=1)),
    KeepsAnotherOutcome: ("4.7", Scenario(effects=Effects.OPAQUE)),
}


@pytest.mark.parametrize("store", STORES)
def test_a_store_that_breaks_its_contract_is_caught(store: Callable[[], Store]) -> None:
    """Each way to break the contract of a store breaks a promise in some schedule."""
    clause, scenario = STORES[store]
    caught(replace(scenario, store=store), clause)


def test_a_release_after_ok_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An effect that took place is not forgotten (4.6)."""
    monkeypatch.setattr(protocol, "disposition", lambda *_: Disposition.RELEASE)
    caught(Scenario(effects=Effects.OPAQUE), "4.5")
    caught(Scenario(effects=Effects.REPEATABLE), "4.7")


def test_a_release_in_doubt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An opaque handler that can't know its outcome does not run again (4.5)."""

    def lets_go(call: Call, claim: Claim, _cause: str) -> Plan[Conclusion]:
        return (yield from protocol._release(call, claim, protocol._RUNS_AGAIN))

    monkeypatch.setattr(protocol, "_hold", lets_go)
    caught(Scenario(effects=Effects.OPAQUE, behaviour=Behaviour.DOUBTING), "4.")


def test_a_stored_status_that_says_nothing_happened_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry of a call that was answered UNAVAILABLE runs (4.6)."""
    monkeypatch.setattr(protocol, "disposition", lambda *_: Disposition.STORE)
    caught(Scenario(effects=Effects.OPAQUE, behaviour=Behaviour.RELEASING), "4.6")


def test_an_answer_for_another_request_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reused key is told (2.3)."""
    monkeypatch.setattr(protocol, "same_request", lambda *_: True)
    for calls in ((("A", "p", "x"), ("B", "p", "y")), (("A", "p", "x"), ("B", "q", "y"))):
        caught(Scenario(effects=Effects.OPAQUE, calls=calls), "2.3")


def test_a_key_called_reused_for_a_neighbours_sake_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record says whose key it is, not whoever came into the process first (2.3)."""

    def told_by_the_execution(call: Call) -> Plan[Conclusion]:
        yield from ()
        return Refused(protocol._key_reused(call))

    monkeypatch.setattr(protocol, "_beside_another", told_by_the_execution)
    caught(Scenario(effects=Effects.OPAQUE, calls=(("A", "p", "x"), ("B", "p", "y")), earlier="x"), "2.3")


def test_a_zombie_that_is_believed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was overtaken answers with what the record says, and not with its own outcome (4.2)."""
    honest = protocol._store

    def proud(call: Call, claim: Claim, outcome: Outcome, *, claimed: bool = True) -> Plan[Conclusion]:
        yield from honest(call, claim, outcome, claimed=claimed)
        return Executed(outcome)

    monkeypatch.setattr(protocol, "_store", proud)
    caught(Scenario(effects=Effects.REPEATABLE, calls=TWO, lapses=1), "4.7")


def test_a_failure_told_over_a_commit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction whose answer was lost is looked up before its failure is told (5.1)."""
    honest = protocol.settle

    def hasty(call: Call, claim: Claim, ran: Ran, failed_runs: int) -> Plan[Conclusion]:
        if isinstance(ran.ended, RolledBack):
            return (yield from protocol._store(call, claim, ran.ended.outcome))
        return (yield from honest(call, claim, ran, failed_runs))

    monkeypatch.setattr(protocol, "settle", hasty)
    caught(Scenario(effects=Effects.OPAQUE, behaviour=Behaviour.COMMITTING, faults=1), "4.7")


def test_a_call_that_is_never_told_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poller that never comes home leaves its callers waiting for ever (4.3)."""

    def blind() -> Plan[None]:
        while True:
            yield Pause(1.0)
            runs = yield AwaitedRuns()
            yield ReadStandings(frozenset(name for name, _ in runs))

    monkeypatch.setattr(protocol, "poll", blind)
    caught(Scenario(effects=Effects.OPAQUE, calls=TWO), "4.3")


def test_a_call_that_does_not_end_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that turns in a circle is no answer (4.3)."""

    def restless(call: Call) -> Plan[Any]:
        joined = yield Join(call)
        while joined is not None:
            yield Follow(joined, None)

    monkeypatch.setattr(protocol, "answer", restless)
    caught(Scenario(effects=Effects.OPAQUE), "4.3")


def test_a_refusal_without_cause_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """IN_FLIGHT only where a wait is over, OUTCOME_UNKNOWN only where nobody can know (2.3)."""
    monkeypatch.setattr(protocol, "_replay", lambda *_: protocol._in_flight())
    caught(Scenario(effects=Effects.OPAQUE, calls=TWO), "2.3")
