"""The world that the protocol's plans run in, without asyncio, gRPC or a disk: a store, processes, and their calls.

Every effect of a plan is one step, performed whole; who takes the next step is the test's choice (``schedules.py``).
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import timedelta
from typing import Any

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Answer,
    AwaitedRuns,
    BeginLease,
    Call,
    Complete,
    CompleteUnclaimed,
    Conclusion,
    CutShort,
    Effect,
    Ended,
    EndWaits,
    Execute,
    Fate,
    Follow,
    Followed,
    Get,
    Hold,
    Join,
    Joined,
    LeaseHolds,
    LoadSteps,
    LoseLease,
    Pause,
    Plan,
    Ran,
    ReadStandings,
    Release,
    Renew,
    Tell,
    TryClaim,
    Wait,
    Watch,
)
from grpc_idempotency._protocol.refusals import Reason, Refusal
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Claim, Effects, Fingerprint, Record, Renewal, State

from .actors import Actor, Beside, Early, Execution, Process, number
from .handlers import Handlers
from .promises import Witness
from .scenarios import Fault, Scenario, Step
from .stores import METHOD, NAME, Row, Store

_STORED = (TryClaim, Get, ReadStandings, Complete, CompleteUnclaimed, Release, Renew, Wait, Hold)


class World:
    """All that there is, at one instant of one schedule."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.store: Store = scenario.store()
        self.version = 0
        """Counts what happens to the store, time among it."""
        self.processes: dict[str, Process] = {}
        self.actors: dict[str, Actor] = {}
        self.left = {
            "crash": scenario.crashes,
            "lapse": scenario.lapses,
            "fault": scenario.faults,
            "timeout": scenario.timeouts,
            "recover": scenario.recoveries,
        }
        """How often each kind of trouble may still come."""
        self.trace: list[Step] = []
        self.witness = Witness(scenario, self.store, self.trace, dict.fromkeys(self.left, 0))
        self.handlers = Handlers(scenario, self.store, self.witness)
        if scenario.earlier is not None:
            self.start("earlier", "earlier", scenario.earlier)
            self.run_alone()
        for name, process, request in scenario.calls:
            self.start(name, process, request)

    def start(self, name: str, process_name: str, request: str) -> Actor:
        """A client makes a call."""
        process = self.processes.setdefault(process_name, Process(process_name))
        fingerprint = Fingerprint(raw=request.encode(), canonical=request.encode())
        unclaimed = self.scenario.unclaimed(process_name)
        call = Call(NAME, METHOD, fingerprint, self.scenario.policy, until=0.0, unclaimed=unclaimed)
        self.witness.asked(name, call)
        return self._begin(Actor(name, process, protocol.answer(call), call))

    # What can happen next

    def choices(self) -> list[Step]:
        if not self.unfinished():
            return []
        able = [actor for actor in self.actors.values() if self._able(actor)]
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
        if self.left["recover"] > 0 and self._without_effect() is not None:
            found.append(("recover",))
        if self._leases() and (self.left["lapse"] > 0 or not able):  # where nobody else can do anything, time passes
            found.append(("lapse",))
        return found

    def _without_effect(self) -> Record | None:
        """The record, if recovery may see it as pending, and releases what it sees so."""
        record, row = self.store.get(NAME), self.store.row(NAME)
        if record is None or row is None or not record.lapsed or row.steps:
            return None
        return record if protocol.fate(record, self.scenario.policy) is Fate.RELEASE else None

    def _leases(self) -> list[float]:
        """When what is waited for will be over: a lease, a delay, the tries of a write without a claim."""
        row = self.store.row(NAME)
        leased = row is not None and row.state in (State.RUNNING, State.WAITING)
        ends = [row.lease_until] if row is not None and leased else []
        executions = [
            actor for actor in self.actors.values() if isinstance(actor, Execution) and actor.effect is not None
        ]
        ends += [execution.lease_until for execution in executions if not execution.claimed]
        return [end for end in ends if end > self.store.now]

    def unfinished(self) -> list[str]:
        """Calls without an answer, and executions that still run, whether somebody waits for them or not."""
        return [actor.name for actor in self.actors.values() if actor.effect is not None and not actor.beside]

    def _able(self, actor: Actor) -> bool:
        match actor.effect:
            case None:
                return False
            case Follow(joined):
                return actor.early is not None or _execution(joined).conclusion is not None
            case Watch():
                return actor.awaited_ended
            case Pause():
                return actor.seen != self.version
            case Renew() if actor.beside:
                return actor.seen != self.version and self.scenario.renewing
            case _:
                return True

    def _waits(self, actor: Actor) -> bool:
        """Whether it waits for something that its budget may not last for."""
        limited = isinstance(actor.effect, Watch) or (
            isinstance(actor.effect, Follow) and actor.effect.until is not None
        )
        return limited and not self._able(actor)

    def _asks_store(self, actor: Actor) -> bool:
        return isinstance(actor.effect, _STORED) or (
            isinstance(actor, Execution) and isinstance(actor.effect, Execute) and self.handlers.asks_store(actor)
        )

    # Steps

    def take(self, step: Step) -> None:
        self.trace.append(step)
        if step[0] in self.left:
            self.left[step[0]] -= 1
            self.witness.spent[step[0]] += 1
        match step:
            case ("step", name):
                self._step(self.actors[name], None)
            case ("fault", name, fault):
                self._step(self.actors[name], Fault(fault))
            case ("timeout", name):
                actor = self.actors[name]
                self._reply(actor, Followed(None) if isinstance(actor.effect, Follow) else False)
                self._dismiss_poller(actor.process)
            case ("crash", name):
                self._crash(self.processes[name])
            case ("recover",):
                self._recover()
            case ("lapse",):
                self.store.now = max(self._leases()) + 1.0
                self.version += 1
            case _:
                raise AssertionError(step)

    def _recover(self) -> None:
        """Another server has looked. It releases later what it has seen now."""
        record = self._without_effect()
        assert record is not None
        name = f"recovery {self.left['recover'] + 1}"
        releasing = Beside(name, self.processes.setdefault("recovery", Process("recovery")), _released(record))
        releasing.history = number((name, record.fence))
        self._begin(releasing)

    def _crash(self, process: Process) -> None:
        process.alive = False
        self.store.crashed()
        for actor in list(self.actors.values()):
            if actor.process is process and actor.effect is not None:
                actor.effect = None
                actor.history = number((actor.history, "its process died"))
                actor.plan.close()
                if type(actor) is Actor and actor.call is not None and self.scenario.retries:
                    self.start(f"{actor.name}'", f"{process.name}'", actor.call.fingerprint.raw.decode())

    def _step(self, actor: Actor, fault: Fault | None) -> None:
        match actor.effect:
            case Execute():
                assert isinstance(actor, Execution)
                self._execute(actor, actor.effect, fault)
            case (
                TryClaim()
                | Get()
                | ReadStandings()
                | Complete()
                | CompleteUnclaimed()
                | Release()
                | Renew()
                | Wait()
                | Hold()
            ):
                self._on_store(actor, actor.effect, fault)
            case Join(call):
                self._reply(actor, self._join(actor, call))
            case Follow(joined):
                told, actor.early = actor.early or _execution(joined).conclusion, None
                self._reply(actor, Followed(told))
            case Watch():
                self._reply(actor, True)
                self._dismiss_poller(actor.process)
            case LeaseHolds():
                self._reply(actor, self.store.now < self._owner(actor).lease_until)
            case Pause():
                self._reply(actor, None)
            case _:
                raise AssertionError(actor.effect)

    def _join(self, actor: Actor, call: Call) -> Joined:
        execution = actor.process.executions.get(call.name)
        if execution is not None:
            assert isinstance(execution, Execution)
            return Joined(execution.fingerprint, False, execution)
        number = sum(name.startswith(f"{actor.name}.") for name in self.actors)
        name = f"{actor.name}.{number + 1}"
        row = self.store.row(NAME)
        late = row is not None and row.state is State.COMPLETED
        execution = Execution(name, actor.process, protocol.operate(call, name.encode()), call, late=late)
        actor.process.executions[call.name] = execution
        self._begin(execution)
        return Joined(call.fingerprint, True, execution)

    # The store

    def _on_store(self, actor: Actor, effect: Effect[Any], fault: Fault | None) -> None:
        if fault in (Fault.NOT_DONE, Fault.IN_VAIN):
            self._throw(actor, StoreUnavailable("down", landed=False if fault is Fault.NOT_DONE else None))
            return
        before = self.store.row(NAME)
        reply = self.store.perform(effect)
        self.witness.write(effect, before, reply)
        self._changed(before)
        if fault is Fault.DONE:
            self._throw(actor, StoreUnavailable("down", landed=None))
            return
        actor.seen = self.version
        if isinstance(effect, TryClaim) and reply is None:
            self.witness.won(effect.claim)
        if (isinstance(effect, TryClaim) and reply is None) or (isinstance(effect, Renew) and reply is Renewal.RENEWED):
            self._owner(actor).lease_until = self.store.rows[NAME].lease_until
        self._reply(actor, reply)

    def _changed(self, before: Row | None) -> None:
        """The store was called, and may have changed the record."""
        if self.store.row(NAME) != before:
            self.version += 1
            self.witness.stands()

    def _owner(self, actor: Actor) -> Execution:
        """The execution whose lease an actor is about."""
        owner = self.actors[actor.name.removesuffix("/renewal")]
        assert isinstance(owner, Execution)
        return owner

    # The handler

    def _execute(self, execution: Execution, execute: Execute, fault: Fault | None) -> None:
        claim = execute.claim
        assert claim is not None
        if execution.stage == 0:
            self._enter(execution, claim, claimed=execute.claimed)
            return
        abandoned, before = self.handlers.abandoned(execution), self.store.row(NAME)
        ended = self.handlers.step(execution, claim, fault)
        self._changed(before)
        if execution.claimed and execution.renewal is None:
            self._renew(execution, claim)
        if not abandoned and self.handlers.abandoned(execution):
            self._abandon(execution, claim)
        if ended is not None:
            self._ended(execution, ended)

    def _enter(self, execution: Execution, claim: Claim, *, claimed: bool) -> None:
        execution.stage, execution.claimed = 1, claimed
        self.witness.begun(
            execution.run, execution.fingerprint.raw.decode(), self._beside(execution), late=execution.late
        )
        if claimed:
            self._renew(execution, claim)

    def _beside(self, execution: Execution) -> list[str]:
        """The runs that still run in its process, but for those whose leases may have run out meanwhile."""
        executions = [
            actor for actor in self.actors.values() if isinstance(actor, Execution) and actor is not execution
        ]
        running = [
            each for each in executions if each.process is execution.process and isinstance(each.effect, Execute)
        ]
        lapsed = self.witness.spent["lapse"] > 0
        return [each.run for each in running if each.stage > 0 and not (each.claimed and lapsed)]

    def _renew(self, execution: Execution, claim: Claim) -> None:
        """Its lease is renewed from now on."""
        plan = protocol.keep_lease(claim, timedelta(seconds=10))
        execution.renewal = self._begin(Beside(f"{execution.name}/renewal", execution.process, plan))
        execution.renewal.seen = self.version

    def _abandon(self, execution: Execution, claim: Claim) -> None:
        """It has run past its limit, and can't be stopped."""
        assert execution.call is not None
        self.witness.cut = True
        self._begin(
            Early(execution, protocol.settle(execution.call, claim, Ran(CutShort.ABANDONED), 0), execution.call)
        )

    def _ended(self, execution: Execution, ended: Ended) -> None:
        if not isinstance(ended, CutShort):
            self.witness.answers[ended.outcome] = execution.run
        self._reply(execution, Ran(ended, execution.steps, execution.claimed))

    # Plans go on

    def _begin(self, actor: Actor) -> Actor:
        self.actors[actor.name] = actor
        self._advance(actor, lambda: next(actor.plan))
        return actor

    def _reply(self, actor: Actor, reply: Any) -> None:
        actor.history = number((actor.history, _told(reply)))
        self._advance(actor, lambda: actor.plan.send(reply))

    def _throw(self, actor: Actor, error: StoreUnavailable) -> None:
        actor.seen = -1  # it has not seen anything, and may try again
        actor.history = number((actor.history, "failed", error.landed))
        self._advance(actor, lambda: actor.plan.throw(error))

    def _advance(self, actor: Actor, go: Callable[[], Effect[Any]]) -> None:
        try:
            actor.effect = go()
        except StopIteration as done:
            actor.effect, actor.result = None, done.value
            self._finished(actor)
            return
        if isinstance(actor.effect, Watch):
            self._look_out(actor)
        elif isinstance(actor.effect, AwaitedRuns):
            self._reply(actor, tuple(sorted({run for _, run in self._watching(actor.process)})))
        elif isinstance(actor.effect, EndWaits):
            self._end_waits(actor.process, actor.effect.runs)
            self._reply(actor, None)
        elif isinstance(actor.effect, LoadSteps):
            self._reply(actor, ())
        elif isinstance(actor.effect, BeginLease):
            self._owner(actor).lease_until = self.store.now + actor.effect.lease.total_seconds()
            self._reply(actor, None)
        elif isinstance(actor.effect, Tell | LoseLease):
            self._reply(actor, None)

    def _finished(self, actor: Actor) -> None:
        if isinstance(actor, Early):
            self._conclude_early(actor.execution, actor.result)
        elif isinstance(actor, Execution):
            self._conclude(actor, actor.result)
            if actor.renewal is not None:
                actor.renewal.effect = None
        elif actor.call is not None:
            self.witness.told(actor.name, actor.call, actor.result)
            self._dismiss_poller(actor.process)

    def _conclude_early(self, execution: Execution, conclusion: Conclusion) -> None:
        """Nothing else may run in its process as long as its handler does (4.1).

        Where it is claimed, its record sees to that. Else it has not concluded: only those who wait now are told.
        """
        if not protocol.is_only_told(conclusion, claimed=execution.claimed):
            self._conclude(execution, conclusion)
            return
        for actor in self.actors.values():
            if isinstance(actor.effect, Follow) and actor.effect.joined.execution is execution:
                actor.early = conclusion

    def _conclude(self, execution: Execution, conclusion: Conclusion) -> None:
        if execution.process.executions.get(NAME) is execution:
            del execution.process.executions[NAME]
        execution.conclusion = execution.conclusion or conclusion

    def _look_out(self, actor: Actor) -> None:
        """One poller in a process, for all who wait for runs elsewhere."""
        actor.awaited_ended = False
        process = actor.process
        if process.poller is None or process.poller.effect is None:
            number = sum(name.startswith(f"{process.name}/") for name in self.actors)
            process.poller = self._begin(Beside(f"{process.name}/{number + 1}", process, protocol.poll()))
        process.poller.seen = -1  # it polls for this one, too, whatever it has seen

    def _watching(self, process: Process) -> list[tuple[Actor, tuple[bytes, bytes]]]:
        """Those that wait for runs elsewhere, and have not been told of their ends."""
        return [
            (each, (each.effect.name, each.effect.fence))
            for each in self.actors.values()
            if each.process is process and isinstance(each.effect, Watch) and not each.awaited_ended
        ]

    def _end_waits(self, process: Process, runs: Collection[tuple[bytes, bytes]]) -> None:
        for each, run in self._watching(process):
            each.awaited_ended = run in runs

    def _dismiss_poller(self, process: Process) -> None:
        if process.poller is not None and not self._watching(process):
            process.poller.effect = None

    # The end

    def key(self) -> tuple[object, ...]:
        """Equal for two worlds that can't be told apart from here on, by anybody in them or by those who watch."""
        actors = tuple(sorted((name, actor.key(self.version)) for name, actor in self.actors.items()))
        return (actors, self.store.rows.get(NAME), self.store.now, tuple(self.left.values()), self.witness.key())

    def run_alone(self) -> None:
        """Takes the first step that there is, again and again, until there is none."""
        for _ in range(500):
            steps = self.choices()
            if not steps:
                return
            self.take(steps[0])
        self.witness.promise(False, "4.3: it does not come to an end")

    def check_end(self) -> None:
        """Nobody can do anything more: was everybody answered, and does a later call with the key hear the same?"""
        promise, kept, commits = self.witness.promise, self.witness.kept, list(self.witness.commits)
        promise(not self.unfinished(), f"4.3: stuck: {self.unfinished()}")
        self.left = dict.fromkeys(self.left, 0)
        self.witness.spent |= {"fault": 0, "timeout": 0}  # these are no excuse any more
        later = self.start("later", "later", self.witness.said())
        self.run_alone()
        promise(later.result is not None, "4.3: a later call got no answer")
        if self.scenario.effects is Effects.TRANSACTIONAL and commits:
            same = isinstance(later.result, Answer) and self.witness.answers.get(later.result.outcome) == commits[0]
            promise(same, f"5.1: {commits} committed, and a later call was told {later.result}")
        if kept is not None:
            same = isinstance(later.result, Answer) and later.result.outcome == kept
            promise(same, f"4.7: a later call did not hear the first reply again, but {later.result}")
        row = self.store.row(NAME)
        if row is not None and row.state is State.COMPLETED:
            another = self.start("another", "later", "another request")
            self.run_alone()
            told = another.result.reason if isinstance(another.result, Refusal) else another.result
            promise(told is Reason.KEY_REUSED, f"2.3: a record stands, and another request was told {told}")


def _released(record: Record) -> Plan[None]:
    """Releases a record, as a server does that gives up when its store does not answer."""
    with suppress(StoreUnavailable):
        yield from protocol.release_lapsed(record)


def _told(reply: Any) -> object:
    if isinstance(reply, Joined):
        return (_execution(reply).name, reply.leads)
    if isinstance(reply, dict):
        return tuple(sorted((name, one.fence, one.state.value, one.lapsed) for name, one in reply.items()))
    return type(reply.conclusion) if isinstance(reply, Followed) else reply  # the rest is in its execution's history


def _execution(joined: Joined) -> Execution:
    assert isinstance(joined.execution, Execution)
    return joined.execution
