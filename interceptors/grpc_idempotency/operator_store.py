"""The contract of a store that operators can look into and change (6.4).

Such a store has seven more calls than :mod:`grpc_idempotency.store` asks for. The command ``grpc-idempotency`` and
:mod:`grpc_idempotency.operating` need them. Servers work without them.
"""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from grpc_idempotency.records import Note, Outcome, Record, State
from grpc_idempotency.store import AsyncStore, Store

NOTES_KEPT = timedelta(days=90)
"""How long a store keeps the notes of operators (6.4)."""


class AsyncOperatorStore(AsyncStore, Protocol):
    """A store with the calls of operators' tools (6.4). Of these the interceptors use ``count`` alone, for metrics.

    No call reads records that it does not return, as long as the number of expired ones that are not swept yet, and of
    those that are running, is small: each is a range of an index.
    """

    def list(
        self,
        *,
        state: State | None = None,
        method: str | None = None,
        after: Record | None = None,
        limit: int = 100,
        newest_first: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        stuck: bool = False,
    ) -> Awaitable[Sequence[Record]]:
        """Reads records in the order of their first claims, without expired records.

        Args:
            state: Only records in this state.
            method: Only records of the method with this full name.
            after: The record after which to continue: the last one of the previous page, whether it still exists or
                not.
            limit: The maximum number of records to return.
            newest_first: True to begin with the latest claim, and to continue with earlier ones.
            since: Only records that were first claimed at this time or later.
            until: Only records that were first claimed before this time.
            stuck: True for those records alone that are held or lapsed.

        Returns:
            The records. Fewer than ``limit`` means that there are no more.
        """

    def find(self, prefix: str, limit: int = 2) -> Awaitable[Sequence[Record]]:
        """Reads the records whose names begin with these digits, in the order of their names.

        Args:
            prefix: Up to 32 hexadecimal digits.
            limit: The maximum number of records to return.

        Returns:
            The records.

        Raises:
            ValueError: The prefix is not of hexadecimal digits, or is too long.
        """

    def count(self, *, completed: bool = True) -> Awaitable[Mapping[tuple[str, State], int]]:
        """Counts the records of each method and state, without expired ones.

        Args:
            completed: False to leave completed records out. This takes little time, however many they are.

        Returns:
            The counts by the full name of the method and the state. Zeros are missing. Records that change meanwhile
            may be missed, or counted in both states.
        """

    def methods(self) -> Awaitable[Collection[str]]:
        """Reads the names of the methods that have records. This takes little time, however many records there are.

        Returns:
            The full names, each once. Methods whose records have all expired may be among them.
        """

    def notes(self, name: bytes) -> Awaitable[Sequence[Note]]:
        """Reads what operators did to an operation, whether it has a record or not.

        Args:
            name: The operation's name.

        Returns:
            The notes of the last :data:`NOTES_KEPT`, the oldest first.
        """

    def resolve(
        self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta, note: Note | None = None
    ) -> Awaitable[bool]:
        """Resolves a held record as an operator decided.

        Args:
            name: The operation's name.
            fence: The fence that the record must have.
            outcome: The outcome to complete the record with; ``None`` makes the operation absent, as if it had never
                happened.
            ttl: The time from now until the completed record expires.
            note: Stored together with the change, with the time of it.

        Returns:
            ``True`` if the record was changed.
        """

    def forget(self, name: bytes, fence: bytes, note: Note | None = None) -> Awaitable[bool]:
        """Deletes a record and its steps, so that the operation is absent and its fence invalid.

        The record is completed, held or waiting, or is running or undoing and its lease has run out. An interceptor
        that has a completed outcome in its memory replays it for a minute more at most.

        Args:
            name: The operation's name.
            fence: The fence that the record must have.
            note: Stored together with the change, with the time of it.

        Returns:
            ``True`` if the record was deleted.
        """


class OperatorStore(Store, Protocol):
    """A store for threads with the calls of operators' tools (6.4)."""

    def list(
        self,
        *,
        state: State | None = None,
        method: str | None = None,
        after: Record | None = None,
        limit: int = 100,
        newest_first: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        stuck: bool = False,
    ) -> Sequence[Record]:
        """See :meth:`AsyncOperatorStore.list`."""

    def find(self, prefix: str, limit: int = 2) -> Sequence[Record]:
        """See :meth:`AsyncOperatorStore.find`."""

    def count(self, *, completed: bool = True) -> Mapping[tuple[str, State], int]:
        """See :meth:`AsyncOperatorStore.count`."""

    def methods(self) -> Collection[str]:
        """See :meth:`AsyncOperatorStore.methods`."""

    def notes(self, name: bytes) -> Sequence[Note]:
        """See :meth:`AsyncOperatorStore.notes`."""

    def resolve(
        self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta, note: Note | None = None
    ) -> bool:
        """See :meth:`AsyncOperatorStore.resolve`."""

    def forget(self, name: bytes, fence: bytes, note: Note | None = None) -> bool:
        """See :meth:`AsyncOperatorStore.forget`."""
