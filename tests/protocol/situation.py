"""The world of the protocol's plans at one instant: a store, processes, their calls, and what can happen next."""

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Complete,
    CompleteUnclaimed,
    Execute,
    Fate,
    Follow,
    Get,
    Hold,
    Joined,
    Pause,
    ReadStandings,
    Release,
    Renew,
    TryClaim,
    Wait,
    Watch,
)
from grpc_idempotency.records import Record, State

from .actors import Actor, Execution, Process
from .handlers import Handlers
from .promises import Witness
from .scenarios import Fault, Scenario, Step
from .stores import NAME, Store

_STORED = (TryClaim, Get, ReadStandings, Complete, CompleteUnclaimed, Release, Renew, Wait, Hold)


class Situation:
    """The state of the store, of the processes and of their calls, at one instant of one schedule."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.store: Store = scenario.store()
        self.version = 0
        """Counts the changes of the record and of the time."""
        self.processes: dict[str, Process] = {}
        self.actors: dict[str, Actor] = {}
        self.left = {
            "crash": scenario.crashes,
            "lapse": scenario.lapses,
            "fault": scenario.faults,
            "timeout": scenario.timeouts,
            "recover": scenario.recoveries,
        }
        """How many troubles of each kind may still happen."""
        self.trace: list[Step] = []
        self.witness = Witness(scenario, self.store, self.trace, dict.fromkeys(self.left, 0))
        self.handlers = Handlers(scenario, self.store, self.witness)

    def choices(self) -> list[Step]:
        """Returns the steps of which one can be the next; none at the end."""
        if not self.unfinished():
            return []
        able = [actor for actor in self.actors.values() if self.able(actor)]
        found: list[Step] = [("step", actor.name) for actor in able]
        if self.left["fault"] > 0:
            asking = [actor for actor in able if self._asks_store(actor)]
            found += [("fault", actor.name, fault.value) for actor in asking for fault in Fault]
        if self.left["timeout"] > 0:
            found += [("timeout", actor.name) for actor in self.actors.values() if self._waits(actor)]
        if self.left["crash"] > 0:
            found += [
                ("crash", name) for name, process in self.processes.items() if process.alive and name != "recovery"
            ]
        if self.left["recover"] > 0 and self.without_effect() is not None:
            found.append(("recover",))
        # Time passes when no actor can go on, also if no lapse is left.
        if self.ends_to_come() and (self.left["lapse"] > 0 or not able):
            found.append(("lapse",))
        return found

    def without_effect(self) -> Record | None:
        """Returns the record if recovery may see it as pending and would release it."""
        record, row = self.store.get(NAME), self.store.row(NAME)
        if record is None or row is None or not record.lapsed or row.steps:
            return None
        return record if protocol.fate(record, self.scenario.policy) is Fate.RELEASE else None

    def ends_to_come(self) -> list[float]:
        """Returns the times to come at which a lease, a delay, or the tries of a write without a claim end."""
        row = self.store.row(NAME)
        leased = row is not None and row.state in (State.RUNNING, State.WAITING)
        ends = [row.lease_until] if row is not None and leased else []
        executions = [
            actor for actor in self.actors.values() if isinstance(actor, Execution) and actor.effect is not None
        ]
        ends += [execution.lease_until for execution in executions if not execution.claimed]
        return [end for end in ends if end > self.store.now]

    def unfinished(self) -> list[str]:
        """Returns the names of calls without an answer, and of executions that still run, with or without callers."""
        return [actor.name for actor in self.actors.values() if actor.effect is not None and not actor.beside]

    def able(self, actor: Actor) -> bool:
        """Returns true if its effect can be performed now, and would not only be a poll of what has not changed."""
        match actor.effect:
            case None:
                return False
            case Follow(joined):
                return actor.early is not None or execution_of(joined).conclusion is not None
            case Watch():
                return actor.awaited_ended
            case Pause():
                return actor.seen != self.version
            case Renew() if actor.beside:
                return actor.seen != self.version and self.scenario.renewing
            case _:
                return True

    def _waits(self, actor: Actor) -> bool:
        """Returns true if it waits, and its wait budget may be spent before that ends."""
        limited = isinstance(actor.effect, Watch) or (
            isinstance(actor.effect, Follow) and actor.effect.until is not None
        )
        return limited and not self.able(actor)

    def _asks_store(self, actor: Actor) -> bool:
        return isinstance(actor.effect, _STORED) or (
            isinstance(actor, Execution) and isinstance(actor.effect, Execute) and self.handlers.asks_store(actor)
        )

    def key(self) -> tuple[object, ...]:
        """Returns a value that is equal for two worlds whose further schedules and checks are the same."""
        actors = tuple(sorted((name, actor.key(self.version)) for name, actor in self.actors.items()))
        return (actors, self.store.rows.get(NAME), self.store.now, tuple(self.left.values()), self.witness.key())


def execution_of(joined: Joined) -> Execution:
    """Returns the execution that a call has joined."""
    assert isinstance(joined.execution, Execution)
    return joined.execution
