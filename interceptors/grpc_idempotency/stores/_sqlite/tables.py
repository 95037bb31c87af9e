"""The tables of one prefix in one file, with their version, their clock and their turns."""

import logging
import secrets
import sqlite3
from typing import Any

from grpc_idempotency.errors import StoreUnusable
from grpc_idempotency.stores._sqlite.clock import Anchor, RawClock, StoreClock
from grpc_idempotency.stores._sqlite.faults import fault_of
from grpc_idempotency.stores._sqlite.guard import GuardedConnection
from grpc_idempotency.stores._sqlite.methods import Methods
from grpc_idempotency.stores._sqlite.sql import Sql
from grpc_idempotency.stores._sqlite.turns import Turns, begin

_log = logging.getLogger("grpc_idempotency.stores.sqlite")
_INCREMENTAL = 2
_NOT_HERE = (
    "this store must not create or change tables (migrate=False); `grpc-idempotency schema` prints the SQL that does"
)


class Tables:
    """The writer's state for the tables of one prefix. Used only on the connection's thread."""

    def __init__(self, path: str, sql: Sql, raw_clock: RawClock, patience: float, *, read_only: bool) -> None:
        self.path = path
        self.sql = sql
        self.clock = StoreClock(raw_clock)
        self.turns = Turns(sql)
        self.methods = Methods(sql)
        self.patience = patience
        """The maximum time to wait for the write lock, in seconds."""
        self._read_only = read_only
        self.ready = False
        self.identity: str | None = None
        """The random id that was written with the tables; ``None`` until it was read."""
        self.vacuums = False
        """True if the file can return space to the file system."""
        self.unwritten = 0
        """The size in bytes of the largest write that the full disk refused; 0 unless the disk is known to be full."""
        self.probe_at = 0.0
        self.message_size = 0
        """The size in bytes that the messages of the latest outcomes had at least.

        A claim reserves this much room. Otherwise the completion makes the row grow; in a full page this splits the
        page, and half-full pages stay half full, because rows are only added at the end.
        """

    def prepare(self, db: GuardedConnection, *, migrate: bool) -> None:
        """Creates or migrates the tables, starts the clock, and announces this process to others and looks for them.

        Args:
            db: The connection.
            migrate: False to refuse tables that are missing or old.

        Raises:
            StoreUnusable: The tables are newer than this version, or are missing or old and must not be changed.
        """
        if self.ready:
            return
        if self._read_only:
            self._look(db)
            return
        begin(db, self.patience, self.path)
        try:
            if migrate:
                self._migrate(db)
            else:
                self._check(db, _NOT_HERE)
            self._start(db)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        db.guard.protect(self.sql.tables)
        self.vacuums = db.execute("PRAGMA auto_vacuum").fetchone()[0] == _INCREMENTAL
        self.turns.look(db, self.clock.now())
        self.ready = True
        if self.turns.shared and _corrupts(sqlite3.sqlite_version_info):
            _log.warning(
                "several processes share %s under SQLite %s, whose WAL mode has a rare bug that can damage the file; "
                "it is fixed in 3.51.3, 3.50.7 and 3.44.6",
                self.path,
                sqlite3.sqlite_version,
            )

    def _look(self, db: sqlite3.Connection) -> None:
        """Checks the tables, and starts the clock. Changes nothing."""
        meta = self._check(db, "start a server of this grpc-idempotency on it first")
        self.clock.start(*_anchored(meta))
        self.identity = meta.get("identity")
        self.ready = True

    def _check(self, db: sqlite3.Connection, advice: str) -> dict[str, Any]:
        """Returns the content of the meta table.

        Raises:
            StoreUnusable: The tables are missing, old or newer. The error ends with ``advice``.
        """
        try:
            meta = self._meta(db)
        except sqlite3.OperationalError as exc:
            if fault_of(exc) is not None:
                raise
            raise StoreUnusable(
                f"{self.path} holds no operations whose tables begin with {self.sql.prefix}: {advice}"
            ) from exc
        version = self._version(meta)
        if version < self.sql.version:
            raise StoreUnusable(
                f"{self.path} has tables of an older version, {version} and not {self.sql.version}: {advice}"
            )
        return meta

    def _version(self, meta: dict[str, Any]) -> int:
        version = int(meta.get("version", 0))
        if version > self.sql.version:
            raise StoreUnusable(
                f"{self.path} has tables of version {version}, and this grpc-idempotency knows them up to version "
                f"{self.sql.version}: upgrade grpc-idempotency"
            )
        return version

    def _migrate(self, db: sqlite3.Connection) -> None:
        db.execute(self.sql["create_meta"])
        version = self._version(self._meta(db))
        for reached, statements in self.sql.migrations(version):
            for statement in statements:
                db.execute(statement)
            self.write_meta(db, {"version": reached})

    def _start(self, db: sqlite3.Connection) -> None:
        meta = self._meta(db)
        self.identity = meta.get("identity")
        if self.identity is None:
            self.identity = secrets.token_hex(16)
            self.write_meta(db, {"identity": self.identity})
        anew = self.clock.start(*_anchored(meta))
        now = self.clock.now()
        if anew is not None:
            self.write_meta(
                db, {"boot_id": anew.boot_id, "uptime_ns": anew.uptime_ns, "store_ms": anew.store_ms, "last_ms": now}
            )
            db.execute(self.sql["clamp_leases"], (now, now))
        self.beat(db, now)

    def beat(self, db: sqlite3.Connection, now: int) -> None:
        """Stores that this process is alive, for other processes, and the store's time, for the next boot."""
        self.turns.beat(db, now)
        self.write_meta(db, {"last_ms": now})

    def leave(self, db: sqlite3.Connection) -> None:
        """Deletes the row of this process, and saves the store's time."""
        if self.ready and not self._read_only:
            begin(db, self.patience, self.path)
            self.turns.leave(db)
            self.write_meta(db, {"last_ms": self.clock.now()})
            db.execute("COMMIT")

    def _meta(self, db: sqlite3.Connection) -> dict[str, Any]:
        return dict(db.execute(self.sql["read_meta"]).fetchall())

    def write_meta(self, db: sqlite3.Connection, values: dict[str, object]) -> None:
        """Sets values in the meta table. Called within a transaction."""
        parameters = [part for item in values.items() for part in item]
        db.execute(self.sql.sized["write_meta", 2, len(values)], parameters)


def _anchored(meta: dict[str, Any]) -> tuple[Anchor | None, int]:
    """Returns the values that the clock starts from: the anchor, and the last known time of the store."""
    anchor = None
    if "store_ms" in meta:
        anchor = Anchor(boot_id=meta["boot_id"], uptime_ns=meta["uptime_ns"], store_ms=meta["store_ms"])
    return anchor, int(meta.get("last_ms", 0))


def _corrupts(version: tuple[int, ...]) -> bool:
    """Returns ``True`` if this SQLite can damage a WAL file that several connections write to.

    See sqlite.org/wal.html.
    """
    if version >= (3, 51, 3):
        return False
    return not ((3, 44, 6) <= version < (3, 45) or (3, 50, 7) <= version < (3, 51))
