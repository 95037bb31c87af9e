"""The vocabulary of the protocol: what its plans work on, what they ask of the world, and what comes of them.

Types alone; the rules are in ``rules.py``. Nobody changes these values. They are not frozen all the same: each call
makes some ten of them, and a frozen dataclass takes three times as long to make.
"""

import enum
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from grpc_idempotency._protocol.refusals import Refusal
from grpc_idempotency.policy import Policy
from grpc_idempotency.records import Claim, Fingerprint, Outcome, Record, Step, StoredRequest

T = TypeVar("T")


# What the plans work on


@dataclass(slots=True, unsafe_hash=True)
class Call:
    """A keyed call that was admitted: its key is valid, its principal known."""

    name: bytes
    method: str
    fingerprint: Fingerprint
    policy: Policy
    until: float
    """When its wait budget is spent, on the server's monotonic clock. The protocol only hands it on."""
    streams: bool = False
    """Whether its answer is a stream of messages."""
    principal: bytes = b""
    """Whose call it is."""
    request: StoredRequest | None = None
    """What is stored for a run without the client; ``None`` where there is to be none."""
    lapsed: Record | None = None
    """Without a client: the record as it was found, which this call is to take over."""
    owner: str = ""
    """The process that claims it, as ``host:pid``."""
    unclaimed: bool = False
    """True if its handler runs without a claim: the commit of its transaction writes the record (5.1)."""


class Mark(enum.Enum):
    """How a call was answered: the trailer ``idempotency-status`` (2.2)."""

    EXECUTED = "executed"
    REPLAYED = "replayed"
    ATTACHED = "attached"
    UNPROTECTED = "unprotected"


@dataclass(slots=True, unsafe_hash=True)
class Answer:
    """The handler's answer, for one call."""

    outcome: Outcome
    mark: Mark
    created: datetime | None = None
    """When the outcome was stored; with a replay only."""
    record: Record | None = field(default=None, compare=False)
    """The record that the outcome was read from; with a replay only."""


# How a handler can end


@dataclass(slots=True, unsafe_hash=True)
class Answered:
    """It returned, or aborted with a status."""

    outcome: Outcome
    committed: bool = False
    """Whether its own transaction stored the outcome already (5.1)."""
    at: datetime | None = field(default=None, compare=False)
    """When that was, where the store has told."""


@dataclass(slots=True, unsafe_hash=True)
class Raised:
    """It raised; ``outcome`` is what a client gets to see of that."""

    outcome: Outcome


@dataclass(slots=True, unsafe_hash=True)
class RolledBack:
    """It raised because the store could not do something for it."""

    outcome: Outcome
    """As of :class:`Raised`."""
    own: bool = True
    """Whether that was to commit the operation's own transaction, in which the handler's effects are (5.1)."""


class CutShort(enum.Enum):
    """It did not get to its end; the value tells an operator why."""

    CANCELLED = "the handler was cancelled from inside the server while it ran"
    OVERRAN = "the handler ran past its execution limit and was stopped"
    ABANDONED = "the handler ran past its execution limit and could not be stopped"


Ended = Answered | Raised | RolledBack | CutShort


@dataclass(slots=True, unsafe_hash=True)
class Ran:
    """How a run ended, and what it leaves."""

    ended: Ended
    steps: bool = False
    """Whether any step of the operation is finished, in this run or one before; or may be, since it was begun."""
    claimed: bool = True
    """False if the claim of the run was not written."""


# What an execution can conclude with


@dataclass(slots=True, unsafe_hash=True)
class Executed:
    """The handler ran, and its outcome is stored."""

    outcome: Outcome
    at: datetime | None = field(default=None, compare=False)
    """When it was stored, where that is known, and all of it is kept."""


@dataclass(slots=True, unsafe_hash=True)
class Released:
    """The handler ran, and nothing of it is kept: the operation is absent, or will be when its lease runs out."""

    outcome: Outcome


@dataclass(slots=True, unsafe_hash=True)
class Waits:
    """The handler ran, and has to run again later; its steps are kept (5.2)."""


@dataclass(slots=True, unsafe_hash=True)
class Unprotected:
    """The handler ran, the store is down, and the policy lets the answer go all the same (5.5)."""

    outcome: Outcome


@dataclass(slots=True, unsafe_hash=True)
class Found:
    """The handler did not run, or does not count: this record stands in its way. ``None``: it is gone again."""

    record: Record | None


