"""The engines of this process: one for each schema of a database, for all stores, event loops and servers (6.2)."""

import atexit
import os
import threading
import time
from typing import Any

from grpc_idempotency.stores._calls.requests import Request
from grpc_idempotency.stores._postgres.engine import PostgresEngine
from grpc_idempotency.stores._postgres.settings import Settings

_PATIENCE_AT_EXIT = 5.0

# Re-entrant: the garbage collector may release a store's engine at any point, also in a thread that holds the lock.
_lock = threading.RLock()
_users: dict[PostgresEngine, int] = {}
_leaving: list[PostgresEngine] = []


def acquire(settings: Settings) -> PostgresEngine:
    """Returns the engine with these settings, and counts one more user of it."""
    with _lock:
        engine = next((one for one in _users if one.settings == settings and one.failure is None), None)
        if engine is None:
            engine = PostgresEngine(settings)
        _users[engine] = _users.get(engine, 0) + 1
        return engine


def release(engine: PostgresEngine, farewell: Request[Any] | None = None) -> None:
    """Counts one user less of the engine. The last user closes it.

    ``farewell`` is answered when all writes before it are done.
    """
    with _lock:
        left = _users.get(engine, 0) - 1
        if left > 0:
            _users[engine] = left
            if farewell is not None:
                engine.submit(farewell)
            return
        _users.pop(engine, None)
        _leaving[:] = [one for one in _leaving if not one.closed.is_set()]
        _leaving.append(engine)
        engine.close(farewell)


def _close_all() -> None:
    """Finishes pending requests and closes all connections at exit, for a process that did not close its stores."""
    with _lock:
        engines = [*_users, *_leaving]
        _users.clear()
    for engine in engines:
        engine.close()
    give_up_at = time.monotonic() + _PATIENCE_AT_EXIT
    for engine in engines:
        engine.closed.wait(max(0.0, give_up_at - time.monotonic()))


def _abandon_all() -> None:
    """Drops all engines in a forked child: locks, threads and connections belong to the parent."""
    global _lock
    _lock = threading.RLock()
    for engine in [*_users, *_leaving]:
        engine.abandon()
    _abandoned.extend([*_users, *_leaving])
    _users.clear()
    _leaving.clear()


_abandoned: list[PostgresEngine] = []
"""What a fork has left behind, kept so that nothing of it is ever finalized."""
atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
