"""The outcomes kept in memory, so that a replay need not ask the store (4.7).

A completed outcome never changes, so a copy is as good as the record until the record expires, unless an operator
forgets the operation (6.4). So a copy is used for a minute, in which most retries come. Then the store is asked again.
A copy is found by the name of the operation, which includes the principal (3.1), and by the digest of the request's
bytes. A request with other bytes is compared with the store's record.
"""

import threading
from dataclasses import dataclass
from datetime import datetime

from grpc_idempotency._protocol.effects import Answer, Status
from grpc_idempotency._protocol.refusals import Refusal
from grpc_idempotency._server.clock import now
from grpc_idempotency._wire.reply import reply_to
from grpc_idempotency.records import Outcome

_LONGEST = 60.0
"""The seconds in which a copy is used: a forgotten operation is replayed for no longer than that."""
_OVERHEAD = 512
"""Bytes that an entry counts on top of its outcome's."""


@dataclass(slots=True, eq=False)
class Kept:
    """An outcome that is kept."""

    name: bytes
    """The operation's name."""
    digest: bytes
    """The digest of the request as it first came."""
    outcome: Outcome
    at: datetime
    """When it was stored."""
    until: float
    """The time at which it is not used any more."""
    trace: bytes
    """The trace context of the call whose run made it, if it is known."""
    size: int
    """The bytes that it counts."""
    reply: Outcome | None = None
    """The reply to every further call; made when the first one comes."""


class Replays:
    """A bounded cache of completed outcomes.

    Args:
        limit: How many bytes the outcomes may have in all. The oldest entries make room for new ones.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._room = limit
        self._entries: dict[bytes, Kept] = {}
        """The entries by the names of their operations, the oldest first."""
        self.may_have = self._entries.__contains__
        """Returns True if there is an entry for this name, even an old one. It is no function of Python's."""
        self._lock = threading.Lock()
        """Held while entries are added and removed, but not to find one."""

    def find(self, name: bytes) -> Kept | None:
        """Returns the outcome kept under this name, with its reply; ``None`` if there is none, or it is too old."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.until <= now():
            with self._lock:
                self._forget(name)
            return None
        if entry.reply is None:
            entry.reply = reply_to(Answer(entry.outcome, Status.REPLAYED, entry.at))
        return entry

    def keep(
        self, name: bytes, digest: bytes, outcome: Outcome, at: datetime, until: float, trace: bytes = b""
    ) -> None:
        """Keeps a completed outcome.

        Args:
            name: The operation's name.
            digest: The digest of the request as it first came.
            outcome: The outcome, which is stored whole.
            at: When it was stored.
            until: The earliest time at which its record expires, in seconds of
                :func:`~grpc_idempotency._server.clock.now`.
            trace: The trace context of the call whose run made it.
        """
        size = _OVERHEAD + len(outcome.message or b"") + len(outcome.details)
        if outcome.trailers:
            size += sum(len(name) + len(value) + _OVERHEAD // 4 for name, value in outcome.trailers)
        if size > self._limit:
            return
        with self._lock:
            if name in self._entries:
                self._forget(name)
            self._entries[name] = Kept(name, digest, outcome, at, min(until, now() + _LONGEST), trace, size)
            self._room -= size
            while self._room < 0:
                self._forget(next(iter(self._entries)))

    def reply(self, answered: Answer | Refusal, asked_at: float) -> Outcome:
        """Returns the reply to a call, and keeps the outcome if it was read from a record.

        Args:
            answered: The answer to the call, or its refusal.
            asked_at: A time before the store was asked, in seconds of :func:`~grpc_idempotency._server.clock.now`.
        """
        if (
            isinstance(answered, Answer)
            and answered.created is not None
            and (record := answered.record) is not None
            and record.remaining is not None
        ):
            until = asked_at + record.remaining.total_seconds()
            self.keep(record.name, record.fingerprint.raw, answered.outcome, answered.created, until, record.trace)
        return reply_to(answered)

    def _forget(self, name: bytes) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._room += entry.size