@dataclass(slots=True, unsafe_hash=True)
class Refused:
    """No answer can be given, to nobody of those who wait."""

    refusal: Refusal


Conclusion = Executed | Released | Waits | Unprotected | Found | Refused


@dataclass(slots=True, unsafe_hash=True)
class Followed:
    """What a call learns of the execution that it follows."""

    conclusion: Conclusion | None
    """``None``: its time was up before."""
    begun: bool = False
    """Whether it has sent messages of the execution's stream already: it can't have any other answer any more."""


class Event(enum.Enum):
    """What an operator should read in the log."""

    TOOK_OVER = "took over operation %s of %s, whose server is gone"
    RUNS_AGAIN = "operation %s of %s runs again"
    LOST = "operation %s of %s has been taken over or held while it ran here"
    LAPSED = "the lease of operation %s of %s ran out while it ran here, since it could not be renewed in time"
    HELD = "operation %s of %s is held until an operator resolves it"
    WAITS = "operation %s of %s failed in a way that may pass, and will run again"
    STRIPPED = "operation %s of %s is stored without status message and trailing metadata: the store can't keep them"
    GIVEN_UP = "operation %s of %s has failed for good; its finished steps are undone"


class Fate(enum.Enum):
    """What recovery does with a lapsed record."""

    HOLD = "hold"
    RUN = "run"
    LEAVE = "leave"
    """Only a retry of its client finishes it."""


# What the plans ask of the world


class Effect(Generic[T]):
    """A wish of a plan; ``T`` is the type of the reply."""

    __slots__ = ()


Plan = Generator[Effect[Any], Any, T]


@dataclass(slots=True, unsafe_hash=True)
class Joined:
    """An execution that a call is on."""

    fingerprint: Fingerprint
    leads: bool
    """Whether this call leads it; its request is the one that the handler sees."""
    execution: object
    """The server's own."""


@dataclass(slots=True, unsafe_hash=True)
class Join(Effect[Joined | None]):
    """Joins the execution of the call's name in this process, or leads one, at one instant and without I/O.

    ``None``: there is none, and no further one is taken on.
    """

    call: Call


@dataclass(slots=True, unsafe_hash=True)
class Follow(Effect[Followed]):
    """Waits for the execution to conclude, until then at the latest. A stream's messages are sent on meanwhile."""

    joined: Joined
    until: float | None


@dataclass(slots=True, unsafe_hash=True)
class Watch(Effect[bool]):
    """Waits for the end of the plan ``watch``, one for all who wait; ``False`` when the time was up first."""

    name: bytes
    fence: bytes
    until: float


@dataclass(slots=True, unsafe_hash=True)
class TryClaim(Effect[Record | None]):
    """The store's ``claim``."""

    claim: Claim
    over: bytes | None = None


@dataclass(slots=True, unsafe_hash=True)
class Renew(Effect[bool]):
    """The store's ``renew``."""

    name: bytes
    fence: bytes
    lease: timedelta
    patience: float | None = None
    """After how many seconds without an answer it counts as failed."""


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
    tries: int
    undo_tries: int


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
    """Runs the handler of the call that leads this execution; without a claim, as if the call had no key."""

    claim: Claim | None
    attempt: int = 1
    steps: tuple[Step, ...] = ()
    """Those finished in runs before."""
    unwinds: bool = False
    """Whether no further step may begin: the run is only to make known how to undo the finished ones."""
    claimed: bool = True
    """False if the claim is not written: the commit of the handler's transaction writes the record (5.1)."""


@dataclass(slots=True, unsafe_hash=True)
class Unwind(Effect[str | None]):
    """Undoes the finished steps of the run before, the last first; why it could not, or ``None``."""


@dataclass(slots=True, unsafe_hash=True)
class LoseLease(Effect[None]):
    """Tells the run that it has lost its lease for good: it begins no further step or undo."""


@dataclass(slots=True, unsafe_hash=True)
class Tell(Effect[None]):
    """Writes an event of this execution's operation to the log."""

    event: Event


@dataclass(slots=True, unsafe_hash=True)
class LeaseHolds(Effect[bool]):
    """Whether this execution's owner can still be taken for alive: its lease, by its own clock, has not run out."""


@dataclass(slots=True, unsafe_hash=True)
class Pause(Effect[None]):
    """Lets about so much time pass, jittered."""

    seconds: float
