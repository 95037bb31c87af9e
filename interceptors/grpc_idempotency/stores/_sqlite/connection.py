"""The connection: aiosqlite's, opened and closed so that it needs no event loop and keeps no process alive."""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import aiosqlite

from grpc_idempotency._jitter import uniform
from grpc_idempotency.errors import StoreUnavailable, StoreUnusable
from grpc_idempotency.stores._sqlite.faults import UNUSABLE, Fault, fault_of
from grpc_idempotency.stores._sqlite.guard import GuardedConnection
from grpc_idempotency.stores._sqlite.place import Place, identity_of

_STATEMENTS_KEPT = 512
_WAL_KEPT = 4 << 20
"""The size in bytes to which SQLite cuts the -wal file when it restarts it after a checkpoint."""
_PREDECESSOR = 10.0
"""Seconds to wait until the writer before this one has closed the file. A process never has two connections to it."""
_EFFECTIVE = os.access in os.supports_effective_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings that all stores on one file in one process must share."""

    synchronous: str
    foreign_keys: bool
    read_only: bool
    patience: float
    """The maximum time to wait for a lock, in seconds."""


class _Nobody:
    """Replaces the future that aiosqlite expects, because nothing waits for the job.

    aiosqlite would notify the future's loop when the job ends. If that loop was closed in the meantime, this raises an
    exception in aiosqlite's thread, and the thread ends.
    """

    def get_loop(self) -> "_Nobody":
        return self

    def call_soon_threadsafe(self, *_: object) -> None:
        pass


_NOBODY = cast("asyncio.Future[Any]", _Nobody())


class Connection(aiosqlite.Connection):
    """An aiosqlite connection whose thread runs one long job.

    A group makes dozens of SQLite calls in a row. With aiosqlite's own methods, each call would switch between threads
    twice, and at each await the cancellation of a caller could leave a transaction unfinished.
    """

    def work(self, job: Callable[[], None]) -> None:
        """Runs the job on the connection's thread, and ends the thread after it. The job closes the file."""
        self._tx.put_nowait((_NOBODY, lambda: self._last(job)))

    def _last(self, job: Callable[[], None]) -> None:
        try:
            job()
        finally:
            # aiosqlite 0.22 has stop. In this thread it finds no running loop, so it makes no future.
            stop = getattr(self, "stop", None) or getattr(self, "_stop_running")  # noqa: B009 - mypy sees 0.22 alone
            stop()

    def __del__(self) -> None:
        """Does nothing.

        So a process that forgets to close a store ends without a warning; the writer closes the file at exit.
        """


def connect(
    place: Place,
    settings: Settings,
    serve: Callable[[GuardedConnection], None],
    failed: Callable[[Exception], None],
    after: threading.Event | None,
) -> None:
    """Opens the file in a thread of its own, and serves it in aiosqlite's thread.

    The opening thread is a daemon for two reasons. aiosqlite's own thread inherits this, so a process that forgets to
    close a store still ends. And no caller's loop or cancellation can interrupt an opening that other callers wait for
    too.

    Args:
        place: The file's path. The identity of the opened files is recorded there.
        settings: How to open the file.
        serve: Called once with the connection, in aiosqlite's thread. It closes the connection before it returns.
        failed: Called instead, with the reason, if the file can't be opened.
        after: If given, the file is opened once this event is set, or after a timeout.
    """
    opening = threading.Thread(
        target=_connect, args=(place, settings, serve, failed, after), name="grpc-idempotency-open", daemon=True
    )
    try:
        opening.start()
    except RuntimeError as error:
        failed(StoreUnavailable(f"{place.path} can't be opened: {error}"))


def _connect(
    place: Place,
    settings: Settings,
    serve: Callable[[GuardedConnection], None],
    failed: Callable[[Exception], None],
    after: threading.Event | None,
) -> None:
    made: list[GuardedConnection] = []

    def make() -> GuardedConnection:
        made.append(_open(place, settings))
        return made[0]

    async def opened() -> Connection:
        connection = Connection(make, iter_chunk_size=64)
        try:
            await connection
        except Exception:
            # Its thread is about to end, and notifies this loop: the loop must not be closed before that.
            thread = cast("threading.Thread", getattr(connection, "_thread", connection))
            if thread.ident is not None:  # None if the thread could not be started
                thread.join()
            raise
        return connection

    if after is not None:
        after.wait(_PREDECESSOR)
    try:
        connection = asyncio.run(opened())
    except Exception as error:
        failed(error)
    else:
        connection.work(lambda: serve(made[0]))


