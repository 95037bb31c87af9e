"""Full disks: no claim is written while its outcome would not fit."""

import sqlite3
import time

from grpc_idempotency.stores._sqlite.faults import Fault, fault_of
from grpc_idempotency.stores._sqlite.tables import Tables
from grpc_idempotency.stores._sqlite.turns import begin

PROBE_EVERY = 0.25
"""Seconds between two checks whether a full disk has room again."""


def remember(tables: Tables, error: BaseException, size: int) -> None:
    """Records the size in bytes of a write for which the disk had no room, if ``error`` says so."""
    if fault_of(error) is Fault.FULL:
        tables.unwritten = max(tables.unwritten, size)


def is_there(db: sqlite3.Connection, tables: Tables) -> bool:
    """Returns ``True`` if the write that the disk refused last would fit now.

    Must be called at the beginning of a transaction, because it commits it and begins another one. A small claim might
    succeed although its outcome will not fit; then its effect would be useless.
    """
    if not tables.unwritten:
        return True
    at = time.monotonic()
    if at < tables.probe_at:
        return False
    tables.probe_at = at + PROBE_EVERY
    try:
        # Only a commit shows that the write fits.
        db.execute(tables.sql["probe"], (tables.unwritten,))
        db.execute("COMMIT")
        tables.unwritten = 0
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
    begin(db, tables.patience, tables.path)
    db.execute(tables.sql["end_probe"])
    return not tables.unwritten
