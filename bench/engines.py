"""The engines: where the servers of a run keep operations, and what that costs outside of these servers.

SQLite and the memory are parts of the servers. PostgreSQL and Valkey are servers of their own, which a run starts on a
real disk, with the settings that keep what they acknowledge.
"""

import os
import sqlite3
from abc import ABC, abstractmethod
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psycopg
from tests.harness.postgres import Server
from tests.harness.valkey import Valkey, free_ports

from bench.cases import StoreName
from bench.places import Processors, on_processors, processors

Appendfsync = Literal["everysec", "always"]


class Engine(ABC):
    """The databases of a run. To make one starts its server; it is closed at the end.

    Args:
        folder: An empty folder on a real disk.
    """

    store: StoreName
    title: str
    """The name and the version."""
    settings: str = ""
    """The settings that decide about durability."""
    served = False
    """True if the engine is a server of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = ExitStack()
        self.pid: int | None = None
        """The process of the database server; ``None`` if the engine is a part of the servers."""
        self.processors: Processors = processors(engine=self.served)

    @abstractmethod
    def place(self, name: str) -> str:
        """Makes an empty database: returns the path of a file for SQLite, the URL of a store for others."""

    def file(self, name: str) -> str:
        """Returns the path of an SQLite file on the same disk."""
        return str(self._folder / f"{name}.db")

    def cpu(self) -> float | None:
        """Returns the seconds of processor time that the engine's own processes have used, if the system can tell."""
        return None if self.pid is None else _processor_time(self.pid)

    def size(self, place: str) -> int | None:
        """Returns the bytes that a database takes while no server has it open, if the engine can tell."""
        return None

    def logged(self) -> int | None:
        """Returns the bytes that the engine has written to its log of changes, if the engine can tell."""
        return None

    def compact(self, place: str) -> bool:
        """Removes dead rows from a database, and returns whether the engine can do so."""
        return False

    def close(self) -> None:
        """Ends the database server."""
        self._ends.close()


class SQLite(Engine):
    """A file for each server."""

    store = "sqlite"
    title = f"SQLite {sqlite3.sqlite_version}"

    def place(self, name: str) -> str:
        return self.file(name)

    def size(self, place: str) -> int | None:
        return Path(place).stat().st_size if Path(place).exists() else 0


class Memory(Engine):
    """The memory of each server."""

    store = "memory"
    title = "MemoryStore"

    def place(self, name: str) -> str:
        return "memory:"


class PostgreSQL(Engine):
    """A PostgreSQL server, with a database for each server of a run."""

    store = "postgresql"
    served = True
    _SETTINGS = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "shared_buffers": "128MB"}  # noqa: RUF012 - never changed

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        folder.chmod(0o711)  # PostgreSQL may run as another user, see Server
        self._server = Server(parent=folder, **self._SETTINGS)
        self._ends.callback(self._server.discard)
        with on_processors(self.processors.engine):
            self._server.start()
        assert self._server.process is not None
        self.pid = self._server.process.pid
        self.settings = ", ".join(f"{name}={value}" for name, value in self._SETTINGS.items())
        self.title = f"PostgreSQL {self._ask(self._server.url, 'SHOW server_version').split()[0]}"

    def place(self, name: str) -> str:
        database = name.replace("-", "_")
        with closing(psycopg.connect(self._server.url, autocommit=True)) as db:
            db.execute(f"CREATE DATABASE {database}".encode())
        return urlsplit(self._server.url)._replace(path=f"/{database}").geturl()

    def size(self, place: str) -> int | None:
        tables = "SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace('idempotency')"
        return int(self._ask(place, f"SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM ({tables}) AS t"))

    def logged(self) -> int | None:
        return int(self._ask(self._server.url, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))

    def compact(self, place: str) -> bool:
        with closing(psycopg.connect(place, autocommit=True)) as db:
            db.execute("VACUUM (FULL)")
        return True

    @staticmethod
    def _ask(url: str, sql: str) -> Any:
        with closing(psycopg.connect(url, autocommit=True)) as db:
            row = db.execute(sql.encode()).fetchone()
        assert row is not None
        return row[0]


class Redis(Engine):
    """A Valkey server, with a prefix for each server of a run.

    Args:
        folder: An empty folder on a real disk.
        appendfsync: When the log of changes is synced: ``everysec`` or ``always``.
    """

    store = "redis"
    served = True

    def __init__(self, folder: Path, appendfsync: Appendfsync = "everysec") -> None:
        super().__init__(folder)
        [port] = free_ports(1)
        self._server = Valkey(port=port, parent=folder, appendonly="yes", appendfsync=appendfsync)
        self._ends.callback(self._server.discard)
        with on_processors(self.processors.engine):
            self._server.start()
        self.pid = self._server.pid
        self.settings = f"appendonly=yes, appendfsync={appendfsync}"
        self.title = f"Valkey {self._info('server')['valkey_version']}"

    def place(self, name: str) -> str:
        return f"{self._server.url}?prefix={name}"

    def size(self, place: str) -> int | None:
        # The memory of all databases: the one that grows meanwhile is the place.
        return int(self._info("memory")["used_memory"])

    def logged(self) -> int | None:
        return int(self._info("persistence")["aof_current_size"])

    def _info(self, section: str) -> dict[str, Any]:
        with closing(self._server.client()) as client:
            info: dict[str, Any] = client.info(section)
        return info


def started(store: StoreName, folder: Path, appendfsync: Appendfsync = "everysec") -> Engine:
    """Starts an engine on an empty folder."""
    if store == "redis":
        return Redis(folder, appendfsync)
    engines: dict[StoreName, type[Engine]] = {"sqlite": SQLite, "memory": Memory, "postgresql": PostgreSQL}
    return engines[store](folder)


def _processor_time(pid: int) -> float | None:
    """Returns the processor time of a process and all of its children, running or ended, if the system can tell."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        of_ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
        nanoseconds = sum(map(_nanoseconds, (pid, *map(int, children))))
    except OSError:
        return None
    return nanoseconds / 1e9 + sum(map(int, of_ended)) / os.sysconf("SC_CLK_TCK")


def _nanoseconds(pid: int) -> int:
    """Returns the processor time of a process's threads. Its clock ticks are too coarse for many short-lived tasks."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads)
