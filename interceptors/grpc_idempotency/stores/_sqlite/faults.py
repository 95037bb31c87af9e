"""Translates SQLite's errors into the store's errors, in one place."""

import enum
import sqlite3

from grpc_idempotency.errors import StoreError, StoreUnavailable, StoreUnusable, Unstorable


class Fault(enum.IntEnum):
    """SQLite's primary result codes for failures of the database, as opposed to failures of a statement."""

    PERM = 3
    BUSY = 5
    LOCKED = 6
    NOMEM = 7
    READONLY = 8
    INTERRUPT = 9
    IOERR = 10
    CORRUPT = 11
    FULL = 13
    CANTOPEN = 14
    NOTADB = 26


# Python 3.10 does not give the code, only SQLite's message.
_WORDS = {
    "access permission denied": Fault.PERM,
    "database is locked": Fault.BUSY,
    "database table is locked": Fault.LOCKED,
    "out of memory": Fault.NOMEM,
    "attempt to write a readonly database": Fault.READONLY,
    "interrupted": Fault.INTERRUPT,
    "disk I/O error": Fault.IOERR,
    "database disk image is malformed": Fault.CORRUPT,
    "database or disk is full": Fault.FULL,
    "unable to open database file": Fault.CANTOPEN,
    "file is not a database": Fault.NOTADB,
}

UNUSABLE = {
    Fault.PERM: "may not be opened: permission denied",
    Fault.READONLY: "is read-only: make the file, its folder and its -wal and -shm files writable",
    Fault.CORRUPT: "is damaged (SQLite: database disk image is malformed): restore it from a copy, or move it away",
    Fault.CANTOPEN: "can't be opened: does the folder exist, and may this process write to it?",
    Fault.NOTADB: "is not an SQLite database: give another path, or move the file away",
}
_UNAVAILABLE = {
    Fault.BUSY: "is locked by another connection",
    Fault.LOCKED: "is locked by another connection",
    Fault.FULL: "has no room left: the disk is full",
    Fault.IOERR: "can't be read or written: the disk reports an error",
}
# After these faults it is not certain that nothing was written.
_UNCERTAIN = frozenset({Fault.NOMEM, Fault.INTERRUPT, Fault.IOERR, Fault.CORRUPT})


def fault_of(error: BaseException) -> Fault | None:
    """Returns how the database failed; ``None`` if the statement was at fault."""
    if isinstance(error, MemoryError):
        return Fault.NOMEM
    if not isinstance(error, sqlite3.Error):
        return None
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return next((fault for words, fault in _WORDS.items() if words in str(error)), None)
    code &= 0xFF
    return Fault(code) if code in Fault._value2member_map_ else None


def translated(error: Exception, path: str) -> StoreError:
    """Returns the store's error for a failure of its own statements, with ``error`` as its cause.

    Its text contains no parameters of the statement.
    """
    if isinstance(error, StoreError):
        return error
    failure = _failure(error, path)
    failure.__cause__ = error
    return failure


def _failure(error: Exception, path: str) -> StoreError:
    fault = fault_of(error)
    landed = None if fault in _UNCERTAIN else False
    if fault in UNUSABLE:
        return StoreUnusable(f"{path} {UNUSABLE[fault]}", landed=landed)
    if fault is None and not isinstance(error, sqlite3.OperationalError):
        words = f": {error}" if isinstance(error, sqlite3.Error) else ""
        return Unstorable(f"{path} can't store what it was given: {type(error).__name__}{words}")
    told = _UNAVAILABLE.get(fault) if fault else None
    return StoreUnavailable(f"{path} {told or f'failed: {type(error).__name__}: {error}'}", landed=landed)
