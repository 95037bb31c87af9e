"""What the handlers of a scenario do, in three steps: each begins, its effect takes place, it ends."""

from datetime import timedelta

from grpc_idempotency._protocol.effects import Answered, CutShort, Ended, Raised, RolledBack
from grpc_idempotency.errors import FenceRefused
from grpc_idempotency.records import Claim, Code, Effects, Outcome

from .actors import Flight
from .promises import Witness
from .scenarios import Behaviour, Fault, Scenario
from .stores import NAME, Store

_TRANSACTIONS = (Behaviour.COMMITTING, Behaviour.CATCHING)
_FAILED = (Fault.NOT_DONE, Fault.IN_VAIN)


class Handlers:
    """The handlers of one world."""

    def __init__(self, scenario: Scenario, store: Store, witness: Witness) -> None:
        self.scenario = scenario
        self.store = store
        self.witness = witness

    def behaviour(self, flight: Flight) -> Behaviour:
        """What this run does, which has begun."""
        first = next(iter(self.witness.runs)) == flight.run
        behaviour = self.scenario.behaviour if first else Behaviour.OK
        transactional = self.scenario.effects is Effects.TRANSACTIONAL
        return Behaviour.COMMITTING if transactional and behaviour is Behaviour.OK else behaviour

    def asks_store(self, flight: Flight) -> bool:
        """Whether its next step is a call of the store."""
        return self._claims_next(flight) or self._commits_next(flight)

    def abandoned(self, flight: Flight) -> bool:
        """Whether it has run past its limit just now, and can't be stopped."""
        return flight.stage == 2 and self.behaviour(flight) is Behaviour.ABANDONED

    def _claims_next(self, flight: Flight) -> bool:
        return flight.stage == 1 and not flight.claimed and self.behaviour(flight) is Behaviour.STEPPING

    def _commits_next(self, flight: Flight) -> bool:
        if flight.stage == 0:
            return False
        behaviour = self.behaviour(flight)
        late = behaviour is Behaviour.STEPPING or (
            behaviour is Behaviour.ABANDONED and self.scenario.effects is Effects.TRANSACTIONAL
        )
        return behaviour in _TRANSACTIONS or (flight.stage == 2 and late)

    def step(self, flight: Flight, claim: Claim, fault: Fault | None) -> Ended | None:
        """Does the next step of this run, which has begun; how the run ended, if so."""
        if self._commits_next(flight):
            return self._commit(flight, claim, fault)
        if flight.stage == 2:
            return self._end(flight)
        ended = self._claim(flight, claim, fault) if self._claims_next(flight) else None
        flight.stage = 2
        self._take_effect(flight)
        return ended

    def _claim(self, flight: Flight, claim: Claim, fault: Fault | None) -> Ended | None:
        """The run comes to its step, for which the operation is claimed after all."""
        failed = RolledBack(_unknown(flight, "no claim"), own=False)
        if fault in _FAILED:
            return failed
        standing = self.store.claim(claim, None)
        if fault is Fault.DONE:
            return failed
        if standing is not None:
            return self._refused(flight)
        flight.claimed = True
        flight.lease_until = self.store.rows[NAME].lease_until
        self.witness.won(claim)
        return None

    def _take_effect(self, flight: Flight) -> None:
        match self.behaviour(flight):
            case Behaviour.RELEASING:
                self.witness.runs[flight.run].nothing_happened = True
            case Behaviour.STEPPING:
                flight.steps = flight.claimed
            case Behaviour.REFUSING:
                pass
            case _ if self.scenario.effects is not Effects.TRANSACTIONAL:
                self.witness.effects.append(flight.run)

    def _commit(self, flight: Flight, claim: Claim, fault: Fault | None) -> Ended:
        if fault in _FAILED:
            self.witness.runs[flight.run].nothing_happened = True
            return self._not_committed(flight)
        outcome = Outcome(status=Code.OK, message=flight.run.encode())
        before = self.store.row(NAME)
        try:
            self.store.commit(claim, outcome, timedelta(hours=24), claimed=flight.claimed)
        except FenceRefused:
            return self._refused(flight)
        self.witness.committed(flight.run, claim, before, outcome, claimed=flight.claimed)
        return self._not_committed(flight) if fault is Fault.DONE else Answered(outcome, committed=True)

    def _not_committed(self, flight: Flight) -> Ended:
        """How it ends when the store has not answered its commit."""
        return self._caught(flight) or RolledBack(_unknown(flight, "no commit"))

    def _refused(self, flight: Flight) -> Ended:
        """How it ends when a record stands in the way of its commit, or of its claim."""
        ended = self._caught(flight) or Raised(_unknown(flight, "fence refused"))
        self.witness.was_refused(ended.outcome)
        return ended

    def _caught(self, flight: Flight) -> Answered | None:
        """How it ends when it catches the error of its transaction."""
        if self.behaviour(flight) is not Behaviour.CATCHING:
            return None
        return Answered(Outcome(status=Code.UNAVAILABLE, details=flight.run))

    def _end(self, flight: Flight) -> Ended:
        match self.behaviour(flight):
            case Behaviour.RELEASING:
                return Answered(Outcome(status=Code.UNAVAILABLE, details=flight.run))
            case Behaviour.REFUSING:
                return Answered(Outcome(status=Code.INVALID_ARGUMENT, details=flight.run))
            case Behaviour.RAISING:
                return Raised(_unknown(flight, "raised"))
            case Behaviour.CANCELLED:
                self.witness.cut = True
                return CutShort.CANCELLED
            case _:
                return Answered(Outcome(status=Code.OK, message=flight.run.encode()))


def _unknown(flight: Flight, why: str) -> Outcome:
    return Outcome(status=Code.UNKNOWN, details=f"{flight.run}: {why}")
