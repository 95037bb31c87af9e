"""Runs the protocol's plans without asyncio, gRPC or a disk.

Every effect of a plan is one step, performed whole. The schedule chooses the next step (``schedules.py``).
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
from .scenarios import Fault, Scenario, Step
from .situation import Situation, execution_of
from .stores import METHOD, NAME, Row


class World(Situation):
    """Takes the steps of one schedule."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        if scenario.earlier is not None:
            self.start("earlier", "earlier", scenario.earlier)
            self.run_alone()
        for name, process, request in scenario.calls:
            self.start(name, process, request)

    def start(self, name: str, process_name: str, request: str) -> Actor:
        """Begins a client's call."""
        process = self.processes.setdefault(process_name, Process(process_name))
        fingerprint = Fingerprint(raw=request.encode(), canonical=request.encode())
        unclaimed = self.scenario.unclaimed(process_name)
        call = Call(NAME, METHOD, fingerprint, self.scenario.policy, until=0.0, unclaimed=unclaimed)
        self.witness.asked(name, call)
        return self._begin(Actor(name, process, protocol.answer(call), call))

    # Steps

    def take(self, step: Step) -> None:
        """Takes one of the choices."""
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
                self.store.now = max(self.ends_to_come()) + 1.0
                self.version += 1
            case _:
                raise AssertionError(step)

    def _recover(self) -> None:
        """Begins a release by another server, whose recovery has just seen the record as pending."""
        record = self.without_effect()
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
                told, actor.early = actor.early or execution_of(joined).conclusion, None
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
        earlier = sum(name.startswith(f"{actor.name}.") for name in self.actors)
        name = f"{actor.name}.{earlier + 1}"
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
        """Counts a change of the record, if a call of the store has made one."""
        if self.store.row(NAME) != before:
            self.version += 1
            self.witness.stands()

    def _owner(self, actor: Actor) -> Execution:
        """Returns the execution whose lease an actor renews or asks for; that may be the actor itself."""
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
        """Returns the other runs that still run in its process, but those whose leases may have run out."""
        executions = [
            actor for actor in self.actors.values() if isinstance(actor, Execution) and actor is not execution
        ]
        running = [
            each for each in executions if each.process is execution.process and isinstance(each.effect, Execute)
        ]
        lapsed = self.witness.spent["lapse"] > 0
        return [each.run for each in running if each.stage > 0 and not (each.claimed and lapsed)]

    def _renew(self, execution: Execution, claim: Claim) -> None:
        """Begins to renew its lease."""
        plan = protocol.keep_lease(claim, timedelta(seconds=10))
        execution.renewal = self._begin(Beside(f"{execution.name}/renewal", execution.process, plan))
        execution.renewal.seen = self.version

    def _abandon(self, execution: Execution, claim: Claim) -> None:
        """Settles an execution that has run past its limit and can't be stopped."""
        assert execution.call is not None
        self.witness.cut = True
        self._begin(
            Early(execution, protocol.settle(execution.call, claim, Ran(CutShort.ABANDONED), 0), execution.call)
        )

    def _ended(self, execution: Execution, ended: Ended) -> None:
        if not isinstance(ended, CutShort):
            self.witness.answers[ended.outcome] = execution.run
        self._reply(execution, Ran(ended, execution.steps, execution.claimed))

    # The plans

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
        """Concludes an execution whose handler still runs, or only tells those who wait for it now.

        Nothing else may run in its process as long as its handler does (4.1). If it is claimed, its record prevents
        that. If not, the execution must stay in its process.
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
        """Makes the process's one poller poll for this actor, too, which waits for a run elsewhere."""
        actor.awaited_ended = False
        process = actor.process
        if process.poller is None or process.poller.effect is None:
            earlier = sum(name.startswith(f"{process.name}/") for name in self.actors)
            process.poller = self._begin(Beside(f"{process.name}/{earlier + 1}", process, protocol.poll()))
        process.poller.seen = -1  # it has not polled for this actor

    def _watching(self, process: Process) -> list[tuple[Actor, tuple[bytes, bytes]]]:
        """Returns the actors that wait for runs elsewhere and have not been told of their ends, each with its run."""
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

    def run_alone(self) -> None:
        """Takes the first step that there is, again and again, until there is none."""
        for _ in range(500):
            steps = self.choices()
            if not steps:
                return
            self.take(steps[0])
        self.witness.promise(False, "4.3: it does not come to an end")

    def check_end(self) -> None:
        """Checks at the end that all calls were answered, and that a later call with the key gets the same reply."""
        promise, kept, commits = self.witness.promise, self.witness.kept, list(self.witness.commits)
        promise(not self.unfinished(), f"4.3: stuck: {self.unfinished()}")
        self.left = dict.fromkeys(self.left, 0)
        self.witness.spent |= {"fault": 0, "timeout": 0}  # no later call may fail because of them
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
    """Releases a record, and gives up if the store does not answer."""
    with suppress(StoreUnavailable):
        yield from protocol.release_lapsed(record)


def _told(reply: Any) -> object:
    if isinstance(reply, Joined):
        return (execution_of(reply).name, reply.leads)
    if isinstance(reply, dict):
        return tuple(sorted((name, one.fence, one.state.value, one.lapsed) for name, one in reply.items()))
    return type(reply.conclusion) if isinstance(reply, Followed) else reply  # the rest is in its execution's history
