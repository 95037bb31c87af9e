"""A full disk: nothing is begun whose outcome would not fit."""

import sqlite3
import time

from grpc_idempotency.stores._sqlite.faults import Fault, fault_of
from grpc_idempotency.stores._sqlite.tables import Tables
from grpc_idempotency.stores._sqlite.turns import begin

PROBE_EVERY = 0.25
"""Seconds between two looks whether a full disk has room again."""


def remember(tables: Tables, error: BaseException, size: int) -> None:
    """Notes, if that was the error, that the disk had no room for so many bytes."""
    if fault_of(error) is Fault.FULL:
        tables.unwritten = max(tables.unwritten, size)


def is_there(db: sqlite3.Connection, tables: Tables) -> bool:
    """Whether what the disk refused last would fit now. At a transaction's beginning: it is committed and begun anew.

    A small claim would succeed where its outcome will not, and its effect would be for nothing.
    """
    if not tables.unwritten:
        return True
    at = time.monotonic()
    if at < tables.probe_at:
        return False
    tables.probe_at = at + PROBE_EVERY
    try:
        # Only what is committed is sure to have fitted.
        db.execute(tables.sql["probe"], (tables.unwritten,))
        db.execute("COMMIT")
        tables.unwritten = 0
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
    begin(db, tables.patience, tables.path)
    db.execute(tables.sql["end_probe"])
    return not tables.unwritten
