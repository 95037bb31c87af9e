"""Stores that fail now and then: before a call, after it, or slowly; and a file that is locked or full now and then."""

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from grpc_idempotency import SQLiteStore, StoreUnavailable, aio

TABLES = """
CREATE TABLE effects (id INTEGER PRIMARY KEY, key TEXT, what TEXT, run INTEGER);
CREATE TABLE payments (ref TEXT UNIQUE ON CONFLICT ROLLBACK);
INSERT INTO payments VALUES ('there');
CREATE TABLE capped (n);
CREATE TRIGGER cap BEFORE INSERT ON capped BEGIN SELECT RAISE(ROLLBACK, 'no more'); END;
CREATE TABLE attachments (data);
"""
_PAGES = 6000
"""How many pages the file may have: less than the large statements of programs take, more than all else."""
BUSY = timedelta(milliseconds=150)
_FAILING = (
    "claim",
    "renew",
    "complete",
    "release",
    "wait",
    "undo",
    "record_step",
    "steps",
    "hold",
    "get",
    "standing",
    "pending",
    "transaction",
    "read",
)


def made(path: Path) -> Path:
    """Makes the database of a campaign."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(TABLES)
    return path


@contextmanager
def limited_files() -> Iterator[None]:
    """Connections that are opened within the block have a file that is full at so many pages."""
    connect = sqlite3.connect

    def limited(*given: Any, **named: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*given, **named)
        db.execute(f"PRAGMA max_page_count = {_PAGES}").fetchall()
        return db

    sqlite3.connect = limited  # type: ignore[assignment]  # the writer opens its connection by this name
    try:
        yield
    finally:
        sqlite3.connect = connect


class Faults:
    """Decides which calls of a store fail, and how."""

    def __init__(self, seed: int, rate: float) -> None:
        self._random = random.Random(seed)
        self._rate = rate
        self.injected = 0

    def next(self) -> str:
        """Returns how the next call fails: not at all, ``before``, ``lost``, ``landed`` or ``slow``."""
        if self._random.random() >= self._rate:
            return ""
        self.injected += 1
        return self._random.choice(("before", "lost", "landed", "slow"))


def _before(fault: str) -> None:
    if fault == "before":
        raise StoreUnavailable("a fault of the campaign: it was not tried")
    if fault == "lost":
        raise StoreUnavailable("a fault of the campaign: nobody knows", landed=None)


def _after(fault: str) -> None:
    if fault == "landed":
        raise StoreUnavailable("a fault of the campaign: nobody knows, and it was done", landed=None)


def _failing(name: str) -> Callable[..., Any]:
    def call(self: Any, *given: Any, **named: Any) -> Any:
        fault = self.faults.next()
        _before(fault)
        if fault == "slow":
            time.sleep(0.02)
        value = getattr(SQLiteStore, name)(self, *given, **named)
        _after(fault)
        return value

    return call


def _failing_awaited(name: str) -> Callable[..., Any]:
    async def call(self: Any, *given: Any, **named: Any) -> Any:
        fault = self.faults.next()
        _before(fault)
        return await _answered(getattr(aio.SQLiteStore, name)(self, *given, **named), fault)

    def bound_at_once(self: Any, *given: Any, **named: Any) -> Any:
        """A transaction is its operation's by where it is called, not by where it is awaited."""
        fault = self.faults.next()
        if fault in ("before", "lost"):
            return _refused(fault)
        return _answered(getattr(aio.SQLiteStore, name)(self, *given, **named), fault)

    return bound_at_once if name == "transaction" else call


async def _refused(fault: str) -> None:
    _before(fault)


async def _answered(work: Any, fault: str) -> Any:
    if fault == "slow":
        await asyncio.sleep(0.02)
    value = await work
    _after(fault)
    return value


class FailingStore(SQLiteStore):
    """The store for threads, failing now and then."""

    def __init__(self, path: Path, faults: Faults) -> None:
        super().__init__(path, busy_timeout=BUSY)
        self.faults = faults


class AsyncFailingStore(aio.SQLiteStore):
    """The store for asyncio, failing now and then."""

    def __init__(self, path: Path, faults: Faults) -> None:
        super().__init__(path, busy_timeout=BUSY)
        self.faults = faults


for _name in _FAILING:
    setattr(FailingStore, _name, _failing(_name))
    setattr(AsyncFailingStore, _name, _failing_awaited(_name))


class Locker:
    """Another process, as it were, that holds the file's lock now and then for longer than anybody waits."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="locker", daemon=True)

    def __enter__(self) -> "Locker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with closing(sqlite3.connect(self._path, timeout=5, isolation_level=None)) as db:
            while not self._stop.wait(self._random.uniform(0.1, 0.8)):
                try:
                    db.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    continue
                self._stop.wait(self._random.choice((0.01, 0.05, 0.25)))
                db.execute("ROLLBACK")
