"""The events that an interceptor tells its observers (``observers=``), and the observer's own type (4.12).

An *observer* is a plain function that is called with each event. If it has an attribute ``events``, a collection of
classes of this module, it gets events of these classes alone; otherwise it gets all of them. An event that no observer
wants is never made. An observer may also have a method ``trace() -> bytes``, see :class:`TracingObserver`, and a method
``watch``, see :class:`WatchingObserver`.

Events are named tuples. Read their fields by name: a later version may add fields. Tell their classes by ``isinstance``
or a pattern: as tuples, events of two classes are equal if their fields are.

Observers are called in the thread in which the event has happened, one after the other, and the thread goes on when
they have returned. So they are safe to call from several threads at once, they return at once, they never wait, and
they never call the interceptor's store. An exception of an observer is logged, once for each class of events, and
reaches no call.

No event has a key or a principal. ``operation`` is the name of an operation: the 16 bytes that name it in the store, in
the log (in hexadecimal) and in commands.
"""

import enum
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import NamedTuple, Protocol

from grpc_idempotency._protocol.effects import Fate, Status
from grpc_idempotency._protocol.refusals import Reason
from grpc_idempotency.records import Code, State

__all__ = [
    "BatchCommitted",
    "Became",
    "CallAnswered",
    "Claimed",
    "Drained",
    "Ending",
    "Event",
    "ExecutionEnded",
    "ExecutionStarted",
    "Fate",
    "Held",
    "LeaseLost",
    "Observer",
    "RecordsCounted",
    "Recovered",
    "RecoveryEnded",
    "RecoveryStarted",
    "SelectiveObserver",
    "Settled",
    "Status",
    "StepFinished",
    "StepUndone",
    "StoreCalled",
    "Swept",
    "TakenOver",
    "TracingObserver",
    "WatchingObserver",
]


Observer = Callable[["Event"], object]
"""A plain function that is called with each event; an ``async def`` one is refused. Its result is ignored."""


class SelectiveObserver(Protocol):
    """An observer that wants some events only."""

    @property
    def events(self) -> "Collection[type[Event]]":
        """The classes of the events that it wants. Read once, when the interceptor is made."""

    def __call__(self, event: "Event", /) -> object:
        """Called with each event of these classes.

        Args:
            event: The event.
        """


class TracingObserver(Protocol):
    """An observer that knows the trace of a call."""

    def trace(self) -> bytes:
        """Returns the trace context of the current call, which is stored with its claim.

        Called at most once for each keyed call, in the call's context, before its claim; not for a call that is refused
        at once or answered from memory. Of several observers with this method only the first one is asked.

        Returns:
            25 bytes after W3C Trace Context: the trace id (16 bytes), the span id (8 bytes) and the flags (1 byte).
            Empty if the call is not sampled.
        """

    def __call__(self, event: "Event", /) -> object:
        """Called with each event that it wants.

        Args:
            event: The event.
        """


class WatchingObserver(Protocol):
    """An observer that wants to know at any time which handlers run."""

    def watch(self, running: Callable[[], Mapping[str, int]]) -> None:
        """Called once by each interceptor that it is given to, when the interceptor is made.

        Args:
            running: A bound method of the interceptor's that tells how many handlers of keyed calls run right now, by
                the full names of their methods. Methods without one are missing. It may be called in any thread.
        """

    def __call__(self, event: "Event", /) -> object:
        """Called with each event that it wants.

        Args:
            event: The event.
        """


# Calls


