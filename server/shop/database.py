"""The shop's database: transactions on SQLite or PostgreSQL, and SQL from files."""

import functools
import importlib.resources
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import grpc_idempotency
from grpc_idempotency import OutcomeUnknown, StoreUnavailable
from grpc_idempotency.aio import Operation, current_operation
from shop.errors import Reason, Refused

T = TypeVar("T")
_HEADING = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A database engine. The shop's statements are written once, and differ little from engine to engine.

    Their parameters are written ``?``, and what a transaction reads in order to change it is read ``FOR UPDATE``. The
    tables are created by statements of each engine's own.
    """

    name: str
    """The name of its folder in ``migrations/``."""
    translate: Callable[[str], str]
    """Returns a statement as the engine takes it."""


SQLITE = Engine(
    name="sqlite",
    # A transaction that writes has the whole database to itself.
    translate=functools.cache(lambda sql: sql.removesuffix("FOR UPDATE")),
)
POSTGRESQL = Engine(name="postgresql", translate=functools.cache(lambda sql: sql.replace("?", "%s")))

_ENGINES: Mapping[str, Engine] = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "postgres": POSTGRESQL}


def engine_of(url: str) -> Engine | None:
    """Returns the engine of the store with this URL; ``None`` if it is none of those that can keep the shop's rows."""
    return _ENGINES.get(url.partition(":")[0].lower())


class Rows(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """The number of rows that were changed."""

    def fetchone(self) -> tuple[Any, ...] | None:
        """Returns the next row, or ``None`` after the last one."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Returns the remaining rows."""


class Database:
    """The database as a transaction's function sees it: it takes the shop's statements."""

    def __init__(self, db: grpc_idempotency.Database, engine: Engine) -> None:
        self._db = db
        self._translate = engine.translate
        self.engine = engine
        self.IntegrityError = db.IntegrityError

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Runs one statement."""
        return self._db.execute(self._translate(sql), parameters)

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Runs one statement once for each row of parameters."""
        self._db.executemany(self._translate(sql), parameters)


@runtime_checkable
class Transactions(Protocol):
    """The calls of a store whose database can also keep rows of the shop."""

    async def transaction(self, fn: Callable[[grpc_idempotency.Database], T]) -> T:
        """Runs ``fn(db)`` in one transaction. In a keyed call of the store the result is the reply."""

    async def read(self, fn: Callable[[grpc_idempotency.Database], T]) -> T:
        """Runs ``fn(db)``, which only reads, and returns its result."""


class Data:
    """The shop's rows, in the database of a store.

    Args:
        store: The store.
        engine: Its database engine.
        beside: ``True`` if the operations are in another store. Then rows and reply are not committed together.
    """

    def __init__(self, store: Transactions, engine: Engine, *, beside: bool) -> None:
        self._store = store
        self._engine = engine
        self._beside = beside

    def transaction(self, fn: Callable[[Database], T]) -> Coroutine[Any, Any, T]:
        """Runs ``fn(db)`` in one transaction. In a keyed call its result is the reply, and is stored with the rows.

        The store looks for the keyed call when this is called, and not when it is awaited.
        """
        transaction = self._store.transaction(self._on(fn))
        return _refusing(transaction) if self._beside else transaction

    def read(self, fn: Callable[[Database], T]) -> Coroutine[Any, Any, T]:
        """Runs ``fn(db)``, which only reads, and returns its result. The result is not stored as a reply."""
        return self._store.read(self._on(fn))

    async def step(
        self,
        operation: Operation,
        name: str,
        fn: Callable[[Database], T],
        undo: Callable[[Database, T], object] | None = None,
    ) -> T:
        """Runs ``fn(db)`` as a step of an operation, in a transaction; the step is kept with the rows where it can be.

        ``undo(db, result)`` undoes it, in a transaction too.
        """
        if self._beside:
            return await operation.step(
                name,
                lambda: self.transaction(fn),
                undo=None if undo is None else lambda result: self.transaction(lambda db: undo(db, result)),
            )
        return await operation.step(
            name,
            self._on(fn),
            undo=None if undo is None else lambda db, result: undo(Database(db, self._engine), result),
            transaction=True,
        )

    def _on(self, fn: Callable[[Database], T]) -> Callable[[grpc_idempotency.Database], T]:
        return lambda db: fn(Database(db, self._engine))


async def _refusing(transaction: Coroutine[Any, Any, T]) -> T:
    """Refuses the call if the transaction has failed and left nothing, and says so if nobody can know.

    Where the operations are in the same database, the interceptor does so.
    """
    try:
        return await transaction
    except StoreUnavailable as error:
        if error.landed is False:
            raise Refused(Reason.DATABASE_UNAVAILABLE, effect="Nothing has changed") from error
        if current_operation() is None:
            raise
        raise OutcomeUnknown("the database did not answer a commit: look for the rows of the call") from error


def statements(package: str, file: str = "queries.sql") -> Mapping[str, str]:
    """Reads the statements of a file in the folder of ``package``, in their order, each under its ``-- name:``."""
    text = importlib.resources.files(package).joinpath(file).read_text(encoding="utf-8")
    parts = _HEADING.split(text)
    return dict(zip(parts[1::2], map(_without_comments, parts[2::2]), strict=True))


def _without_comments(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if not line.startswith("--")).strip().rstrip(";")
