"""Holds what happens to what DESIGN promises: by what was seen to happen, and not by what the store says of it."""

from dataclasses import dataclass, field
from typing import Any

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Answer,
    Call,
    Complete,
    CompleteUnclaimed,
    Effect,
    Hold,
    Release,
    Renew,
    Status,
    Wait,
)
from grpc_idempotency._protocol.refusals import Reason, Refusal
from grpc_idempotency.records import Claim, Code, Effects, Outcome, Renewal

from .scenarios import Scenario, Step
from .stores import NAME, Row, Store

CUT_SHORT = protocol._CUT_SHORT
NOT_COMMITTED = protocol._NOT_COMMITTED
RUNS_AGAIN = protocol._RUNS_AGAIN


class Violation(AssertionError):
    """A promise was broken; the message says which, and the schedule that did it."""


@dataclass(slots=True)
class Run:
    """One run of the handler."""

    request: str
    nothing_happened: bool = False
    """Whether it had no effect, and will say so by its status."""


@dataclass(slots=True)
class Witness:
    """Watches all writes, runs and answers of one world."""

    scenario: Scenario
    store: Store
    trace: list[Step]
    spent: dict[str, int]
    """How often each kind of trouble came."""
    requests: set[str] = field(default_factory=set)
    waiting: dict[str, Call] = field(default_factory=dict)
    """The calls that have no answer yet."""
    strangers: set[str] = field(default_factory=set)
    """Those of them that a record of another request has stood in the way of, be it for a moment."""
    runs: dict[str, Run] = field(default_factory=dict)
    effects: list[str] = field(default_factory=list)
    """The runs whose effects are there."""
    live: dict[bytes, float] = field(default_factory=dict)
    """The claims that were won and not settled, and until when their leases hold."""
    commits: list[str] = field(default_factory=list)
    """The runs whose transactions have committed."""
    refusals: dict[Outcome, bytes] = field(default_factory=dict)
    """For what runs answer whose transactions were refused: the fence of the record that stood in the way."""
    answers: dict[Outcome, str] = field(default_factory=dict)
    """The run that each outcome of a handler came from."""
    kept: Outcome | None = None
    """The first outcome that a call was answered with and that is kept for all others."""
    cut: bool = False
    """Whether a run was cut short, or can't know its outcome."""

    def key(self) -> tuple[object, ...]:
        """All of it that is not told by the histories of those who were seen."""
        runs = tuple((name, run.nothing_happened) for name, run in self.runs.items())
        live = tuple(sorted(self.live.items()))
        strangers = tuple(sorted(self.strangers))
        committed = (tuple(self.commits), tuple(self.refusals.values()))
        spent = tuple(self.spent.values())
        return (runs, live, tuple(self.effects), committed, self.kept, self.cut, spent, strangers)

    def promise(self, kept: bool, promise: str) -> None:
        if not kept:
            raise Violation(f"{promise}\nin {self.scenario}\nafter {self.trace}")

    # Calls and writes

    def asked(self, who: str, call: Call) -> None:
        """A call was made."""
        self.requests.add(call.fingerprint.raw.decode())
        self.waiting[who] = call
        self.stands()

    def stands(self) -> None:
        """A record stands as it does now."""
        row = self.store.row(NAME)
        if row is not None:
            self.strangers |= {who for who, call in self.waiting.items() if call.fingerprint != row.fingerprint}

    def write(self, effect: Effect[Any], before: Row | None, reply: Any) -> None:
        """A store changed a record, or should not have."""
        match effect:
            case CompleteUnclaimed(claim):
                untouched = before is None or self.store.row(claim.name) == before
                self.promise(untouched, "5.1: an outcome was stored without a claim, over a record")
                return
            case Complete(name, fence) | Release(name, fence) | Renew(name, fence):
                after = self.store.row(name)
            case Hold(name, fence) | Wait(name, fence):
                after = self.store.row(name)
            case _:
                return
        if before is None or before.fence != fence:
            silent = after == before and reply in (False, None, Renewal.LOST)
            self.promise(silent, "4.2: a write under a strange fence changed something")
        elif isinstance(effect, Hold) and effect.lapsed_only and not self.store.lapsed(before):
            self.promise(after == before, "4.9: a live lease was taken for a dead one")
        elif isinstance(effect, Release) and effect.lapsed_only and (before.steps or not self.store.lapsed(before)):
            self.promise(
                after == before, "5.4: a live lease or a finished step was taken for an operation without effect"
            )
        elif isinstance(effect, Renew) and reply is Renewal.RENEWED:
            self.live[fence] = self.store.now + effect.lease.total_seconds()
        elif reply:
            self.live.pop(fence, None)

    def won(self, claim: Claim) -> None:
        """A caller was told that its claim is won."""
        others = [fence for fence, until in self.live.items() if self.store.now < until]
        self.promise(not others, "4.1: an operation was claimed while another claim on it was good")
        self.live[claim.fence] = self.store.now + claim.lease.total_seconds()

    def committed(self, run: str, claim: Claim, before: Row | None, outcome: Outcome, *, claimed: bool) -> None:
        """A transaction committed its rows and its outcome."""
        if claimed:
            own = before is not None and before.fence == claim.fence
            self.promise(own, "4.2: a zombie committed a transaction")
        else:
            self.promise(before is None, "5.1: a transaction without a claim was committed over a record")
        self.live.pop(claim.fence, None)
        self.effects.append(run)
        self.commits.append(run)
        self.answers[outcome] = run
        once = self.scenario.effects is not Effects.TRANSACTIONAL or len(self.effects) == 1
        self.promise(once, f"5.1: more than one run committed: {self.effects}")

    def was_refused(self, answer: Outcome) -> None:
        """A record stands in the way of a run's transaction, or of its claim; the run will answer this."""
        row = self.store.row(NAME)
        self.refusals[answer] = b"" if row is None else row.fence

    # Runs

    def begun(self, run: str, request: str, beside: list[str], *, late: bool) -> None:
        """A run begins, beside others in its process; ``late`` if the outcome was stored before its execution began."""
        self.promise(not beside, f"4.1: the handler runs twice at a time in one process, beside {beside}")
        self.promise(not late or self.store.row(NAME) is None, "5.1: the handler ran, though its outcome was stored")
        if self.scenario.effects is Effects.OPAQUE:
            unknown = [name for name, earlier in self.runs.items() if not earlier.nothing_happened]
            self.promise(not unknown, f"4.5: an opaque handler began again, though nobody can know what {unknown} did")
        self.runs[run] = Run(request)

    # Answers

    def told(self, who: str, call: Call, answer: Answer | Refusal) -> None:
        """A call got its answer."""
        del self.waiting[who]
        if isinstance(answer, Refusal):
            self._refused(who, call, answer.reason)
        else:
            self._answered(who, call, answer)
        self.strangers.discard(who)

    def _answered(self, who: str, call: Call, answer: Answer) -> None:
        self._not_in_vain(who, answer.outcome)
        replayed = answer.mark is Status.REPLAYED
        self.promise((answer.created is not None) == replayed, f"2.2: {who} was answered {answer}")
        run = self.answers.get(answer.outcome)
        if run is None:
            again = self.scenario.effects is not Effects.OPAQUE
            excused = answer.outcome == NOT_COMMITTED or (again and answer.outcome in (CUT_SHORT, RUNS_AGAIN))
            self.promise(excused, f"4.7: {who} was answered what no handler said: {answer}")
            return
        same = self.runs[run].request == call.fingerprint.raw.decode()
        self.promise(same, f"2.3: {who} was answered with the outcome of another request")
        if self._keeps(answer.outcome):
            there = run in self.effects or answer.outcome.status is not Code.OK
            self.promise(there, f"5.1: {who} was told of success, but the effect is not there")
            first = self.kept in (None, answer.outcome)
            self.promise(first, f"4.7: {who} was answered otherwise than others: {answer}")
            self.kept = answer.outcome
        else:
            own = answer.mark is Status.EXECUTED
            self.promise(own, f"4.6: {who} was answered {answer}, which set the operation free for a run of its own")

    def _not_in_vain(self, who: str, outcome: Outcome) -> None:
        """Nobody is told that nothing happened where it is known by then what has happened."""
        committed = any(run.startswith(f"run of {who}.") for run in self.commits)
        told = outcome == CUT_SHORT or self._keeps(outcome)  # who is cut short is told so before its end
        self.promise(told or not committed, f"5.1: {who} was answered {outcome}, though its transaction has committed")
        row, fence = self.store.row(NAME), self.refusals.get(outcome)
        gone = fence is None or row is None or row.fence != fence
        self.promise(gone, f"5.1: {who} was told that its commit was refused, and not of the record that stands")

    def _keeps(self, outcome: Outcome) -> bool:
        """Whether this outcome of a handler is kept."""
        raised = outcome.status is Code.UNKNOWN
        kept = outcome.status in (Code.OK, Code.INVALID_ARGUMENT)
        return kept or (raised and self.scenario.effects is Effects.OPAQUE)

    def _refused(self, who: str, call: Call, reason: Reason) -> None:
        match reason:
            case Reason.KEY_REUSED:
                cause = len(self.requests) > 1
            case Reason.OUTCOME_UNKNOWN:
                cause = self.scenario.effects is Effects.OPAQUE and (self.spent["lapse"] > 0 or self.cut)
            case Reason.STORE_UNAVAILABLE:
                cause = self.spent["fault"] > 0
            case Reason.IN_FLIGHT:
                cause = self.spent["timeout"] > 0
            case _:
                cause = False
        self.promise(cause, f"2.3: nothing happened that {who} could have been refused {reason.name} for")
        row = self.store.row(NAME)
        own = row is not None and row.fingerprint == call.fingerprint and who not in self.strangers
        self.promise(reason is not Reason.KEY_REUSED or not own, f"2.3: {who} was told that its own key is another's")

    def said(self) -> str:
        """The request that a later call has to make to hear what was said before."""
        row = self.store.row(NAME)
        if self.kept is not None:
            return self.runs[self.answers[self.kept]].request
        return min(self.requests) if row is None else row.fingerprint.raw.decode()
