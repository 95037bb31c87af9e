"""Fair turns between processes on one file.

SQLite has no queue for its write lock: an owner that begins again at once starves the others for seconds. So a process
leaves a gap between its groups, but only while another is known to use the file: each tells so by a row that it writes,
from time to time, within groups that it writes anyway. One that has not told yet finds its first turn by polling.
"""

import secrets
import sqlite3
import time

from grpc_idempotency._jitter import uniform
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.stores._sqlite.faults import Fault, fault_of
from grpc_idempotency.stores._sqlite.sql import Sql

GAP = 0.005
"""Seconds between two groups while others use the file."""
LOOK = 250
"""How often to look for others, in milliseconds of the store's clock."""
BEAT = 10_000
"""How often to tell others, in milliseconds of the store's clock."""
STALE = 30_000
"""How long one that tells nothing any more counts as there."""


class Turns:
    """This process's turns on one file, as one prefix's tables know of them."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self.id = secrets.token_hex(8)
        self.shared = False
        """Whether another process was seen when last looked."""
        self.beat_at = -BEAT
        """When others were told last, by the store's clock in milliseconds."""
        self.look_at = 0
        """When to look for others again, by that clock."""
        self._ended_at = 0.0

    def beat(self, db: sqlite3.Connection, now: int) -> None:
        """Tells others, within a transaction."""
        db.execute(self._sql["forget_peers"], (now - STALE, self.id))
        db.execute(self._sql["beat"], (self.id, now))
        self.beat_at = now

    def leave(self, db: sqlite3.Connection) -> None:
        """Tells others that this process is gone."""
        db.execute(self._sql["forget_peers"], (-1, self.id))

    def look(self, db: sqlite3.Connection, now: int) -> None:
        """Looks for others."""
        self.look_at = now + LOOK
        self.shared = bool(db.execute(self._sql["any_peer"], (now - STALE, self.id)).fetchone()[0])

    def wait(self) -> None:
        """Lets others in before the next group."""
        time.sleep(max(0.0, min(GAP, self._ended_at + GAP - time.monotonic())))

    def ended(self) -> None:
        """A group has ended."""
        self._ended_at = time.monotonic()


def begin(db: sqlite3.Connection, patience: float, path: str) -> None:
    """Takes the write lock, within ``patience`` seconds.

    Polls every 1 to 3 ms, since SQLite's own handler waits ever longer between its tries and so loses every race.
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
