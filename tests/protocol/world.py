"""The world that the protocol's plans run in, without asyncio, gRPC or a disk: a store, processes, and their calls.

Every effect of a plan is one step, performed whole; who takes the next step is the test's choice (``schedules.py``).
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Answer,
    Answered,
    Board,
    Boarded,
    Call,
    Complete,
    CutShort,
    Effect,
    Ended,
    Execute,
    Get,
    Hold,
    Land,
    Landed,
    Landing,
    LeaseHolds,
    LoadSteps,
    LoseLease,
    Pause,
    Plan,
    Raised,
    Ran,
    Release,
    Renew,
    RolledBack,
    Tell,
    TryClaim,
    Watch,
)
from grpc_idempotency.errors import FenceRefused, StoreUnavailable
from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Outcome, State

from .promises import Witness
from .scenarios import Behaviour, Fault, Scenario, Step
from .stores import METHOD, NAME, Store


class Process:
    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.flights: dict[bytes, Actor] = {}
        self.lookouts: dict[tuple[bytes, bytes], Actor] = {}


class Actor:
    """One plan on its way: a call, a flight, or what goes on beside one."""

    def __init__(self, name: str, process: Process, plan: Plan[Any], call: Call | None = None) -> None:
        self.name = name
        self.process = process
        self.plan = plan
        self.call = call
        self.effect: Effect[Any] | None = None
        """What it asks for now; ``None`` when it is over, and when its process died."""
        self.result: Any = None
        self.history = _number(name)
        """Stands for all that it was ever replied, and so for all that it knows."""
        self.seen = -1
        """The version of the store that it saw last: to poll what has not changed tells nobody anything."""

    @property
    def beside(self) -> bool:
        """Whether nobody waits for its end: it renews a lease, or looks out."""
        return False

    def key(self, version: int) -> tuple[object, ...]:
        return (self.history, self.effect is None, self.seen == version)


class Beside(Actor):
    @property
    def beside(self) -> bool:
        return True


class Flight(Actor):
    def __init__(self, name: str, process: Process, plan: Plan[Any], call: Call) -> None:
        super().__init__(name, process, plan, call)
        self.fingerprint = call.fingerprint
        self.landing: Landing | None = None
        self.lease_until = 0.0
        """By its owner's clock, which here is the store's."""
        self.run = f"run of {name}"
        self.stage = 0
        """Of the handler: 1 when it has begun, 2 when its effect has taken place."""
        self.renewal: Actor | None = None

    def key(self, version: int) -> tuple[object, ...]:
        return (*super().key(version), self.stage, self.lease_until, self.landing is None)


class Early(Flight):
    """Lands a flight whose handler can't be stopped."""

    def __init__(self, flight: Flight, plan: Plan[Any], call: Call) -> None:
        super().__init__(f"{flight.name}/early", flight.process, plan, call)
        self.lease_until = flight.lease_until
        self.flight = flight


