"""Clocks that tests move, and stores that are closed behind them with nothing left open."""

import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency.stores._sqlite import registry
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore, SQLiteStore


@dataclass
class HandClock:
    """A machine whose clocks stand still until they are moved."""

    wall: int = 1_800_000_000_000
    uptime: int = 5_000_000_000_000
    boot: str = "boot-1"

    def wall_ns(self) -> int:
        return self.wall * 1_000_000

    def uptime_ns(self) -> int:
        return self.uptime

    def boot_id(self) -> str:
        return self.boot

    def elapse(self, duration: timedelta) -> None:
        """Time passes, and all clocks agree on it."""
        milliseconds = duration // timedelta(milliseconds=1)
        self.wall += milliseconds
        self.uptime += milliseconds * 1_000_000

    def jump(self, duration: timedelta) -> None:
        """Somebody sets the wall clock."""
        self.wall += duration // timedelta(milliseconds=1)

    def reboot(self, *, away: timedelta, boot: str = "boot-2") -> None:
        """The machine is off for a while, and starts anew."""
        self.wall += away // timedelta(milliseconds=1)
        self.uptime, self.boot = 20_000_000_000, boot

    def now(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=self.wall)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "idempotency.db"


Make = Callable[..., AsyncSQLiteStore]


@pytest.fixture
async def make(path: Path, clock: HandClock) -> AsyncIterator[Make]:
    """Makes stores on the test's file and clock, and closes them at the end."""
    made: list[AsyncSQLiteStore] = []

    def make_store(at: Path = path, **options: Any) -> AsyncSQLiteStore:
        made.append(AsyncSQLiteStore(at, _clock=options.pop("clock", clock), **options))
        return made[-1]

    yield make_store
    for store in made:
        await store.close()


MakeBlocking = Callable[[], SQLiteStore]


@pytest.fixture
def make_blocking(path: Path, clock: HandClock) -> Iterator[MakeBlocking]:
    """The same for threads."""
    made: list[SQLiteStore] = []

    def make_store() -> SQLiteStore:
        made.append(SQLiteStore(path, _clock=clock))
        return made[-1]

    yield make_store
    for store in made:
        store.close()


@pytest.fixture
async def store(make: Make) -> AsyncSQLiteStore:
    store = make()
    await store.open()
    return store


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test ends with no file open and no thread of ours running."""
    yield
    if registry.writers.users:
        gc.collect()  # a store that is garbage is released by the collector
    assert not registry.writers.users
    for writer in registry.writers.leaving:
        assert writer.closed.wait(5)
    for thread in threading.enumerate():
        if "aiosqlite" in repr(thread) or "_connection_worker_thread" in thread.name:
            thread.join(5)
            assert not thread.is_alive()
