"""The types of the protocol: the values that its plans work on, their effects, and their results.

The rules are in ``rules.py``. These values are never changed. Still they are not frozen: each call makes some ten of
them, and a frozen dataclass takes three times as long to make.
"""

import enum
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from grpc_idempotency._protocol.refusals import Refusal
from grpc_idempotency.policy import Policy
from grpc_idempotency.records import Claim, Fingerprint, Outcome, Record, Renewal, Standing, Step, StoredRequest

T = TypeVar("T")


# The values that plans work on


@dataclass(slots=True, unsafe_hash=True)
class Call:
    """A keyed call that was admitted: its key is valid, and its principal is known."""

    name: bytes
    method: str
    fingerprint: Fingerprint
    policy: Policy
    until: float
    """When its wait budget is spent, in seconds of the server's monotonic clock. The rules only pass it on."""
    streams: bool = False
    """True if its answer is a stream of messages."""
    principal: bytes = b""
    """The principal of the caller."""
    request: StoredRequest | None = None
    """The request to store for a run without the client; ``None`` if there will be no such run."""
    lapsed: Record | None = None
    """In recovery, which has no client: the lapsed record that this call takes over."""
    owner: str = ""
    """The process that claims it, as ``host:pid``."""
    unclaimed: bool = False
    """True if its handler runs without a claim: the commit of its transaction writes the record (5.1)."""
    trace: bytes = b""
    """The trace context of the call; in recovery of the call whose run was cut short. Empty if it is not sampled."""


class Status(enum.Enum):
    """How a call was answered: the value of the trailer ``idempotency-status`` (2.2)."""

    EXECUTED = "executed"
    """By the run of the handler that this call has led."""
    REPLAYED = "replayed"
    """By the stored outcome of an earlier call."""
    ATTACHED = "attached"
    """By the outcome of a run that another call had begun, and for which this call waited."""
    UNPROTECTED = "unprotected"
    """By its handler while the store was down, as the policy allows (5.5)."""
    REFUSED = "refused"
    """By the interceptor itself (2.3)."""


@dataclass(slots=True, unsafe_hash=True)
class Answer:
    """The handler's answer, for one call."""

    outcome: Outcome
    mark: Status
    created: datetime | None = None
    """When the outcome was stored; only for a replay."""
    record: Record | None = field(default=None, compare=False)
    """The record that the outcome was read from, if it was read from one."""


# How a handler can end


@dataclass(slots=True, unsafe_hash=True)
class Answered:
    """The handler returned, or aborted with a status."""

    outcome: Outcome
    committed: bool = False
    """True if the handler's own transaction has stored the outcome already (5.1)."""
    at: datetime | None = field(default=None, compare=False)
    """When it was stored, if the store has told."""


@dataclass(slots=True, unsafe_hash=True)
class Raised:
    """The handler raised. ``outcome`` is what a client sees of that."""

    outcome: Outcome


@dataclass(slots=True, unsafe_hash=True)
class RolledBack:
    """The handler raised because a call of the store failed."""

    outcome: Outcome
    """The same as in :class:`Raised`."""
    own: bool = True
    """True if that call was the commit of the operation's own transaction, which has the handler's effects (5.1)."""


@dataclass(slots=True, unsafe_hash=True)
class InDoubt:
    """The handler raised ``OutcomeUnknown``: it can't know whether it took effect."""

    outcome: Outcome
    """The same as in :class:`Raised`: what a client sees of an unprotected call."""
    reason: str
    """What the handler tells operators. No client sees it."""


class CutShort(enum.Enum):
    """The handler was cut short. The value tells an operator why."""

    CANCELLED = "the handler was cancelled from inside the server while it ran"
    OVERRAN = "the handler ran past its execution limit and was stopped"
    ABANDONED = "the handler ran past its execution limit and could not be stopped"


Ended = Answered | Raised | RolledBack | InDoubt | CutShort


@dataclass(slots=True, unsafe_hash=True)
class Ran:
    """How a run ended, and whether it has steps and a claim."""

    ended: Ended
    steps: bool = False
    """True if a step of the operation is finished, in this run or an earlier one; or has begun, and may be finished."""
    claimed: bool = True
    """False if the claim of the run was not written."""
    unconfirmed: bool = False
    """True if its outcome was written in a transaction that the handler opened itself, and may be committed (5.6)."""


# How an execution can conclude


