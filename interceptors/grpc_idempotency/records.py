"""The values that a store keeps and returns. They are frozen, and depend on no driver and not on gRPC."""

import enum
from dataclasses import dataclass, field
from datetime import datetime, timedelta

Trailers = tuple[tuple[str, str | bytes], ...]
"""Trailing metadata in the order in which it was set. A ``-bin`` name has ``bytes``, any other ``str``."""


class Code(enum.IntEnum):
    """The status codes of gRPC, by their number on the wire. A copy, since the protocol does not import grpc."""

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
    """The kind of effects that a handler has. It decides what happens if its outcome is in doubt (4.5)."""

    OPAQUE = "opaque"
    """Unknown. The default. If a run is cut short, the operation is *held* until an operator resolves it."""
    TRANSACTIONAL = "transactional"
    """All in its own ``store.transaction``. If a run is cut short, it has left nothing, and runs again."""
    REPEATABLE = "repeatable"
    """Harmless to repeat, or in steps. If a run is cut short, it runs again."""


class State(enum.Enum):
    """The states of a record. An operation without a record is *absent*."""

    RUNNING = "running"
    """It was claimed, and its handler runs under a lease."""
    COMPLETED = "completed"
    """Its outcome is stored."""
    UNDOING = "undoing"
    """It has failed for good, and its finished steps are being undone under a lease (5.2)."""
    WAITING = "waiting"
    """It will run again, or be undone again, with its finished steps kept (5.2)."""
    HELD = "held"
    """Its outcome can't be known, and it does not run again until an operator resolves it (4.5)."""


class Renewal(enum.Enum):
    """The answers of a store that is asked to renew a lease (4.9)."""

    RENEWED = "renewed"
    """The lease ends as asked."""
    LOST = "lost"
    """The operation is absent, has another fence, or is neither running nor undoing. Nothing was changed."""
    BUSY = "busy"
    """Another transaction uses the record, and the store did not wait for it. Nothing was changed or lost: try
    again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Two digests of one request (3.2), 32 bytes each. Two requests are the same if either digest is equal."""

    raw: bytes
    """The digest of the bytes as they came."""
    canonical: bytes
    """The digest of the message's deterministic serialization, without the fields that the policy leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The exact answer of a handler (4.7)."""

    status: Code
    """The status code."""
    message: bytes | None = None
    """The serialized response, or a stream's messages, framed. ``None`` if there is none, or it was not retained."""
    details: str = ""
    """The status message."""
    trailers: Trailers = ()
    """Trailing metadata, with ``grpc-status-details-bin``."""
    retained: bool = True
    """``False`` if the message is missing, since it was larger than may be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step that an operation has finished (5.2)."""

    name: str
    """Unique within the operation."""
    position: int
    """Its index among the steps that the handler ran itself, one after the other; -1 if it ran concurrently."""
    result: bytes
    """The step's result, encoded."""
    undoable: bool = False
    """True if it has to be undone when the operation fails for good."""
    recorded_at: datetime | None = field(default=None, compare=False)
    """When it was recorded; timezone-aware, UTC. The store sets it, and it does not count in comparisons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """The data that a run without a client needs (5.4)."""

    principal: bytes
    """The principal, as the principal function named it."""
    metadata: Trailers
    """The invocation metadata that the policy allows to be kept."""
    messages: tuple[bytes, ...]
    """The request messages, as they came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The data that is written when an operation is claimed."""

    name: bytes
    """The operation's name: 16 bytes, a digest of principal, method and key (3.1)."""
    method: str
    """The full method name, ``/package.Service/Method``, for operators."""
    fence: bytes
    """16 random bytes that no other claim ever had or gets (4.2)."""
    fingerprint: Fingerprint
    """The digests of the request."""
    effects: Effects
    """The effects of the method's policy."""
    lease: timedelta
    """How long the claim is good for from now on, by the store's clock."""
    owner: str = ""
    """The process that claims the operation, as ``host:pid``, for operators."""
    streams: bool = False
    """True if the method answers with a stream of messages."""
    request: StoredRequest | None = None
    """The request, if the operation may be finished without its client (5.4)."""
    trace: bytes = b""
    """The W3C trace context of the call that executes it, if it is sampled: 16 bytes of trace id, 8 of span id and 1 of
    flags. Otherwise empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The state of an operation in a store, at the instant it was read."""

    name: bytes
    """The operation's name: 16 bytes."""
    method: str
    """The full method name, ``/package.Service/Method``."""
    state: State
    """The record's state."""
    fence: bytes
    """The fence of the last claim, in every state."""
    owner: str = ""
    """The owner that the last claim named; empty once completed."""
    fingerprint: Fingerprint
    """The digests of the request."""
    effects: Effects
    """The effects as of the last claim. They decide what happens to a lapsed record."""
    streams: bool = False
    """True if the method answers with a stream. An outcome's message then has the stream's messages, framed."""
    attempts: int
    """How many times the operation was claimed: 1, and one more for each take-over."""
    failed_runs: int = 0
    """How many runs of its handler have failed in a way that may pass; as of the last ``wait``."""
    failed_undos: int = 0
    """How many runs have failed to undo it; as of the last ``wait``."""
    created_at: datetime
    """When it was first claimed; timezone-aware, UTC."""
    lapsed: bool = False
    """True if its lease has run out by the store's clock, or if it is waiting and due."""
    completed_at: datetime | None = None
    """When the outcome was stored; timezone-aware, UTC; ``None`` unless completed."""
    expires_at: datetime | None = None
    """When a completed record becomes absent; timezone-aware, UTC."""
    remaining: timedelta | None = field(default=None, compare=False)
    """The time from the read until a completed record expires, by the store's clock."""
    outcome: Outcome | None = None
    """The outcome of a completed record."""
    failure: Outcome | None = None
    """The failure for which it is being undone, without a message. A waiting or held record keeps it; a completed one
    has ``None``."""
    reason: str = ""
    """Why it is held, in words for an operator."""
    resolved: bool = False
    """True if an operator gave the outcome (6.4), and not a handler."""
    trace: bytes = b""
    """The trace context of the last claim, which is kept with the outcome; empty if the claim had none."""
    request: StoredRequest | None = None
    """The request of the claim. Only ``pending`` returns it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What an operator did to an operation, when and why (6.4)."""

    by: str
    """The operator, for example as ``user@host``; empty if nobody said."""
    action: str
    """What became of the operation: ``completed``, ``never happened`` or ``forgotten``."""
    reason: str
    """Why, in the operator's words; empty if nobody said."""
    at: datetime | None = None
    """When it was done; timezone-aware, UTC. The store sets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The part of a record that tells waiting calls whether its run has ended (4.3)."""

    fence: bytes
    """The fence of the last claim."""
    state: State
    """The record's state."""
    lapsed: bool
    """True if its lease has run out by the store's clock, or if it is waiting and due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """The result of one batch of a sweep."""

    deleted: int
    """How many expired records were deleted."""
    more: bool
    """True if expired records are left for another batch."""
    freed_bytes: int = 0
    """How many bytes were given back to the file system, if the store can tell."""
