"""Where the servers of a run keep their operations and rows, and how the lab and its checker read them.

A server of PostgreSQL or Valkey is a process that the lab starts. It is among the victims: all that it has acknowledged
must be there when it is started again.
"""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg
from tests.harness.postgres import Server
from tests.harness.valkey import Valkey

from grpc_idempotency import State
from grpc_idempotency.records import Record
from grpc_idempotency.stores.redis import RedisStore

SERVICES = ("users", "orders")
_STATES = (State.RUNNING, State.COMPLETED, State.HELD, State.WAITING, State.UNDOING)
"""The states by the numbers that the tables have for them."""
_PAGE = 500


@dataclass(frozen=True)
class Stored:
    """A record, as far as the checker reads it."""

    name: str
    fence: str
    method: str
    state: State
    message: bytes | None
    left: bool = False
    """True if it is transactional, has finished steps and no request: its server died, and recovery can't run it (5.4).

    Only a retry of its client runs it again. If the client has no need of it any more, the record stays.
    """


class Killable(Protocol):
    """A server of a database."""

    def start(self) -> None:
        """Starts it, also after it was killed. Blocks until it answers."""

    def kill(self) -> None:
        """Kills it as kill -9 does."""

    def discard(self) -> None:
        """Ends it, and deletes its data."""


class Engine(ABC):
    """The databases of a run. To make one starts its server.

    Args:
        folder: The run's folder.
    """

    name: str
    server: Killable | None = None
    """The process to kill, and to start again on the same data; ``None`` if the engine is a part of the servers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @abstractmethod
    def store(self, service: str) -> str:
        """Returns the place of a service's operations, for the store that its servers make."""

    @abstractmethod
    def stored(self, service: str) -> list[Stored]:
        """Returns all records of a service."""

    def file(self, service: str) -> Path:
        """Returns the SQLite file of a service: of its rows at least."""
        return self._folder / f"{service}.db"

    def rows(self, service: str, sql: str) -> list[Any]:
        """Returns the rows of a query of a service's own tables."""
        with closing(sqlite3.connect(self.file(service))) as db:
            return db.execute(sql).fetchall()

    def under_way(self) -> list[Stored]:
        """Returns the operations that have not ended, and that will."""
        ended = (State.COMPLETED, State.HELD)
        found = [one for service in SERVICES for one in self.stored(service)]
        return [one for one in found if one.state not in ended and not one.left]


class SQLite(Engine):
    """Operations and rows in an SQLite file of each service."""

    name = "sqlite"

    def store(self, service: str) -> str:
        return str(self.file(service))

    def stored(self, service: str) -> list[Stored]:
        sql = (
            "SELECT lower(hex(o.name)), lower(hex(fence)), m.name, state, message "
            "FROM grpc_idempotency_operations AS o JOIN grpc_idempotency_methods AS m ON m.id = o.method"
        )
        return list(_stored(self.rows(service, sql)))


class PostgreSQL(Engine):
    """Operations and rows in a PostgreSQL server, in a database of each service."""

    name = "postgresql"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = server = Server()
        server.start()
        self._url = server.url
        with closing(psycopg.connect(self._url, autocommit=True)) as db:
            for service in SERVICES:
                db.execute(f"CREATE DATABASE {service}".encode())

    def store(self, service: str) -> str:
        return self._url.rpartition("/")[0] + f"/{service}"

    def rows(self, service: str, sql: str) -> list[Any]:
        with closing(psycopg.connect(self.store(service))) as db:
            return db.execute(sql.encode()).fetchall()

    def stored(self, service: str) -> list[Stored]:
        sql = (
            "SELECT encode(name, 'hex'), encode(fence, 'hex'), method, state, message, state = 0 AND effects = 1 AND "
            "request IS NULL AND steps > 0 AND lease_until <= clock_timestamp() FROM idempotency.operations"
        )
        return list(_stored(self.rows(service, sql)))


class Redis(Engine):
    """Operations in a Valkey server, under a prefix of each service. Each write is on the disk before its answer."""

    name = "redis"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = server = Valkey(appendonly="yes", appendfsync="always")
        server.start()
        self._url = server.url

    def store(self, service: str) -> str:
        return self._url

    def stored(self, service: str) -> list[Stored]:
        with closing(RedisStore(self._url, prefix=service)) as store:
            return [_of(record) for record in _listed(store)]


ENGINES: dict[str, type[Engine]] = {one.name: one for one in (SQLite, PostgreSQL, Redis)}


def _stored(rows: list[Any]) -> Iterator[Stored]:
    for name, fence, method, state, message, *left in rows:
        yield Stored(name, fence, method, _STATES[state], message, *left)


def _listed(store: RedisStore) -> Iterator[Record]:
    after: Record | None = None
    while page := store.list(after=after, limit=_PAGE):
        yield from page
        after = page[-1]


def _of(record: Record) -> Stored:
    message = None if record.outcome is None else record.outcome.message
    return Stored(record.name.hex(), record.fence.hex(), record.method, record.state, message)
