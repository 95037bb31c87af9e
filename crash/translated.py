"""The shop's statements, which are written for SQLite, on PostgreSQL."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

from crash.audit import TransactionAudit
from grpc_idempotency import Database
from grpc_idempotency.records import Step
from grpc_idempotency.transactions import Rows

T = TypeVar("T")
_IDENTITY = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
_WORDS = {
    "seq INTEGER PRIMARY KEY AUTOINCREMENT": f"seq {_IDENTITY}",
    "seq INTEGER PRIMARY KEY": f"seq {_IDENTITY}",
    "INTEGER": "BIGINT",
    " WITHOUT ROWID": "",
    "?": "%s",
}


class Translated(TransactionAudit):
    """A layer over a store on PostgreSQL, whose transactions take statements for SQLite."""

    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]:
        return super().transaction(_translated(fn), step=step)

    async def read(self, fn: Callable[[Database], T]) -> T:
        return await super().read(_translated(fn))


def _translated(fn: Callable[[Database], T]) -> Callable[[Database], T]:
    return lambda db: fn(cast(Database, _Translating(db)))


class _Translating:
    def __init__(self, db: Database) -> None:
        self._db = db

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        return self._db.execute(_words(sql), parameters)

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> Rows:
        return self._db.executemany(_words(sql), parameters)


def _words(sql: str) -> str:
    for word, other in _WORDS.items():
        sql = sql.replace(word, other)
    return sql