@dataclass(slots=True, unsafe_hash=True)
class Executed:
    """The handler ran, and its outcome is stored."""

    outcome: Outcome
    at: datetime | None = field(default=None, compare=False)
    """When it was stored, if that is known and the outcome is kept whole."""


@dataclass(slots=True, unsafe_hash=True)
class Released:
    """The handler ran, and nothing of it is kept: the operation is absent, or will be when its lease runs out."""

    outcome: Outcome


@dataclass(slots=True, unsafe_hash=True)
class Waits:
    """The handler ran, and the operation is waiting: it will run again, with its finished steps kept (5.2)."""


@dataclass(slots=True, unsafe_hash=True)
class Unprotected:
    """The handler ran, the store is down, and the policy lets the answer leave all the same (5.5)."""

    outcome: Outcome


@dataclass(slots=True, unsafe_hash=True)
class Found:
    """The run was pre-empted by this record: the handler did not run, or its outcome does not count.

    The record is ``None`` if it is gone again.
    """

    record: Record | None


@dataclass(slots=True, unsafe_hash=True)
class Refused:
    """The execution has no answer: all calls that wait for it get this refusal."""

    refusal: Refusal


Conclusion = Executed | Released | Waits | Unprotected | Found | Refused


@dataclass(slots=True, unsafe_hash=True)
class Followed:
    """The result for a call of the execution that it leads or attached to."""

    conclusion: Conclusion | None
    """The conclusion of the execution; ``None`` if the call's time was up before."""
    begun: bool = False
    """True if the call has sent messages of the execution's stream already, so that it can't get any other answer."""


class Told(enum.Enum):
    """The kinds of what an execution tells its observers by :class:`Tell`. All are rare."""

    TOOK_OVER = "it was taken over from a server that is gone"
    RUNS_AGAIN = "it runs again, after it was waiting"
    LOST = "it was taken over or held while it ran here"
    LAPSED = "its lease ran out while it ran here, since it could not be renewed in time"
    HELD = "it is held until an operator resolves it"
    WAITS = "it failed in a way that may pass, and will run again"
    STRIPPED = "it is stored without status message and trailing metadata, since the store can't keep them"
    GIVEN_UP = "it has failed for good, and its finished steps are undone"
    RELEASED = "it is released, since its server is gone and it has had no effect"


class Fate(enum.Enum):
    """The decision of recovery about a lapsed record."""

    HOLD = "hold"
    """It is in doubt: an operator has to resolve it."""
    RUN = "run"
    """Its handler runs again, from the stored request."""
    RELEASE = "release"
    """It has had no effect, so nothing is lost with its record."""
    LEAVE = "leave"
    """Only a retry of its client finishes it."""


# The effects of the plans


class Effect(Generic[T]):
    """A request of a plan for I/O. ``T`` is the type of the reply."""

    __slots__ = ()


Plan = Generator[Effect[Any], Any, T]


@dataclass(slots=True, unsafe_hash=True)
class Joined:
    """An execution that a call leads or has joined."""

    fingerprint: Fingerprint
    """The fingerprint of the request that the execution is of."""
    leads: bool
    """True if this call leads it. The handler sees the request of the call that leads."""
    execution: object
    """The wing's own object. The protocol does not look into it."""


@dataclass(slots=True, unsafe_hash=True)
class Join(Effect[Joined | None]):
    """Joins the execution of the call's name in this process, or leads one, atomically and without I/O.

    The reply is ``None`` if there is no execution and this server takes on no further one.
    """

    call: Call


@dataclass(slots=True, unsafe_hash=True)
class Follow(Effect[Followed]):
    """Waits for the execution to conclude. The messages of a stream are sent to the call meanwhile."""

    joined: Joined
    until: float | None
    """When to give up, in seconds of the server's monotonic clock; ``None``: never."""


AwaitedRun = tuple[bytes, bytes]
"""A run in another process: the name of its operation, and its fence."""


@dataclass(slots=True, unsafe_hash=True)
class Watch(Effect[bool]):
    """Waits until the run of another process has ended, as the plan ``poll`` finds out for all waiting calls.

    The reply is ``False`` if the time was up first.
    """

    name: bytes
    fence: bytes
    until: float
    """When to give up, in seconds of the server's monotonic clock."""


@dataclass(slots=True, unsafe_hash=True)
class AwaitedRuns(Effect[Collection[AwaitedRun]]):
    """Returns the runs that calls of this process wait for by :class:`Watch`. Without I/O."""