class CallAnswered(NamedTuple):
    """A call has got its answer, or its client has gone away: it has cancelled, or its deadline has passed.

    Told for each call that may be keyed: a call with a key, and a call whose key could have been in its message. Calls
    that are passed through are not told of. Told in the call's context, before the call ends.
    """

    method: str
    """The full method name, ``/package.Service/Method``."""
    operation: bytes | None
    """The operation's name. ``None`` if the call has no key. A call that was refused for its key, its principal or its
    message may have none either."""
    status: Status | None
    """How the call was answered: the value of the trailer ``idempotency-status``. ``None`` if the call has no key, or
    its client has gone away."""
    reason: Reason | None
    """Why the call was refused. ``None`` if it was not, or if it was refused as gRPC itself would do: its message can't
    be read, or its messages are too large."""
    code: Code
    """The status code of the answer; ``CANCELLED`` if the client has gone away."""
    seconds: float
    """The time from the call's arrival at the interceptor to its answer, in seconds. A stream's first message comes
    with the arrival."""
    waited: float
    """The seconds of these in which the call waited for a run that another call or another process has begun."""
    age: timedelta | None
    """The time since a replayed outcome was stored, by this host's clock; ``None`` unless the call was replayed."""
    trace: bytes
    """The trace context of the call whose run made the outcome, as :class:`TracingObserver` gave it. Empty if that call
    was not sampled, and if the call was refused or has no key."""


# Operations


class Claimed(NamedTuple):
    """This process has claimed an operation. A claim after the first one is told as :class:`TakenOver`.

    A transactional operation whose record is written in the commit of its transaction has no claim (5.1).
    """

    method: str
    """The full method name."""
    operation: bytes
    """The operation's name."""
    attempt: int
    """The number of the claim: 1, and one more for each take-over."""
    cut_short: bool
    """True if the operation's last run was cut short: its server is gone, or too slow to renew the lease. False for a
    first claim, and for a take-over of an operation that was waiting."""


class TakenOver(Claimed):
    """This process has claimed an operation of which an earlier run was cut short, or failed in a way that may pass."""

    __slots__ = ()


class ExecutionStarted(NamedTuple):
    """A handler is about to run. One that runs without its client is told of as :class:`RecoveryStarted`.

    Told in the context in which the handler runs: a context variable that an observer sets is seen by the handler.
    """

    method: str
    """The full method name."""
    operation: bytes
    """The operation's name."""
    attempt: int
    """The number of the claim."""
    trace: bytes
    """The trace context of the call that leads; in recovery that of the call whose run was cut short. Empty if that
    call was not sampled."""


class RecoveryStarted(ExecutionStarted):
    """A handler is about to run without its client (5.4)."""

    __slots__ = ()


class Ending(enum.Enum):
    """How a handler's run has ended."""

    ANSWERED = "answered"
    """The handler returned, or aborted with a status."""
    RAISED = "raised"
    """The handler raised an exception."""
    ROLLED_BACK = "rolled back"
    """Its transaction was not committed, or another call of the store failed in it."""
    IN_DOUBT = "in doubt"
    """The handler raised :class:`~grpc_idempotency.OutcomeUnknown`."""
    CANCELLED = "cancelled"
    """The handler was cancelled from inside the server."""
    OVERRAN = "overran"
    """The handler was stopped at its execution limit."""
    STOPPED = "stopped"
    """The server stopped before the handler's end."""


class ExecutionEnded(NamedTuple):
    """A handler has ended. One that has run without its client is told of as :class:`RecoveryEnded`.

    Told in the same context as :class:`ExecutionStarted`.

    A handler on a thread that could not be stopped at its execution limit is told of when it ends.
    """

    method: str
    """The full method name."""
    operation: bytes
    """The operation's name."""
    attempt: int
    """The number of the claim."""
    ended: Ending
    """How it ended."""
    seconds: float
    """How long it ran, in seconds."""


class RecoveryEnded(ExecutionEnded):
    """A handler that has run without its client has ended (5.4)."""

    __slots__ = ()


class Became(enum.Enum):
    """What became of an operation's record after a run."""

    COMPLETED = "completed"
    """The outcome is stored."""
    RELEASED = "released"
    """Nothing is kept: the next call with the key runs the handler."""
    WAITING = "waiting"
    """It will run again, or be undone again, with its finished steps kept (5.2)."""
    UNDOING = "undoing"
    """It has failed for good, and its finished steps are about to be undone (5.2)."""
    HELD = "held"
    """Its outcome can't be known, and it does not run again until an operator resolves it (4.5)."""
    UNPROTECTED = "unprotected"
    """The store was down, and by policy the answer left all the same (5.5)."""
    LOST = "lost"
    """The outcome of this run is not stored: another owner's run counts, or the store did not answer in time, or the
    server stopped."""


