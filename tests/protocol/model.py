"""The world that the protocol's plans run in, without asyncio, gRPC or a disk: a store, processes, and their calls.

Every effect of a plan is one step, performed whole; who takes the next step is the test's choice (``schedules.py``).
The world also watches: each step is held to the promises of DESIGN 4 and 5, by what the world itself has seen and not
by what the store says.
"""

import enum
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

from grpc_idempotency import _protocol as protocol
from grpc_idempotency._effects import (
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
    Mark,
    NewFence,
    Pause,
    Raised,
    Release,
    Renew,
    Renewed,
    RolledBack,
    Tell,
    TryClaim,
    Watch,
)
from grpc_idempotency._refusals import Reason, Refusal
from grpc_idempotency.errors import FenceRefused, StoreUnavailable
from grpc_idempotency.policy import Policy
from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Outcome, Record, State

NAME = b"operation-name.."
METHOD = "/test.Service/Method"
EPOCH = datetime(2024, 1, 1, tzinfo=timezone.utc)

Step = tuple[str, ...]
"""One choice of a schedule: ``("step", actor)``, ``("fault", actor, kind)``, ``("crash", process)``, …"""


class Violation(AssertionError):
    """A promise was broken; the message says which, and the schedule that did it."""


def fingerprint_of(request: str) -> Fingerprint:
    return Fingerprint(raw=request.encode(), canonical=request.encode())


# The store


@dataclass(frozen=True, slots=True)
class Row:
    state: State
    fence: bytes
    fingerprint: Fingerprint
    effects: Effects
    attempts: int
    created: float
    lease_until: float = 0.0
    completed: float | None = None
    expires: float | None = None
    outcome: Outcome | None = None
    reason: str = ""