@dataclass(slots=True, unsafe_hash=True)
class ReadStandings(Effect[Mapping[bytes, Standing]]):
    """The store's ``standing``."""

    names: frozenset[bytes]


@dataclass(slots=True, unsafe_hash=True)
class EndWaits(Effect[None]):
    """Ends the waits of all calls of this process for these runs."""

    runs: Collection[AwaitedRun]


@dataclass(slots=True, unsafe_hash=True)
class TryClaim(Effect[Record | None]):
    """The store's ``claim``."""

    claim: Claim
    over: bytes | None = None


@dataclass(slots=True, unsafe_hash=True)
class Renew(Effect[Renewal]):
    """The store's ``renew``."""

    name: bytes
    fence: bytes
    lease: timedelta
    patience: float | None = None
    """The seconds without an answer after which the renewal counts as failed."""


@dataclass(slots=True, unsafe_hash=True)
class Complete(Effect[datetime | Record | None]):
    """The store's ``complete``."""

    name: bytes
    fence: bytes
    outcome: Outcome
    ttl: timedelta


@dataclass(slots=True, unsafe_hash=True)
class CompleteUnclaimed(Effect[datetime | Record | None]):
    """The store's ``complete_unclaimed``."""

    claim: Claim
    outcome: Outcome
    ttl: timedelta


@dataclass(slots=True, unsafe_hash=True)
class Release(Effect[bool]):
    """The store's ``release``."""

    name: bytes
    fence: bytes
    lapsed_only: bool = False


@dataclass(slots=True, unsafe_hash=True)
class Hold(Effect[bool]):
    """The store's ``hold``."""

    name: bytes
    fence: bytes
    reason: str
    lapsed_only: bool = False


@dataclass(slots=True, unsafe_hash=True)
class Get(Effect[Record | None]):
    """The store's ``get``."""

    name: bytes


@dataclass(slots=True, unsafe_hash=True)
class Wait(Effect[bool]):
    """The store's ``wait``."""

    name: bytes
    fence: bytes
    delay: timedelta
    failed_runs: int
    failed_undos: int


@dataclass(slots=True, unsafe_hash=True)
class Undo(Effect[bool]):
    """The store's ``undo``."""

    name: bytes
    fence: bytes
    failure: Outcome


@dataclass(slots=True, unsafe_hash=True)
class LoadSteps(Effect[Sequence[Step]]):
    """The store's ``steps``."""

    name: bytes


@dataclass(slots=True, unsafe_hash=True)
class Execute(Effect[Ran]):
    """Runs the handler of the call that leads this execution."""

    claim: Claim | None
    """The claim of the run; ``None`` runs the handler as if the call had no key."""
    attempt: int = 1
    steps: tuple[Step, ...] = ()
    """The steps finished in earlier runs."""
    unwinds: bool = False
    """True if no further step may begin: the run is made only to collect the undos of the finished steps."""
    claimed: bool = True
    """False if the claim is not written: the commit of the handler's transaction writes the record (5.1)."""


@dataclass(slots=True, unsafe_hash=True)
class Unwind(Effect[str | None]):
    """Undoes the finished steps of the last run, in reverse order.

    The reply is ``None``, or the cause for which it failed.
    """


@dataclass(slots=True, unsafe_hash=True)
class LoseLease(Effect[None]):
    """Tells the run that it has lost its lease for good, so that it begins no further step or undo."""


@dataclass(slots=True, unsafe_hash=True)
class Tell(Effect[None]):
    """Tells the observers of this execution's operation, and the log."""

    told: Told
    reason: str = ""
    """Why it is held."""
    attempt: int = 0
    """The number of the claim with which it was taken over or runs again."""


@dataclass(slots=True, unsafe_hash=True)
class BeginLease(Effect[None]):
    """Begins a lease of which the store knows nothing, for an operation that is not claimed: it bounds its last write.

    :class:`LeaseHolds` answers by it from now on.
    """

    lease: timedelta


@dataclass(slots=True, unsafe_hash=True)
class LeaseHolds(Effect[bool]):
    """True if this execution's owner can't be presumed dead yet: by its own clock, its lease still holds."""


@dataclass(slots=True, unsafe_hash=True)
class Pause(Effect[None]):
    """Waits for about ``seconds``, with jitter."""

    seconds: float
