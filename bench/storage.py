"""Measures what each stored key takes in an engine, and how fast expired keys are swept."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

from bench.engines import Engine
from bench.measure import Load, Server
from bench.setup import REPLY_OF_200, Setup
from grpc_idempotency import store_from_url

_CALLS_AT_ONCE = 1_000
_EXPIRED = 0.001
"""The seconds that an outcome is kept if it is to be swept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """What stored keys take. Each has a reply of 200 bytes."""

    store: str
    """The engine and its version."""
    keys: int
    """How many keys were stored."""
    bytes_per_key: float
    compacted: float | None
    """The bytes per key without dead rows; ``None`` if the engine has none."""
    logged: float | None
    """The bytes per key that were written to the engine's log of changes."""
    swept_per_second: float
    """The expired keys that one process deletes in a second, batch after batch without a pause."""
    engine_cpu_per_swept: float | None
    """The seconds of the engine's processor time for each of them."""
    faults: list[str]


def measure_storage(engine: Engine, keys: int, progress: Callable[[int], None]) -> Storage | None:
    """Stores keys by first calls, and sweeps as many others. It takes twice as many calls.

    Args:
        engine: Where they are stored.
        keys: How many keys.
        progress: Called with the number of calls that were made.

    Returns:
        The figures; ``None`` if the engine can't tell its size.
    """
    place = engine.place("storage")
    before, logged_before = engine.size(place), engine.logged()
    if before is None:
        return None
    faults = _fill(engine, place, keys, None, progress)
    after, logged_after = engine.size(place), engine.logged()
    compacted = engine.size(place) if engine.compact(place) else None
    place = engine.place("swept")
    faults += _fill(engine, place, keys, _EXPIRED, progress)
    cpu_before, began = engine.cpu(), time.perf_counter()
    swept = _sweep(_setup(engine, place, _EXPIRED).url)
    took, cpu_after = time.perf_counter() - began, engine.cpu()
    if swept != keys:
        faults.append(f"{swept} of {keys} expired keys were swept")
    return Storage(
        store=engine.title,
        keys=keys,
        bytes_per_key=((after or 0) - before) / keys,
        compacted=None if compacted is None else (compacted - before) / keys,
        logged=None if logged_before is None or logged_after is None else (logged_after - logged_before) / keys,
        swept_per_second=swept / took,
        engine_cpu_per_swept=None if cpu_before is None or cpu_after is None else (cpu_after - cpu_before) / keys,
        faults=faults,
    )


def _setup(engine: Engine, place: str, ttl: float | None) -> Setup:
    return Setup(
        name="storage",
        kind="aio",
        role="ours",
        service="echo",
        database=place,
        store=engine.store,
        reply_length=REPLY_OF_200,
        ttl=ttl,
    )


def _fill(engine: Engine, place: str, keys: int, ttl: float | None, progress: Callable[[int], None]) -> list[str]:
    """Makes first calls to a server, ends it, and returns the failures."""
    faults: list[str] = []
    with ExitStack() as ends:
        load = Load(ends, "echo", engine)
        server = Server(_setup(engine, place, ttl))
        ends.callback(server.end)
        for begin in range(0, keys, _CALLS_AT_ONCE):
            part = min(_CALLS_AT_ONCE, keys - begin)
            faults += load.make(server, part)
            progress(part)
    return faults


def _sweep(url: str) -> int:
    """Sweeps until nothing is left, and returns how many operations were deleted."""
    deleted, more = 0, True
    with closing(store_from_url(url)) as store:
        store.open()
        while more:
            swept = store.sweep()
            deleted += swept.deleted
            more = swept.more
    return deleted