_STORED = (TryClaim, Get, Complete, Release, Renew, Hold)


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
        }
        """How often each kind of trouble may still come."""
        self.trace: list[Step] = []
        self.witness = Witness(scenario, self.store, self.trace, dict.fromkeys(self.left, 0))
        if scenario.earlier is not None:
            self.start("earlier", "earlier", scenario.earlier)
            self.run_alone()
        for name, process, request in scenario.calls:
            self.start(name, process, request)

    def start(self, name: str, process_name: str, request: str) -> Actor:
        """A client makes a call."""
        process = self.processes.setdefault(process_name, Process(process_name))
        fingerprint = Fingerprint(raw=request.encode(), canonical=request.encode())
        call = Call(NAME, METHOD, fingerprint, self.scenario.policy, until=0.0)
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
            found += [("crash", name) for name, process in self.processes.items() if process.alive]
        row = self.store.row(NAME)
        leased = row is not None and row.state is State.RUNNING and not self.store.lapsed(row)
        if leased and (self.left["lapse"] > 0 or not able):  # where nobody else can do anything, time passes
            found.append(("lapse",))
        return found

    def unfinished(self) -> list[str]:
        """Calls without an answer, and flights that still run, whether somebody waits for them or not."""
        return [actor.name for actor in self.actors.values() if actor.effect is not None and not actor.beside]

    def _able(self, actor: Actor) -> bool:
        match actor.effect:
            case None:
                return False
            case Land(boarded):
                return _flight(boarded).landing is not None
            case Watch(name, fence):
                return actor.process.lookouts[name, fence].effect is None
            case Pause():
                return actor.seen != self.version
            case Renew() if actor.beside:
                return actor.seen != self.version and self.scenario.renewing
            case _:
                return True

    def _waits(self, actor: Actor) -> bool:
        """Whether it waits for something that its budget may not last for."""
        limited = isinstance(actor.effect, Watch) or (isinstance(actor.effect, Land) and actor.effect.until is not None)
        return limited and not self._able(actor)

    def _asks_store(self, actor: Actor) -> bool:
        return isinstance(actor.effect, _STORED) or (isinstance(actor, Flight) and self._commits_next(actor))

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
                self._reply(actor, Landed(None) if isinstance(actor.effect, Land) else False)
                self._dismiss_lookouts(actor.process)
            case ("crash", name):
                self._crash(self.processes[name])
            case ("lapse",):
                self.store.now = max(self.store.now, self.store.rows[NAME].lease_until) + 1.0
                self.version += 1
            case _:
                raise AssertionError(step)

    def _crash(self, process: Process) -> None:
        process.alive = False
        self.store.crashed()
        for actor in list(self.actors.values()):
            if actor.process is process and actor.effect is not None:
                actor.effect = None
                actor.history = _number((actor.history, "its process died"))
                actor.plan.close()
                if type(actor) is Actor and actor.call is not None and self.scenario.retries:
                    self.start(f"{actor.name}'", f"{process.name}'", actor.call.fingerprint.raw.decode())

    def _step(self, actor: Actor, fault: Fault | None) -> None:
        match actor.effect:
            case Execute(claim):
                assert isinstance(actor, Flight)
                assert claim is not None
                self._execute(actor, claim, fault)
            case TryClaim() | Get() | Complete() | Release() | Renew() | Hold():
                self._on_store(actor, actor.effect, fault)
            case Board(call):
                self._reply(actor, self._board(actor, call))
            case Land(boarded):
                self._reply(actor, Landed(_flight(boarded).landing))
            case Watch():
                self._reply(actor, True)
            case LeaseHolds():
                self._reply(actor, self.store.now < self._owner(actor).lease_until)
            case Pause():
                self._reply(actor, None)
            case _:
                raise AssertionError(actor.effect)

    def _board(self, actor: Actor, call: Call) -> Boarded:
        flight = actor.process.flights.get(call.name)
        if flight is not None:
            assert isinstance(flight, Flight)
            return Boarded(flight.fingerprint, False, flight)
        number = sum(name.startswith(f"{actor.name}.") for name in self.actors)
        name = f"{actor.name}.{number + 1}"
        flight = Flight(name, actor.process, protocol.operate(call, name.encode()), call)
        actor.process.flights[call.name] = flight
        self._begin(flight)
        return Boarded(call.fingerprint, True, flight)

    # The store

    def _on_store(self, actor: Actor, effect: Effect[Any], fault: Fault | None) -> None:
        if fault in (Fault.NOT_DONE, Fault.IN_VAIN):
            self._throw(actor, StoreUnavailable("down", landed=False if fault is Fault.NOT_DONE else None))
            return
        before = self.store.row(NAME)
        reply = self._ask(effect)
        self.witness.write(effect, before, reply)
        if self.store.row(NAME) != before:
            self.version += 1
            self.witness.stands()
        if fault is Fault.DONE:
            self._throw(actor, StoreUnavailable("down", landed=None))
            return
        actor.seen = self.version
        if isinstance(effect, TryClaim) and reply is None:
            self.witness.won(effect)
        if (isinstance(effect, TryClaim) and reply is None) or (isinstance(effect, Renew) and reply):
            self._owner(actor).lease_until = self.store.rows[NAME].lease_until
        self._reply(actor, reply)

    def _owner(self, actor: Actor) -> Flight:
        """The flight whose lease an actor is about."""
        owner = self.actors[actor.name.removesuffix("/renewal")]
        assert isinstance(owner, Flight)
        return owner

    def _ask(self, effect: Effect[Any]) -> Any:
        store = self.store
        match effect:
            case TryClaim(claim, over):
                return store.claim(claim, over)
            case Renew(name, fence, lease):
                return store.renew(name, fence, lease)
            case Complete(name, fence, outcome, ttl):
                return store.complete(name, fence, outcome, ttl)
            case Release(name, fence):
                return store.release(name, fence)
            case Hold(name, fence, reason, lapsed_only):
                return store.hold(name, fence, reason, lapsed_only)
            case Get(name):
                return store.get(name)
            case _:
                raise AssertionError(effect)

    # The handler, in three steps: it begins, its effect takes place, it ends

    def _behaviour(self, flight: Flight) -> Behaviour:
        first = next(iter(self.witness.runs)) == flight.run
        behaviour = self.scenario.behaviour if first else Behaviour.OK
        transactional = self.scenario.effects is Effects.TRANSACTIONAL
        return Behaviour.COMMITTING if transactional and behaviour is Behaviour.OK else behaviour

    def _commits_next(self, flight: Flight) -> bool:
        if flight.stage == 0:
            return False
        match self._behaviour(flight):
            case Behaviour.COMMITTING:
                return True
            case Behaviour.ABANDONED:
                return flight.stage == 2 and self.scenario.effects is Effects.TRANSACTIONAL
            case _:
                return False

    def _execute(self, flight: Flight, claim: Claim, fault: Fault | None) -> None:
        if flight.stage == 0:
            flight.stage = 1
            self._enter(flight, claim)
        elif self._commits_next(flight):
            self._ended(flight, self._commit(flight, claim, fault))
        elif flight.stage == 1:
            flight.stage = 2
            self._take_effect(flight, claim)
        else:
            self._ended(flight, self._end(flight))

    def _enter(self, flight: Flight, claim: Claim) -> None:
        self.witness.begun(flight.run, flight.fingerprint.raw.decode())
        plan = protocol.keep_lease(claim, timedelta(seconds=10))
        flight.renewal = self._begin(Beside(f"{flight.name}/renewal", flight.process, plan))
        flight.renewal.seen = self.version

    def _take_effect(self, flight: Flight, claim: Claim) -> None:
        behaviour = self._behaviour(flight)
        if behaviour is Behaviour.RELEASING:
            self.witness.runs[flight.run].nothing_happened = True
        elif self.scenario.effects is not Effects.TRANSACTIONAL:
            self.witness.effects.append(flight.run)
        if behaviour is Behaviour.ABANDONED:
            assert flight.call is not None
            self.witness.cut = True
            self._begin(Early(flight, protocol.settle(flight.call, claim, Ran(CutShort.ABANDONED), 0), flight.call))

    def _commit(self, flight: Flight, claim: Claim, fault: Fault | None) -> Ended:
        failed = RolledBack(Outcome(status=Code.UNKNOWN, details=f"{flight.run}: no commit"))
        if fault in (Fault.NOT_DONE, Fault.IN_VAIN):
            self.witness.runs[flight.run].nothing_happened = True
            return failed
        outcome = Outcome(status=Code.OK, message=flight.run.encode())
        before = self.store.row(NAME)
        try:
            self.store.commit(claim, outcome, timedelta(hours=24))
        except FenceRefused:
            return Raised(Outcome(status=Code.UNKNOWN, details=f"{flight.run}: fence refused"))
        self.version += 1
        self.witness.committed(flight.run, claim, before, outcome)
        return failed if fault is Fault.DONE else Answered(outcome, committed=True)

    def _end(self, flight: Flight) -> Ended:
        match self._behaviour(flight):
            case Behaviour.RELEASING:
                return Answered(Outcome(status=Code.UNAVAILABLE, details=flight.run))
            case Behaviour.RAISING:
                return Raised(Outcome(status=Code.UNKNOWN, details=flight.run))
            case Behaviour.CANCELLED:
                self.witness.cut = True
                return CutShort.CANCELLED
            case _:
                return Answered(Outcome(status=Code.OK, message=flight.run.encode()))

    def _ended(self, flight: Flight, ended: Ended) -> None:
        if not isinstance(ended, CutShort):
            self.witness.answers[ended.outcome] = flight.run
        self._reply(flight, Ran(ended))

    # Plans go on

    def _begin(self, actor: Actor) -> Actor:
        self.actors[actor.name] = actor
        self._advance(actor, lambda: next(actor.plan))
        return actor

    def _reply(self, actor: Actor, reply: Any) -> None:
        actor.history = _number((actor.history, _told(reply)))
        self._advance(actor, lambda: actor.plan.send(reply))

    def _throw(self, actor: Actor, error: StoreUnavailable) -> None:
        actor.seen = -1  # it has not seen anything, and may try again
        actor.history = _number((actor.history, "failed", error.landed))
        self._advance(actor, lambda: actor.plan.throw(error))

    def _advance(self, actor: Actor, go: Callable[[], Effect[Any]]) -> None:
        try:
            actor.effect = go()
        except StopIteration as done:
            actor.effect, actor.result = None, done.value
            self._finished(actor)
            return
        if isinstance(actor.effect, Watch):
            self._look_out(actor.process, actor.effect)
        elif isinstance(actor.effect, LoadSteps):
            self._reply(actor, ())
        elif isinstance(actor.effect, Tell | LoseLease):
            self._reply(actor, None)

    def _finished(self, actor: Actor) -> None:
        if isinstance(actor, Early):
            self._land(actor.flight, actor.result)
        elif isinstance(actor, Flight):
            self._land(actor, actor.result)
        elif actor.call is not None:
            self.witness.told(actor.name, actor.call, actor.result)
            self._dismiss_lookouts(actor.process)

    def _land(self, flight: Flight, landing: Landing) -> None:
        if flight.process.flights.get(NAME) is flight:
            del flight.process.flights[NAME]
        flight.landing = flight.landing or landing
        if flight.renewal is not None:
            flight.renewal.effect = None

    def _look_out(self, process: Process, effect: Watch) -> None:
        """One lookout in a process, for all who wait for the same run."""
        lookout = process.lookouts.get((effect.name, effect.fence))
        if lookout is None or lookout.effect is None:
            number = sum(name.startswith(f"{process.name}/") for name in self.actors)
            plan = protocol.watch(effect.name, effect.fence)
            lookout = self._begin(Beside(f"{process.name}/{number + 1}", process, plan))
            process.lookouts[effect.name, effect.fence] = lookout

    def _dismiss_lookouts(self, process: Process) -> None:
        watches = [each.effect for each in self.actors.values() if each.process is process]
        watched = {(effect.name, effect.fence) for effect in watches if isinstance(effect, Watch)}
        for run, lookout in process.lookouts.items():
            if run not in watched:
                lookout.effect = None

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
        promise, kept = self.witness.promise, self.witness.kept
        promise(not self.unfinished(), f"4.3: stuck: {self.unfinished()}")
        self.left = dict.fromkeys(self.left, 0)
        self.witness.spent |= {"fault": 0, "timeout": 0}  # these are no excuse any more
        later = self.start("later", "later", self.witness.said())
        self.run_alone()
        promise(later.result is not None, "4.3: a later call got no answer")
        if kept is not None:
            same = isinstance(later.result, Answer) and later.result.outcome == kept
            promise(same, f"4.7: a later call did not hear the first reply again, but {later.result}")


_NUMBERS: dict[Any, int] = {}


def _number(value: Any) -> int:
    """A number that stands for exactly this value."""
    return _NUMBERS.setdefault(value, len(_NUMBERS))


def _told(reply: Any) -> object:
    if isinstance(reply, Boarded):
        return (_flight(reply).name, reply.founded)
    return "landed" if isinstance(reply, Landed) else reply  # what it was is in its flight's history


def _flight(boarded: Boarded) -> Flight:
    assert isinstance(boarded.flight, Flight)
    return boarded.flight
