"""What the handlers of a scenario do, in three steps: each begins, its effect takes place, it ends."""

from datetime import timedelta

from grpc_idempotency._protocol.effects import Answered, CutShort, Ended, InDoubt, Raised, RolledBack
from grpc_idempotency.errors import FenceRefused
from grpc_idempotency.records import Claim, Code, Effects, Outcome

from .actors import Execution
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

    def behaviour(self, execution: Execution) -> Behaviour:
        """What this run does, which has begun."""
        first = next(iter(self.witness.runs)) == execution.run
        behaviour = self.scenario.behaviour if first else Behaviour.OK
        transactional = self.scenario.effects is Effects.TRANSACTIONAL
        return Behaviour.COMMITTING if transactional and behaviour is Behaviour.OK else behaviour

    def asks_store(self, execution: Execution) -> bool:
        """Whether its next step is a call of the store."""
        return self._claims_next(execution) or self._commits_next(execution)

    def abandoned(self, execution: Execution) -> bool:
        """Whether it has run past its limit just now, and can't be stopped."""
        return execution.stage == 2 and self.behaviour(execution) is Behaviour.ABANDONED

    def _claims_next(self, execution: Execution) -> bool:
        return execution.stage == 1 and not execution.claimed and self.behaviour(execution) is Behaviour.STEPPING

    def _commits_next(self, execution: Execution) -> bool:
        if execution.stage == 0:
            return False
        behaviour = self.behaviour(execution)
        late = behaviour is Behaviour.STEPPING or (
            behaviour is Behaviour.ABANDONED and self.scenario.effects is Effects.TRANSACTIONAL
        )
        return behaviour in _TRANSACTIONS or (execution.stage == 2 and late)

    def step(self, execution: Execution, claim: Claim, fault: Fault | None) -> Ended | None:
        """Does the next step of this run, which has begun; how the run ended, if so."""
        if self._commits_next(execution):
            return self._commit(execution, claim, fault)
        if execution.stage == 2:
            return self._end(execution)
        ended = self._claim(execution, claim, fault) if self._claims_next(execution) else None
        execution.stage = 2
        self._take_effect(execution, claim)
        return ended

    def _claim(self, execution: Execution, claim: Claim, fault: Fault | None) -> Ended | None:
        """The run comes to its step, for which the operation is claimed after all."""
        failed = RolledBack(_unknown(execution, "no claim"), own=False)
        if fault in _FAILED:
            return failed
        standing = self.store.claim(claim, None)
        if fault is Fault.DONE:
            return failed
        if standing is not None:
            return self._refused(execution)
        execution.claimed = True
        execution.lease_until = self.store.rows[NAME].lease_until
        self.witness.won(claim)
        return None

    def _take_effect(self, execution: Execution, claim: Claim) -> None:
        match self.behaviour(execution):
            case Behaviour.RELEASING:
                self.witness.runs[execution.run].nothing_happened = True
            case Behaviour.STEPPING:
                execution.steps = execution.claimed and self.store.record_step(NAME, claim.fence)
            case Behaviour.REFUSING:
                pass
            case _ if self.scenario.effects is not Effects.TRANSACTIONAL:
                self.witness.effects.append(execution.run)

    def _commit(self, execution: Execution, claim: Claim, fault: Fault | None) -> Ended:
        if fault in _FAILED:
            self.witness.runs[execution.run].nothing_happened = True
            return self._not_committed(execution)
        outcome = Outcome(status=Code.OK, message=execution.run.encode())
        before = self.store.row(NAME)
        try:
            self.store.commit(claim, outcome, timedelta(hours=24), claimed=execution.claimed)
        except FenceRefused:
            return self._refused(execution)
        self.witness.committed(execution.run, claim, before, outcome, claimed=execution.claimed)
        return self._not_committed(execution) if fault is Fault.DONE else Answered(outcome, committed=True)

    def _not_committed(self, execution: Execution) -> Ended:
        """How it ends when the store has not answered its commit."""
        return self._caught(execution) or RolledBack(_unknown(execution, "no commit"))

    def _refused(self, execution: Execution) -> Ended:
        """How it ends when a record stands in the way of its commit, or of its claim."""
        ended = self._caught(execution) or Raised(_unknown(execution, "fence refused"))
        self.witness.was_refused(ended.outcome)
        return ended

    def _caught(self, execution: Execution) -> Answered | None:
        """How it ends when it catches the error of its transaction."""
        if self.behaviour(execution) is not Behaviour.CATCHING:
            return None
        return Answered(Outcome(status=Code.UNAVAILABLE, details=execution.run))

    def _end(self, execution: Execution) -> Ended:
        match self.behaviour(execution):
            case Behaviour.RELEASING:
                return Answered(Outcome(status=Code.UNAVAILABLE, details=execution.run))
            case Behaviour.REFUSING:
                return Answered(Outcome(status=Code.INVALID_ARGUMENT, details=execution.run))
            case Behaviour.RAISING:
                return Raised(_unknown(execution, "raised"))
            case Behaviour.DOUBTING:
                self.witness.cut = True
                return InDoubt(_unknown(execution, "in doubt"), "no answer")
            case Behaviour.CANCELLED:
                self.witness.cut = True
                return CutShort.CANCELLED
            case _:
                return Answered(Outcome(status=Code.OK, message=execution.run.encode()))


def _unknown(execution: Execution, why: str) -> Outcome:
    return Outcome(status=Code.UNKNOWN, details=f"{execution.run}: {why}")
