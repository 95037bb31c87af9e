"""Refuses transaction control within a transaction's function (5.1), and the connection that such a function may get.

A function that commits by itself would keep its rows without the outcome. So its statements are looked at before they
are sent, and each is sent alone: of several statements in one text, only the first would be seen. The state of the
transaction is looked at afterwards.
"""

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import Composable

from grpc_idempotency.errors import TransactionMisuse
from grpc_idempotency.stores._postgres import faults

WRITES = "a read must not write: use store.transaction"
_CONTROL = frozenset(
    ["abort", "begin", "commit", "discard", "end", "release", "reset", "rollback", "savepoint", "start"]
)
_LOCAL = frozenset(["constraints", "local", "transaction"])
"""Words that make a SET end with the transaction."""
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")


def check(query: Any) -> None:
    """Raises :class:`TransactionMisuse` if a statement would end the transaction, or outlast it on the connection."""
    text = query.as_string(None) if isinstance(query, Composable) else query
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if not isinstance(text, str):
        return  # the driver refuses what it can't send
    first, rest = _word(text)
    second = _word(rest)[0]
    if first in _CONTROL or (first, second) == ("prepare", "transaction"):
        raise TransactionMisuse(f"{first.upper()} is not for a transaction's function: the store ends its transaction")
    if first == "set" and second not in _LOCAL:
        raise TransactionMisuse("SET would outlast the transaction, whose connection is used again: use SET LOCAL")


def _word(text: str) -> tuple[str, str]:
    """Returns the first word of a statement, in lower case, and the rest of the text behind it."""
    at, depth = 0, 0
    while at < len(text):
        two = text[at : at + 2]
        if two == "/*":  # comments can be nested
            depth, at = depth + 1, at + 2
        elif depth and two == "*/":
            depth, at = depth - 1, at + 2
        elif depth or text[at].isspace() or text[at] in ";(":
            at += 1
        elif two == "--":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        else:
            break
    end = at
    while end < len(text) and text[end] in _WORD:
        end += 1
    return text[at:end].lower(), text[end:]


class Guard:
    """The state of one transaction, as its function sees it."""

    __slots__ = ("ended", "lost_by", "reads")

    def __init__(self, *, reads: bool) -> None:
        self.reads = reads
        self.ended = False
        """True once the function has ended and its reply is processed."""
        self.lost_by: BaseException | None = None
        """The last error of a statement: the transaction is lost if it was not rolled back to a savepoint."""

    def require(self, status: TransactionStatus) -> None:
        """Raises unless the transaction is open and can be used."""
        if self.ended:
            raise TransactionMisuse("the transaction has ended: its db can't be used after its function has returned")
        if status is TransactionStatus.INTRANS:
            return
        if self.lost_by is not None and faults.is_fault(self.lost_by) and not self._wrote(self.lost_by):
            raise self.lost_by  # a failure of the database, such as a lost connection, is no misuse
        raise TransactionMisuse(
            "the database has rolled back the whole transaction, and nothing of it is kept: its function must not go "
            f"on after that error without a savepoint ({self.lost_by})"
        ) from self.lost_by

    def failed(self, error: BaseException) -> None:
        """Notes that a statement has failed. Raises if it wrote in a read."""
        self.lost_by = error
        if self._wrote(error):
            raise TransactionMisuse(WRITES) from error

    def _wrote(self, error: BaseException) -> bool:
        return self.reads and faults.state_of(error) == faults.READ_ONLY


class LentConnection(psycopg.AsyncConnection[Any]):
    """A connection that an ``async def`` function of a transaction gets. It can't end the transaction.

    Blocks of ``connection.transaction()`` are savepoints.
    """

    guard: Guard | None = None
    """The transaction that it is lent for."""

    async def commit(self) -> None:
        """Raises :class:`TransactionMisuse` while the connection is lent."""
        self._refuse("commit")
        await super().commit()

    async def rollback(self) -> None:
        """Raises :class:`TransactionMisuse` while the connection is lent."""
        self._refuse("rollback")
        await super().rollback()

    def _refuse(self, what: str) -> None:
        if self.guard is not None:
            raise TransactionMisuse(f"{what} is not for a transaction's function: the store ends its transaction")


class LentCursor(psycopg.AsyncCursor[Any]):
    """A cursor of such a connection. It sends one statement at a time, and no transaction control."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> "LentCursor":
        """See :meth:`psycopg.AsyncCursor.execute`."""
        guard = self._guard(query)
        try:
            if params:
                await super().execute(query, params, **options)
            else:
                async with self.connection.pipeline():  # so the server refuses several statements
                    await super().execute(query, params, **options)
        except psycopg.Error as error:
            if guard is not None:
                guard.failed(error)
            raise
        return self

    async def executemany(self, query: Any, params_seq: Iterable[Any], **options: Any) -> None:
        """See :meth:`psycopg.AsyncCursor.executemany`."""
        guard = self._guard(query)
        try:
            await super().executemany(query, params_seq, **options)
        except psycopg.Error as error:
            if guard is not None:
                guard.failed(error)
            raise

    def _guard(self, query: Any) -> Guard | None:
        guard = self.connection.guard if isinstance(self.connection, LentConnection) else None
        if guard is not None:
            check(query)
            guard.require(self.connection.info.transaction_status)
        return guard
