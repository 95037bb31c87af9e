"""Fair turns between processes on one file.

SQLite has no queue for its write lock: a process that takes it again at once starves the others for seconds. So a
process leaves a gap between its groups, but only while another one is known to use the file. Each process announces
itself by a row, which it writes from time to time in groups that it writes anyway. A process that has not announced
itself yet gets its first turn by polling.
"""

import secrets
import sqlite3
import time

from grpc_idempotency._jitter import uniform
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.stores._sqlite.faults import Fault, fault_of
from grpc_idempotency.stores._sqlite.sql import Sql

GAP = 0.005
"""Seconds between two groups while other processes use the file."""
LOOK = 250
"""How often to look for other processes, in milliseconds of the store's clock."""
BEAT = 10_000
"""How often to announce this process, in milliseconds of the store's clock."""
STALE = 30_000
"""How long a process that announces nothing more counts as alive, in milliseconds of the store's clock."""


class Turns:
    """The turns of this process on one file, for the tables of one prefix."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self.id = secrets.token_hex(8)
        self.shared = False
        """True if the last look found another process."""
        self.beat_at = -BEAT
        """When this process last announced itself, in milliseconds of the store's clock."""
        self.look_at = 0
        """When to look for other processes again, by the same clock."""
        self._ended_at = 0.0

    def beat(self, db: sqlite3.Connection, now: int) -> None:
        """Announces this process. Called within a transaction."""
        db.execute(self._sql["forget_peers"], (now - STALE, self.id))
        db.execute(self._sql["beat"], (self.id, now))
        self.beat_at = now

    def leave(self, db: sqlite3.Connection) -> None:
        """Deletes the row of this process."""
        db.execute(self._sql["forget_peers"], (-1, self.id))

    def look(self, db: sqlite3.Connection, now: int) -> None:
        """Looks for other processes."""
        self.look_at = now + LOOK
        self.shared = bool(db.execute(self._sql["any_peer"], (now - STALE, self.id)).fetchone()[0])

    def wait(self) -> None:
        """Waits, so that other processes get a turn before the next group."""
        time.sleep(max(0.0, min(GAP, self._ended_at + GAP - time.monotonic())))

    def ended(self) -> None:
        """Records the end of a group."""
        self._ended_at = time.monotonic()


def begin(db: sqlite3.Connection, patience: float, path: str) -> None:
    """Takes the write lock, within ``patience`` seconds.

    It polls every 1 to 3 ms. SQLite's own handler waits longer after each try, and so loses every race.
    """
    try:
        db.execute("BEGIN IMMEDIATE")
        return
    except sqlite3.OperationalError as error:
        if fault_of(error) is not Fault.BUSY:
            raise
    give_up_at = time.monotonic() + patience
    while True:
        time.sleep(uniform(0.001, 0.003))
        try:
            db.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if fault_of(error) is not Fault.BUSY:
                raise
            if time.monotonic() >= give_up_at:
                raise StoreUnavailable(f"{path} stayed locked by another connection for {patience:g} s") from error