class Store:
    """The contract of ``store.py`` over one dict, by a clock that the tests move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rows: dict[bytes, Row] = {}

    def row(self, name: bytes) -> Row | None:
        row = self.rows.get(name)
        return None if row is None or (row.expires is not None and row.expires <= self.now) else row

    def lapsed(self, row: Row) -> bool:
        return row.state is State.RUNNING and row.lease_until <= self.now

    def get(self, name: bytes) -> Record | None:
        row = self.row(name)
        if row is None:
            return None
        return Record(
            name=name,
            method=METHOD,
            state=row.state,
            fence=row.fence,
            fingerprint=row.fingerprint,
            effects=row.effects,
            attempts=row.attempts,
            created_at=_at(row.created),
            lapsed=self.lapsed(row),
            completed_at=None if row.completed is None else _at(row.completed),
            expires_at=None if row.expires is None else _at(row.expires),
            outcome=row.outcome,
            reason=row.reason,
        )

    def claim(self, claim: Claim, over: bytes | None) -> Record | None:
        row = self.row(claim.name)
        if row is not None and not (over == row.fence and self.lapsed(row)):
            return self.get(claim.name)
        self.rows[claim.name] = Row(
            state=State.RUNNING,
            fence=claim.fence,
            fingerprint=claim.fingerprint,
            effects=claim.effects,
            attempts=1 if row is None else row.attempts + 1,
            created=self.now if row is None else row.created,
            lease_until=self.now + claim.lease.total_seconds(),
        )
        return None

    def owned(self, name: bytes, fence: bytes, *states: State) -> Row | None:
        row = self.row(name)
        return row if row is not None and row.fence == fence and row.state in states else None

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        row = self.owned(name, fence, State.RUNNING)
        if row is not None:
            self.rows[name] = replace(row, lease_until=self.now + lease.total_seconds())
        return row is not None

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> bool:
        row = self.owned(name, fence, State.RUNNING, State.HELD)
        if row is None:
            return self.owned(name, fence, State.COMPLETED) is not None
        expires = self.now + ttl.total_seconds()
        self.rows[name] = replace(
            row, state=State.COMPLETED, completed=self.now, expires=expires, outcome=outcome, reason=""
        )
        return True

    def release(self, name: bytes, fence: bytes) -> bool:
        if self.owned(name, fence, State.RUNNING, State.HELD) is None:
            return False
        del self.rows[name]
        return True

    def hold(self, name: bytes, fence: bytes, reason: str, lapsed_only: bool) -> bool:
        row = self.owned(name, fence, State.RUNNING)
        if row is None or (lapsed_only and not self.lapsed(row)):
            return False
        self.rows[name] = replace(row, state=State.HELD, reason=reason)
        return True

    def commit(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> None:
        """What a transaction does with the record when it commits (5.1)."""
        if self.owned(claim.name, claim.fence, State.RUNNING, State.HELD) is None:
            raise FenceRefused("another owner")
        Store.complete(self, claim.name, claim.fence, outcome, ttl)

    def crashed(self) -> None:
        """A process of this store has died; a durable store does not notice."""


def _at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


# What is played


class Behaviour(enum.Enum):
    """What the first run of the handler does; every later run answers OK."""

    OK = "ok"
    RELEASING = "a status that asserts that nothing happened"
    RAISING = "raises when its effect is there"
    CANCELLED = "is cancelled from inside when its effect is there"
    ABANDONED = "runs past its limit, can't be stopped, and answers OK in the end"
    COMMITTING = "commits its rows and its reply in one transaction"


class Fault(enum.Enum):
    """How the store can fail one write."""

    NOT_DONE = "not-done"
    DONE = "done-but-unknown"
    IN_VAIN = "not-done-but-unknown"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    effects: Effects
    behaviour: Behaviour = Behaviour.OK
    calls: tuple[tuple[str, str, str], ...] = (("A", "p", "x"), ("B", "p", "x"))
    """Name, process and request of each."""
    crashes: int = 0
    """How many processes may die, each at any moment."""
    retries: bool = False
    """Whether a client whose server died calls another one again."""
    lapses: int = 0
    """How often time may pass every lease, at any moment."""
    faults: int = 0
    """How many store calls may fail, each in every way."""
    timeouts: int = 0
    """How many waits may come to the end of their budget, at any moment."""
    renewing: bool = False
    """Whether leases are renewed."""
    earlier: str | None = None
    """A request that was answered under this key before."""
    store: Callable[[], Store] = Store
    unprotected: bool = False

    @property
    def policy(self) -> Policy:
        return _policy(self.effects, self.unprotected)


@cache
def _policy(effects: Effects, unprotected: bool) -> Policy:
    return Policy(effects=effects, unprotected=unprotected)


class Process:
    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.flights: dict[bytes, Actor] = {}
        self.lookouts: dict[tuple[bytes, bytes], Actor] = {}


_CODES_OF: dict[Any, int] = {}


def _code(key: Any) -> int:
    """A number that stands for exactly this value."""
    return _CODES_OF.setdefault(key, len(_CODES_OF))


class Actor:
    """One plan on its way: a call, a flight, a renewal or a lookout."""

    def __init__(self, world: "World", name: str, process: Process, plan: Generator[Effect[Any], Any, Any]) -> None:
        self.name = name
        self.process = process
        self.plan = plan
        self.effect: Effect[Any] | None = None
        self.result: Any = None
        self.stage = 0
        self.history = _code(name)
        self.seen = -1
        """What it last saw of the store: a poll of what has not changed tells nobody anything."""
        self.call: Call | None = None
        # Of flights
        self.landing: Landing | None = None
        self.claim: Claim | None = None
        self.lease_until = 0.0
        self.run = ""
        world.actors[name] = self

    @property
    def over(self) -> bool:
        return self.effect is None

    def key(self, version: int) -> tuple[object, ...]:
        return (self.history, self.stage, self.seen == version, self.result is DEAD, self.lease_until)


class _Dead:
    def __repr__(self) -> str:
        return "its server died"


DEAD = _Dead()


@dataclass(slots=True)
class Run:
    """What the world saw of one run of the handler."""

    request: str
    ended: bool = False
    releasing: bool = False
    """Whether it answered that nothing happened, and so had no effect."""


@dataclass(slots=True)
class Seen:
    """What the world has seen, by itself."""

    runs: dict[str, Run] = field(default_factory=dict)
    live: dict[bytes, float] = field(default_factory=dict)
    """Claims that were won and not settled, and until when their leases hold."""
    effects: list[str] = field(default_factory=list)
    answers: dict[Outcome, str] = field(default_factory=dict)
    """The run that each outcome of a handler came from."""
    kept: Outcome | None = None
    """The outcome, of those that are stored, that a call was answered with first."""
    cut: bool = False

    def key(self) -> tuple[object, ...]:
        runs = tuple((name, run.ended, run.releasing) for name, run in self.runs.items())
        return (runs, tuple(sorted(self.live.items())), tuple(self.effects), self.kept, self.cut)


_FENCED = (Complete, Release, Renew, Hold)
_STORED = (TryClaim, Get, *_FENCED)


class World:
    """All that there is, at one instant of one schedule."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.store = scenario.store()
        self.version = 0
        self.processes: dict[str, Process] = {}
        self.actors: dict[str, Actor] = {}
        self.calls: list[Actor] = []
        self.left = {
            "crash": scenario.crashes,
            "lapse": scenario.lapses,
            "fault": scenario.faults,
            "timeout": scenario.timeouts,
        }
        self.spent = dict.fromkeys(self.left, 0)
        self.trace: list[Step] = []
        self.seen = Seen()
        if scenario.earlier is not None:
            self.start("earlier", "earlier", scenario.earlier)
            self.run_alone()
        for name, process, request in scenario.calls:
            self.start(name, process, request)

    def start(self, name: str, process_name: str, request: str) -> Actor:
        process = self.processes.setdefault(process_name, Process(process_name))
        call = Call(NAME, METHOD, fingerprint_of(request), self.scenario.policy, until=0.0)
        actor = Actor(self, name, process, protocol.answer(call))
        actor.call = call
        self.calls.append(actor)
        self._advance(actor, lambda: next(actor.plan))
        return actor

    # What can happen next

    def choices(self) -> list[Step]:
        if not self.unfinished():
            return []
        able = [actor for actor in self.actors.values() if self._able(actor)]
        found: list[Step] = [("step", actor.name) for actor in able]
        if self.left["fault"]:
            for actor in able:
                if self._asks_store(actor):
                    found += [("fault", actor.name, fault.value) for fault in Fault]
        if self.left["timeout"]:
            found += [("timeout", a.name) for a in self.actors.values() if not a.over and self._waits(a)]
        if self.left["crash"]:
            found += [("crash", name) for name, process in self.processes.items() if process.alive]
        row = self.store.row(NAME)
        leased = row is not None and row.state is State.RUNNING and not self.store.lapsed(row)
        if leased and (self.left["lapse"] > 0 or not able):
            found.append(("lapse",))
        return found

    def unfinished(self) -> list[Actor]:
        """Calls without an answer, and flights that still run, whether somebody waits for them or not."""
        return [actor for actor in self.actors.values() if not actor.over and not _beside(actor)]

    def _able(self, actor: Actor) -> bool:
        match actor.effect:
            case None:
                return False
            case Land(boarded):
                return _flight(boarded).landing is not None
            case Watch(name, fence):
                return actor.process.lookouts[name, fence].over
            case Pause():
                return actor.seen != self.version
            case Renew() if _beside(actor):
                return actor.seen != self.version and self.scenario.renewing
            case _:
                return True

    def _waits(self, actor: Actor) -> bool:
        if isinstance(actor.effect, Land):
            return actor.effect.until is not None and not self._able(actor)
        return isinstance(actor.effect, Watch) and not self._able(actor)

    def _asks_store(self, actor: Actor) -> bool:
        if isinstance(actor.effect, Execute):
            return actor.effect.claim is not None and self._commits_next(actor)
        return isinstance(actor.effect, _STORED)

    # Steps

    def take(self, step: Step) -> None:
        self.trace.append(step)
        if step[0] in self.left:
            self.left[step[0]] -= 1
            self.spent[step[0]] += 1
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
                row = self.store.rows[NAME]
                self.store.now = max(self.store.now, row.lease_until) + 1.0
                self.version += 1
            case _:
                raise AssertionError(step)

    def _crash(self, process: Process) -> None:
        process.alive = False
        self.store.crashed()
        for actor in list(self.actors.values()):
            if actor.process is process and not actor.over:
                actor.effect, actor.result = None, DEAD
                actor.plan.close()
                if actor in self.calls and self.scenario.retries:
                    assert actor.call is not None
                    self.start(f"{actor.name}'", f"{process.name}'", actor.call.fingerprint.raw.decode())

    def _step(self, actor: Actor, fault: Fault | None) -> None:
        effect = actor.effect
        assert effect is not None
        if isinstance(effect, Execute):
            self._execute(actor, effect, fault)
        elif isinstance(effect, _STORED):
            self._on_store(actor, effect, fault)
        else:
            self._reply(actor, self._perform(actor, effect))

    def _perform(self, actor: Actor, effect: Effect[Any]) -> Any:
        match effect:
            case Board(call):
                return self._board(actor, call)
            case Land(boarded):
                return Landed(_flight(boarded).landing)
            case Watch():
                return True
            case LeaseHolds():
                return self.store.now < actor.lease_until
            case Pause():
                return None
            case _:
                raise AssertionError(effect)

    def _board(self, actor: Actor, call: Call) -> Boarded:
        flight = actor.process.flights.get(call.name)
        if flight is not None:
            assert flight.call is not None
            return Boarded(flight.call.fingerprint, False, flight)
        number = sum(other.startswith(f"{actor.name}.") and "/" not in other for other in self.actors)
        flight = Actor(self, f"{actor.name}.{number + 1}", actor.process, protocol.operate(call))
        flight.call = call
        actor.process.flights[call.name] = flight
        self._advance(flight, lambda: next(flight.plan))
        return Boarded(call.fingerprint, True, flight)

    def _on_store(self, actor: Actor, effect: Effect[Any], fault: Fault | None) -> None:
        if fault in (Fault.NOT_DONE, Fault.IN_VAIN):
            actor.seen = -1
            self._throw(actor, StoreUnavailable("down", landed=False if fault is Fault.NOT_DONE else None))
            return
        before = self.store.row(NAME)
        reply = self._ask(effect)
        self._watch_write(actor, effect, before, reply, told=fault is None)
        if self.store.row(NAME) != before:
            self.version += 1
        if fault is Fault.DONE:
            actor.seen = -1
            self._throw(actor, StoreUnavailable("down", landed=None))
        else:
            actor.seen = self.version
            self._reply(actor, reply)

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

    # The handler

    def _behaviour(self, actor: Actor) -> Behaviour:
        first = next(iter(self.seen.runs), actor.run)
        behaviour = self.scenario.behaviour if actor.run == first else Behaviour.OK
        if behaviour is Behaviour.OK and self.scenario.effects is Effects.TRANSACTIONAL:
            return Behaviour.COMMITTING
        return behaviour

    def _commits_next(self, actor: Actor) -> bool:
        transactional = self.scenario.effects is Effects.TRANSACTIONAL
        match self._behaviour(actor):
            case Behaviour.COMMITTING:
                return actor.stage == 1
            case Behaviour.ABANDONED:
                return actor.stage == 2 and transactional
            case _:
                return False

    def _execute(self, actor: Actor, effect: Execute, fault: Fault | None) -> None:
        """Three steps: it begins, its effect takes place, it ends."""
        if effect.claim is not None and actor.stage and self._commits_next(actor):
            self._commit(actor, effect.claim, fault)
            return
        actor.stage += 1
        if actor.stage == 1:
            self._begin(actor, effect)
        elif actor.stage == 2:
            self._take_effect(actor, effect)
        else:
            actor.stage = 0
            self._end(actor)

    def _begin(self, actor: Actor, effect: Execute) -> None:
        assert actor.call is not None
        actor.run = f"run of {actor.name}"
        if effect.claim is not None:
            self._watch_begin(actor)
            plan = protocol.keep_lease(effect.claim, timedelta(seconds=10))
            renewal = Actor(self, f"{actor.name}/renewal", actor.process, plan)
            self._advance(renewal, lambda: next(plan))
            renewal.seen = self.version
        self.seen.runs[actor.run] = Run(actor.call.fingerprint.raw.decode())

    def _take_effect(self, actor: Actor, effect: Execute) -> None:
        behaviour = self._behaviour(actor)
        if behaviour is Behaviour.RELEASING:
            self.seen.runs[actor.run].releasing = True
        else:
            if self.scenario.effects is not Effects.TRANSACTIONAL:
                self.seen.effects.append(actor.run)
            if behaviour is Behaviour.ABANDONED and effect.claim is not None:
                assert actor.call is not None
                self.seen.cut = True
                plan = protocol.settle(actor.call, effect.claim, CutShort.ABANDONED)
                early = Actor(self, f"{actor.name}/early", actor.process, plan)
                early.lease_until = actor.lease_until
                early.claim = actor.claim
                self._advance(early, lambda: next(plan))

    def _commit(self, actor: Actor, claim: Claim, fault: Fault | None) -> None:
        actor.stage = 0
        failed = RolledBack(Outcome(status=Code.UNKNOWN, details=f"{actor.run} rolled back"))
        if fault in (Fault.NOT_DONE, Fault.IN_VAIN):
            self._ended(actor, failed)
            return
        outcome = Outcome(status=Code.OK, message=actor.run.encode())
        before = self.store.row(NAME)
        try:
            self.store.commit(claim, outcome, timedelta(hours=24))
        except FenceRefused:
            self._ended(actor, Raised(Outcome(status=Code.UNKNOWN, details=f"{actor.run} was refused")))
            return
        self.version += 1
        self._promise(before is not None and before.fence == claim.fence, "4.2: a zombie committed a transaction")
        self.seen.live.pop(claim.fence, None)
        self.seen.effects.append(actor.run)
        self.seen.answers[outcome] = actor.run
        if fault is Fault.DONE:
            self._ended(actor, failed)
        else:
            self._ended(actor, Answered(outcome, committed=True))

    def _end(self, actor: Actor) -> None:
        ok = Answered(Outcome(status=Code.OK, message=actor.run.encode()))
        match self._behaviour(actor):
            case Behaviour.OK | Behaviour.ABANDONED | Behaviour.COMMITTING:
                self._ended(actor, ok)
            case Behaviour.RELEASING:
                self._ended(actor, Answered(Outcome(status=Code.UNAVAILABLE, details=actor.run)))
            case Behaviour.RAISING:
                self._ended(actor, Raised(Outcome(status=Code.UNKNOWN, details=actor.run)))
            case Behaviour.CANCELLED:
                self.seen.cut = True
                self._ended(actor, CutShort.CANCELLED)

    def _ended(self, actor: Actor, ended: Ended) -> None:
        self.seen.runs[actor.run].ended = True
        if not isinstance(ended, CutShort):
            self.seen.answers[ended.outcome] = actor.run
        self._reply(actor, ended)

    # Plans go on

    def _reply(self, actor: Actor, reply: Any) -> None:
        actor.history = _code((actor.history, _token(reply)))
        self._advance(actor, lambda: actor.plan.send(reply))

    def _throw(self, actor: Actor, error: StoreUnavailable) -> None:
        actor.history = _code((actor.history, ("error", error.landed)))
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
        elif isinstance(actor.effect, NewFence):  # nobody but the actor can see this step
            self._reply(actor, actor.name.encode())
        elif isinstance(actor.effect, Tell | Renewed):
            self._reply(actor, None)

    def _finished(self, actor: Actor) -> None:
        if actor in self.calls:
            self._watch_answer(actor)
            self._dismiss_lookouts(actor.process)
        elif actor.name.endswith("/early"):
            self._land(self.actors[actor.name.removesuffix("/early")], actor.result)
        elif not _beside(actor):
            self._land(actor, actor.result)

    def _land(self, flight: Actor, landing: Landing) -> None:
        if flight.process.flights.get(NAME) is flight:
            del flight.process.flights[NAME]
        flight.landing = flight.landing or landing
        renewal = self.actors.get(f"{flight.name}/renewal")
        if renewal is not None and not renewal.over:
            renewal.effect = None

    def _look_out(self, process: Process, effect: Watch) -> None:
        lookout = process.lookouts.get((effect.name, effect.fence))
        if lookout is None or lookout.over:
            number = sum("/lookout" in other for other in self.actors)
            plan = protocol.watch(effect.name, effect.fence)
            lookout = Actor(self, f"{process.name}/lookout{number}", process, plan)
            process.lookouts[effect.name, effect.fence] = lookout
            self._advance(lookout, lambda: next(plan))

    def _dismiss_lookouts(self, process: Process) -> None:
        watched = [a.effect for a in self.calls if a.process is process and isinstance(a.effect, Watch)]
        for (name, fence), lookout in process.lookouts.items():
            if not any((effect.name, effect.fence) == (name, fence) for effect in watched):
                lookout.effect = None

    # What the world watches

    def _promise(self, kept: bool, promise: str) -> None:
        if not kept:
            raise Violation(f"{promise}\nin {self.scenario}\nafter {self.trace}")

    def _watch_write(self, actor: Actor, effect: Effect[Any], before: Row | None, reply: Any, *, told: bool) -> None:
        """A store changed a record, or should not have."""
        if isinstance(effect, TryClaim):
            if reply is None and told:
                self._watch_won(actor, effect.claim)
        elif isinstance(effect, _FENCED):
            if before is None or before.fence != effect.fence:
                changed = self.store.row(NAME) != before
                self._promise(not changed and not reply, "4.2: a write under a strange fence changed something")
            elif isinstance(effect, Hold) and effect.lapsed_only and not self.store.lapsed(before):
                self._promise(self.store.row(NAME) == before, "4.9: a live lease was taken for a dead one")
            elif reply and isinstance(effect, Renew):
                until = self.store.now + effect.lease.total_seconds()
                self.seen.live[effect.fence] = until
                self.actors[actor.name.removesuffix("/renewal")].lease_until = until
            elif reply:
                self.seen.live.pop(effect.fence, None)

    def _watch_won(self, actor: Actor, claim: Claim) -> None:
        others = [fence for fence, until in self.seen.live.items() if self.store.now < until]
        self._promise(not others, "4.1: an operation was claimed while another claim on it was good")
        actor.claim = claim
        actor.lease_until = self.seen.live[claim.fence] = self.store.now + claim.lease.total_seconds()

    def _watch_begin(self, actor: Actor) -> None:
        assert actor.claim is not None
        for name, run in self.seen.runs.items():
            self._promise(
                self.scenario.effects is not Effects.OPAQUE or run.releasing,
                f"4.5: an opaque handler began again, though nobody can know what {name} did",
            )

    def _watch_answer(self, actor: Actor) -> None:
        if isinstance(actor.result, Refusal):
            self._watch_refusal(actor, actor.result.reason)
            return
        answer: Answer = actor.result
        assert actor.call is not None
        if answer.mark is Mark.UNPROTECTED:
            self._promise(self.scenario.unprotected, "5.5: an unprotected answer without a policy for it")
            return
        self._promise((answer.created is not None) == (answer.mark is Mark.REPLAYED), "2.2: idempotency-created")
        run = self.seen.answers.get(answer.outcome)
        if run is None:
            excused = self.scenario.effects is not Effects.OPAQUE and answer.outcome in (CUT_SHORT, NOT_COMMITTED)
            self._promise(excused, f"4.7: {actor.name} was answered what no handler said: {answer}")
            return
        same = self.seen.runs[run].request == actor.call.fingerprint.raw.decode()
        self._promise(same, f"2.3: {actor.name} was answered with the outcome of another request")
        if self._is_kept(answer.outcome):
            there = run in self.seen.effects or answer.outcome.status is not Code.OK
            self._promise(there, f"5.1: {actor.name} was told of success, but the effect is not there")
            self._promise(
                self.seen.kept in (None, answer.outcome), f"4.7: {actor.name} was answered otherwise: {answer}"
            )
            self.seen.kept = answer.outcome
        else:
            own = answer.mark is Mark.EXECUTED
            self._promise(own, f"4.6: {actor.name} was answered {answer}, which released the operation for others")

    def _is_kept(self, outcome: Outcome) -> bool:
        return outcome.status is Code.OK or (outcome.status is Code.UNKNOWN and self.scenario.effects is Effects.OPAQUE)

    def _watch_refusal(self, actor: Actor, reason: Reason) -> None:
        assert actor.call is not None
        row = self.store.row(NAME)
        match reason:
            case Reason.KEY_REUSED:
                own = row is not None and row.fingerprint == actor.call.fingerprint
                self._promise(not own, f"2.3: {actor.name} was told that its own key belongs to another request")
                legal = any(other.call and other.call.fingerprint != actor.call.fingerprint for other in self.calls)
            case Reason.OUTCOME_UNKNOWN:
                legal = self.scenario.effects is Effects.OPAQUE and bool(self.spent["lapse"] or self.seen.cut)
            case Reason.STORE_UNAVAILABLE:
                legal = bool(self.spent["fault"])
            case Reason.IN_FLIGHT:
                legal = bool(self.spent["timeout"])
            case _:
                legal = False
        self._promise(legal, f"2.3: nothing happened that {actor.name} could have been refused {reason.name} for")

    # The end

    def key(self) -> tuple[object, ...]:
        """Equal for two worlds that can't be told apart from here on, by anybody in them or by those who watch."""
        actors = tuple(sorted((name, actor.key(self.version)) for name, actor in self.actors.items()))
        row = self.store.rows.get(NAME)
        return (actors, row, self.store.now, tuple(self.left.values()), tuple(self.spent.values()), self.seen.key())

    def run_alone(self) -> None:
        """Takes steps that nothing disturbs until none is left."""
        for _ in range(500):
            steps = self.choices()
            if not steps:
                return
            self.take(steps[0])
        self._promise(False, "4.3: it does not come to an end")

    def check_end(self) -> None:
        """Everybody has gone home: was everybody answered, and do later calls with the key hear the same?"""
        self._promise(not self.unfinished(), f"4.3: stuck: {[actor.name for actor in self.unfinished()]}")
        if self.scenario.effects is Effects.TRANSACTIONAL:
            runs = self.seen.effects
            self._promise(len(runs) <= 1, f"5.1: {len(runs)} runs committed: {runs}")
        self.left, self.spent["fault"], self.spent["timeout"] = dict.fromkeys(self.left, 0), 0, 0
        row = self.store.row(NAME)
        request = self.calls[0].call if row is None else None
        said = row.fingerprint.raw.decode() if row is not None else ""
        if request is not None:
            said = request.fingerprint.raw.decode()
        if self.seen.kept is not None:
            said = self.seen.runs[self.seen.answers[self.seen.kept]].request
        probe = self.start("later", "later", said)
        self.run_alone()
        self._promise(probe.over, "4.3: a later call got no answer")
        if self.seen.kept is not None:
            replayed = isinstance(probe.result, Answer) and probe.result.outcome == self.seen.kept
            self._promise(replayed, f"4.7: a later call did not hear the first reply again, but {probe.result}")


CUT_SHORT = protocol._CUT_SHORT
NOT_COMMITTED = protocol._NOT_COMMITTED


def _flight(boarded: Boarded) -> Actor:
    assert isinstance(boarded.flight, Actor)
    return boarded.flight


def _beside(actor: Actor) -> bool:
    return "/renewal" in actor.name or "/lookout" in actor.name


def _token(reply: Any) -> object:
    if isinstance(reply, Boarded):
        return (_flight(reply).name, reply.founded)
    return "landing" if isinstance(reply, Landed) else reply  # what it was is in its flight's history
