"""The values that a store keeps and answers with. Plain, frozen, and free of any driver or of gRPC."""

import enum
from dataclasses import dataclass, field
from datetime import datetime, timedelta

Trailers = tuple[tuple[str, str | bytes], ...]
"""Trailing metadata in the order it was set; a ``-bin`` key has ``bytes``, any other ``str``."""


class Code(enum.IntEnum):
    """The status codes of gRPC, by their number on the wire (the protocol's own copy, since it imports no grpc)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Effects(enum.Enum):
    """What a method's handler does to the world; it decides what happens when nobody can know its outcome (4.5)."""

    OPAQUE = "opaque"
    """Unknown to us (the default). A run that was cut short is *held* until an operator resolves it."""
    TRANSACTIONAL = "transactional"
    """All in its own ``store.transaction``. A run that was cut short left nothing and is run again."""
    REPEATABLE = "repeatable"
    """Harmless to repeat, or in steps. A run that was cut short is run again."""


class State(enum.Enum):
    """The states of a record; an operation without a record is *absent*."""

    RUNNING = "running"
    COMPLETED = "completed"
    UNDOING = "undoing"
    """It has failed for good, and its finished steps are being undone under a lease (5.2)."""
    WAITING = "waiting"
    """To be run again, or to be undone again, with the steps that it has finished kept (5.2)."""
    HELD = "held"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Two digests of one request (3.2), 32 bytes each: two requests are the same if either is equal."""

    raw: bytes
    """Of the bytes as they came."""
    canonical: bytes
    """Of the message's deterministic serialization, without the fields that the policy leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a handler answered, to the byte (4.7)."""

    status: Code
    message: bytes | None = None
    """The serialized response, or a stream's messages, framed. ``None`` where there is none, or it was not retained."""
    details: str = ""
    """The status message."""
    trailers: Trailers = ()
    """Trailing metadata, ``grpc-status-details-bin`` among it."""
    retained: bool = True
    """Whether this is all of it: ``False`` where the message is missing, since it was larger than may be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step that an operation has finished (5.2)."""

    name: str
    """Unique within the operation."""
    position: int
    """Its place among the steps that the handler ran itself, one after the other; -1: it ran beside them."""
    result: bytes
    """What the step returned, encoded."""
    undoable: bool = False
    """Whether it has to be undone when the operation fails for good."""
    recorded_at: datetime | None = field(default=None, compare=False)
    """When it was recorded; aware, UTC. The store sets it, and steps that differ in it alone are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """What a run without a client needs (5.4)."""

    principal: bytes
    """Whose operation it is, as the scope function named it."""
    metadata: Trailers
    """The part of the invocation metadata that the policy allows to be kept."""
    messages: tuple[bytes, ...]
    """The request messages, as they came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is written when an operation is claimed."""

    name: bytes
    """The operation's name: 16 bytes, a digest of principal, method and key (3.1)."""
    method: str
    """The full method name, ``/package.Service/Method``, for operators."""
    fence: bytes
    """16 random bytes that no other claim ever had or gets (4.2)."""
    fingerprint: Fingerprint
    effects: Effects
    lease: timedelta
    """How long the claim is good for from now on, by the store's clock."""
    owner: str = ""
    """Whose process claims it, as ``host:pid``, for operators."""
    streams: bool = False
    """Whether the method answers with a stream of messages."""
    request: StoredRequest | None = None
    """The request, where the operation may be finished without its client (5.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a store knows of an operation, at the instant it was read."""

    name: bytes
    method: str
    state: State
    fence: bytes
    """The fence of the last claim, in every state."""
    owner: str = ""
    """The owner that the last claim named; empty once completed."""
    fingerprint: Fingerprint
    effects: Effects
    """As of the last claim: what to do with a lapsed record is decided by how it was begun."""
    streams: bool = False
    """Whether the method answers with a stream: an outcome's message then holds its messages, framed."""
    attempts: int
    """How many times the operation was claimed: 1, and one more for each take-over."""
    tries: int = 0
    """How many runs of its handler have failed in a way that may pass; as of the last ``wait``."""
    undo_tries: int = 0
    """How many runs have failed to undo it; as of the last ``wait``."""
    created_at: datetime
    """When it was first claimed; aware, UTC."""
    lapsed: bool = False
    """Whether its lease has run out by the store's clock, or it is waiting and due."""
    completed_at: datetime | None = None
    """When the outcome was stored; aware, UTC; ``None`` unless completed."""
    expires_at: datetime | None = None
    """When a completed record stops being there; aware, UTC."""
    remaining: timedelta | None = field(default=None, compare=False)
    """How long a completed record is there from the instant on at which it was read, by the store's clock."""
    outcome: Outcome | None = None
    """The outcome of a completed record."""
    failure: Outcome | None = None
    """The failure that it is being undone for, without a message; in a waiting or held record too, ``None`` when it is
    completed."""
    reason: str = ""
    """Why it is held, in words for an operator."""
    resolved: bool = False
    """Whether the outcome is an operator's word (6.4), and not what a handler answered."""
    request: StoredRequest | None = None
    """The request as it was claimed with; in the answers of ``pending`` alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one batch of a sweep did."""

    deleted: int
    """Expired records that were deleted."""
    more: bool
    """Whether expired records were left for a next batch."""
    freed_bytes: int = 0
    """What was given back to the file system, where the store can tell."""
