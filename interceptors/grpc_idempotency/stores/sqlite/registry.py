"""The writers of this process: one per file, however many stores, loops and servers use it (6.2)."""

import atexit
import os
import threading
import time
from typing import Any

from grpc_idempotency.errors import PolicyError
from grpc_idempotency.stores.sqlite.connection import Settings
from grpc_idempotency.stores.sqlite.requests import Request
from grpc_idempotency.stores.sqlite.writer import Writer, identity_of

_PATIENCE_AT_EXIT = 5.0

# Re-entrant: a store that is collected as garbage gives its writer back wherever that happens to be.
_lock = threading.RLock()
_users: dict[Writer, int] = {}
_leaving: list[Writer] = []


def acquire(path: str, settings: Settings) -> Writer:
    """The writer of the file, for one more user."""
    with _lock:
        owners = [one for one in _users if _owns(one, path) and (settings.read_only or not one.settings.read_only)]
        writer = min(owners, key=lambda one: one.settings.read_only, default=None)
        if writer is None:
            before = [one for one in _leaving if one.path == path and not one.closed.is_set()]
            _leaving[:] = [one for one in _leaving if not one.closed.is_set()]
            writer = Writer(path, settings, before[-1].closed if before else None)
        elif writer.settings != settings and not settings.read_only:
            raise PolicyError(f"{path} is open in this process already, with other settings: {writer.settings}")
        _users[writer] = _users.get(writer, 0) + 1
        return writer


def release(writer: Writer, farewell: Request[Any] | None = None) -> None:
    """One user less; the last one closes the writer. ``farewell`` is answered when all before it is done."""
    with _lock:
        left = _users.get(writer, 0) - 1
        if left > 0:
            _users[writer] = left
            if farewell is not None:
                writer.submit(farewell)
            return
        _users.pop(writer, None)
        _leaving.append(writer)
        writer.close(farewell)


def _owns(writer: Writer, path: str) -> bool:
    """Whether the writer's file is the one at the path: by its inode, since a file can have many paths, and a path
    another file than it had.
    """
    if writer.failure is not None:
        return False
    return writer.path == path if writer.identity is None else writer.identity == identity_of(path)


def _close_all() -> None:
    """At exit, for a process that forgot to: what is pending is done, and nobody is warned of an open file."""
    with _lock:
        writers = [*_users, *_leaving]
        _users.clear()
    for writer in writers:
        writer.close()
    give_up_at = time.monotonic() + _PATIENCE_AT_EXIT
    for writer in writers:
        writer.closed.wait(max(0.0, give_up_at - time.monotonic()))


def _abandon_all() -> None:
    """In a forked child: locks, threads and connections are the parent's."""
    global _lock
    _lock = threading.RLock()
    for writer in [*_users, *_leaving]:
        writer.abandon()
    _users.clear()
    _leaving.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