def _open(place: Place, settings: Settings) -> GuardedConnection:
    """Opens the connection, and records in ``place`` which files were opened."""
    before, frozen = identity_of(place.path), settings.read_only and not _is_used(place.path)
    db = open_read_only(place.path) if settings.read_only else _open_to_write(place.path, settings)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # makes SQLite open the files beside it
        place.opened(before, frozen=frozen)
    except BaseException:
        db.close()
        raise
    return db


def _open_to_write(path: str, settings: Settings) -> GuardedConnection:
    """Opens a connection in WAL mode, without Python's own transaction handling and without SQLite's own waiting."""
    _check(path)
    db = sqlite3.connect(
        path,
        timeout=settings.patience,
        isolation_level=None,
        cached_statements=_STATEMENTS_KEPT,
        factory=GuardedConnection,
    )
    try:
        if db.execute("PRAGMA page_count").fetchone()[0] == 0:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only in a file that this call creates
        mode = _wal_mode(db, settings.patience)
        if mode != "wal":
            raise StoreUnusable(f"{path} can't use SQLite's WAL mode (it stays in {mode!r}): is it on a network share?")
        db.execute(f"PRAGMA synchronous = {settings.synchronous}")
        db.execute(f"PRAGMA foreign_keys = {settings.foreign_keys:d}")
        db.execute("PRAGMA busy_timeout = 0")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
        # A request that was stored for recovery must not stay readable in the file after it is deleted.
        db.execute("PRAGMA secure_delete = ON")
    except BaseException:
        db.close()
        raise
    return db


def _wal_mode(db: sqlite3.Connection, patience: float) -> str:
    """Sets the file's journal mode to WAL, and returns the mode that the file has then.

    If several processes do this with a new file at the same time, SQLite makes one of them fail at once, whatever its
    timeout: otherwise they would all wait for one another.
    """
    give_up_at = time.monotonic() + patience
    while True:
        try:
            mode: str = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if fault_of(error) is not Fault.BUSY or time.monotonic() >= give_up_at:
                raise
            time.sleep(uniform(0.001, 0.003))
        else:
            return mode


def open_read_only(path: str) -> GuardedConnection:
    """Opens an existing file without creating or changing anything, including files beside it.

    SQLite would create a -wal and a -shm file if there are none, and if these belonged to another user, a server could
    not start. If nobody has the database open, only its main file is read, as it is.

    Raises:
        StoreUnusable: The file can't be read without creating files.
    """
    wal = Path(f"{path}-wal")
    mode = "mode=ro"
    try:
        if not Path(path).is_file():
            raise StoreUnusable(f"{path}: there is no such file")
        if not _is_used(path):
            if wal.is_file() and wal.stat().st_size:
                raise StoreUnusable(f"{path} has a -wal and no -shm file, so that it can't be read without making one")
            mode += "&immutable=1"
    except OSError as exc:
        raise StoreUnusable(f"{path} can't be read: {exc.strerror}") from exc
    uri = f"file:{quote(path)}?{mode}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, factory=GuardedConnection)
    db.execute("PRAGMA busy_timeout = 0")
    return db


def _is_used(path: str) -> bool:
    """Returns ``True`` if a process has the database open, or has ended without closing it."""
    return Path(f"{path}-shm").is_file()


def _check(path: str) -> None:
    """Raises a clear error for what SQLite would only report as "unable to open database file"."""
    if sqlite3.sqlite_version_info < (3, 33):
        raise StoreUnusable(f"SQLite {sqlite3.sqlite_version} is too old: 3.33 or newer is needed")
    file = Path(path)
    if file.is_dir():
        raise StoreUnusable(f"{path} is a folder: give the path of a database file")
    if not file.parent.is_dir():
        raise StoreUnusable(f"{path}: the folder {file.parent} does not exist; create it")
    if file.exists() and not os.access(path, os.W_OK, effective_ids=_EFFECTIVE):
        # SQLite would open it for reading, and create files beside it that the file's owner can't write to.
        raise StoreUnusable(f"{path} {UNUSABLE[Fault.READONLY]}")