class Settled(NamedTuple):
    """A run has ended, and this became of its operation's record.

    An operation that is undone has two of these: ``UNDOING``, and what comes of the undos. So has one that is held
    while its handler runs on past its execution limit: the end of the handler resolves it.
    """

    method: str
    """The full method name."""
    operation: bytes
    """The operation's name."""
    became: Became
    """What became of it."""


class LeaseLost(NamedTuple):
    """The lease of an operation ended while the operation ran here (4.9)."""

    method: str
    """The full method name."""
    operation: bytes
    """The operation's name."""
    for_good: bool
    """True if the operation was taken over or held meanwhile, so that this run does not count. False if it could not be
    renewed in time: the renewals go on, and may make it good."""


class Held(NamedTuple):
    """An operation was held, by its own process or by recovery: an operator has to resolve it (4.5)."""

    method: str
    """The full method name."""
    operation: bytes
    """The operation's name."""
    reason: str
    """Why it is held, in words for an operator."""


class StepFinished(NamedTuple):
    """A step of an operation has run, and its result is stored (5.2)."""

    method: str
    """The full method name."""
    operation: bytes
    """The operation's name."""
    step: str
    """The step's name."""


class StepUndone(NamedTuple):
    """A step of an operation was undone, and that is stored (5.2)."""

    method: str
    """The full method name."""
    operation: bytes
    """The operation's name."""
    step: str
    """The step's name."""


class Recovered(NamedTuple):
    """Recovery has decided about a lapsed operation, and has done so (5.4)."""

    method: str
    """The full method name."""
    operation: bytes
    """The operation's name."""
    fate: Fate
    """``RUN``: its handler is about to run. ``HOLD`` and ``RELEASE``: it is held, or released. ``LEAVE``: only a retry
    of its client finishes it."""
    reason: str
    """Why it is left to its client, in words for an operator; empty for other fates."""


# The store


class StoreCalled(NamedTuple):
    """The interceptor has made a call to its store, and has got the answer.

    Calls that a handler makes to the store are not told of.
    """

    call: str
    """The name of the call, as in :mod:`grpc_idempotency.store`."""
    seconds: float
    """The time to the answer, in seconds."""
    error: Exception | None
    """The error that the call raised; ``None`` if it succeeded."""


class BatchCommitted(NamedTuple):
    """The store's writer in this process has written all that waited, in one transaction or one pipeline.

    Told in the writer's thread, for all stores and servers that share the writer.
    """

    size: int
    """How many requests were in it."""
    seconds: float
    """How long it took, in seconds."""


class Swept(NamedTuple):
    """A sweep has deleted all expired records (6.3)."""

    deleted: int
    """How many records it deleted."""
    freed_bytes: int
    """How many bytes it gave back to the file system, if the store can tell."""
    seconds: float
    """How long it took, in seconds, with its pauses."""


class RecordsCounted(NamedTuple):
    """The records of the store were counted, of all processes.

    Told every 2 seconds without the completed ones, and every minute with them, or less often if there are so many that
    it takes seconds. Only if an observer wants this event and the store can count.
    """

    counts: Mapping[tuple[str, State], int]
    """How many records there are of each method and state. Zeros are missing."""
    completed: bool
    """True if the completed records are counted, too."""


# The server


class Drained(NamedTuple):
    """The interceptor was closed: the operations under way have ended, or the drain limit was reached (4.4).

    Told once, even if it is closed again.
    """

    unfinished: int
    """How many operations did not end within the drain limit."""
    seconds: float
    """How long it waited for them, in seconds."""


Event = (
    CallAnswered
    | Claimed
    | TakenOver
    | ExecutionStarted
    | RecoveryStarted
    | ExecutionEnded
    | RecoveryEnded
    | Settled
    | LeaseLost
    | Held
    | StepFinished
    | StepUndone
    | Recovered
    | StoreCalled
    | BatchCommitted
    | Swept
    | RecordsCounted
    | Drained
)
"""Any event."""

# Users see the module that they import from.
for _public in (Fate, Status):
    _public.__module__ = __name__
del _public
