"""The tables of one prefix in one file: their version, their clock, their turns."""

import logging
import sqlite3
from typing import Any

from grpc_idempotency.errors import StoreUnusable
from grpc_idempotency.stores._sqlite.clock import Anchor, RawClock, StoreClock
from grpc_idempotency.stores._sqlite.guard import GuardedConnection
from grpc_idempotency.stores._sqlite.sql import Sql
from grpc_idempotency.stores._sqlite.turns import Turns, begin

_log = logging.getLogger("grpc_idempotency.stores.sqlite")
_INCREMENTAL = 2


class Tables:
    """What the writer knows of the tables of one prefix. Used on the connection's thread alone."""

    def __init__(self, path: str, sql: Sql, raw_clock: RawClock, patience: float, *, read_only: bool) -> None:
        self.path = path
        self.sql = sql
        self.clock = StoreClock(raw_clock)
        self.turns = Turns(sql)
        self.patience = patience
        """How long to wait for the write lock, in seconds."""
        self._read_only = read_only
        self.ready = False
        self.vacuums = False
        """Whether the file gives space back."""
        self.unwritten = 0
        """The size of the largest write that the full disk refused; 0 while the disk is not known to be full."""
        self.probe_at = 0.0
        self.message_size = 0
        """How many bytes the messages of the latest outcomes had at least.

        A claim makes room for so many: a row that grows in a full page splits it, and half-full pages stay as they are,
        since rows are only added at the end.
        """

    def prepare(self, db: GuardedConnection) -> None:
        """Creates the tables or migrates them, starts the clock, tells the others and looks for them."""
        if self.ready:
            return
        if self._read_only:
            self._look(db)
            return
        begin(db, self.patience, self.path)
        try:
            self._migrate(db)
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
        """Checks that the tables are there, and starts the clock; changes nothing."""
        try:
            meta = self._meta(db)
        except sqlite3.OperationalError as exc:
            raise StoreUnusable(f"{self.path} holds no operations whose tables begin with {self.sql.prefix}") from exc
        if self._version(meta) < self.sql.version:
            raise StoreUnusable(
                f"{self.path} has tables of an older version: start a server of this grpc-idempotency on it first"
            )
        self.clock.start(*_anchored(meta))
        self.ready = True

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
        anew = self.clock.start(*_anchored(self._meta(db)))
        now = self.clock.now()
        if anew is not None:
            self.write_meta(
                db, {"boot_id": anew.boot_id, "uptime_ns": anew.uptime_ns, "store_ms": anew.store_ms, "last_ms": now}
            )
            db.execute(self.sql["clamp_leases"], (now, now))
        self.beat(db, now)

    def beat(self, db: sqlite3.Connection, now: int) -> None:
        """Tells the other processes of this one, and the next boot of the time."""
        self.turns.beat(db, now)
        self.write_meta(db, {"last_ms": now})

    def leave(self, db: sqlite3.Connection) -> None:
        """The last words of this process."""
        if self.ready and not self._read_only:
            begin(db, self.patience, self.path)
            self.turns.leave(db)
            self.write_meta(db, {"last_ms": self.clock.now()})
            db.execute("COMMIT")

    def _meta(self, db: sqlite3.Connection) -> dict[str, Any]:
        return dict(db.execute(self.sql["read_meta"]).fetchall())

    def write_meta(self, db: sqlite3.Connection, values: dict[str, object]) -> None:
        """Sets values in the meta table, within a transaction."""
        parameters = [part for item in values.items() for part in item]
        db.execute(self.sql.sized["write_meta", 2, len(values)], parameters)


def _anchored(meta: dict[str, Any]) -> tuple[Anchor | None, int]:
    """What the clock starts from: the anchor, and the last time that the store is known to have seen."""
    anchor = None
    if "store_ms" in meta:
        anchor = Anchor(boot_id=meta["boot_id"], uptime_ns=meta["uptime_ns"], store_ms=meta["store_ms"])
    return anchor, int(meta.get("last_ms", 0))


def _corrupts(version: tuple[int, ...]) -> bool:
    """Whether this SQLite can damage a WAL file that several connections write (docs: sqlite.org/wal.html)."""
    if version >= (3, 51, 3):
        return False
    return not ((3, 44, 6) <= version < (3, 45) or (3, 50, 7) <= version < (3, 51))
