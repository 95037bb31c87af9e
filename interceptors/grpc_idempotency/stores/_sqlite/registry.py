"""The writers of this process: one per file, for all stores, event loops and servers that use the file (6.2)."""

import os
from typing import Any

from grpc_idempotency.errors import PolicyError, StoreUnusable
from grpc_idempotency.stores._calls.requests import Request
from grpc_idempotency.stores._calls.sharing import Shared
from grpc_idempotency.stores._sqlite.connection import Settings
from grpc_idempotency.stores._sqlite.place import Place, identity_of
from grpc_idempotency.stores._sqlite.writer import Writer

writers = Shared[Writer]()
_lost: dict[str, Place] = {}
"""The files that this process had open when they were removed, replaced or moved, by path."""


def acquire(given: str, settings: Settings) -> Writer:
    """Returns the file's writer, and counts one more user of it.

    Args:
        given: The path, which may be a link to the file.
        settings: The settings that all stores of one writer must share.

    Raises:
        PolicyError: The file is open with other settings.
        StoreUnusable: The file was open in this process and is gone, or its -wal file lies beside another file now.
    """
    path = os.path.realpath(given)
    with writers.lock:
        _refuse_lost(path, given)
        fitting = (one for one in writers.users if settings.read_only or not one.settings.read_only)
        owners = [one for one in fitting if _owns(one, path)]
        writer = min(owners, key=lambda one: one.settings.read_only, default=None)
        if writer is None:
            going = [*writers.leaving, *(one for one in writers.users if one.lost)]
            before = [one for one in going if one.path == path and not one.closed.is_set()]
            writer = Writer(path, settings, before[-1].closed if before else None)
        elif writer.settings != settings and not settings.read_only:
            raise PolicyError(f"{path} is open in this process already, with other settings: {writer.settings}")
        writer.place.watch(given)
        return writers.use(writer)


def release(writer: Writer, farewell: Request[Any] | None = None) -> None:
    """Counts one user less of the writer. The last user closes it.

    ``farewell`` is answered when all requests before it are done.
    """
    with writers.lock:
        if writers.release(writer, farewell) and writer.lost:
            _remember(writer)


def _remember(writer: Writer) -> None:
    if not writer.settings.read_only:
        _lost.update(dict.fromkeys(writer.place.paths, writer.place))


def _refuse_lost(path: str, given: str) -> None:
    """Raises if a lost file would be created anew: its operations would be forgotten, and their retries run again."""
    identity = identity_of(path)
    for writer in writers.users:
        if not writer.lost and writer.path == path and writer.place.identity not in (None, identity):
            writer.look()
            _remember(writer)
        elif writer.lost:
            _remember(writer)
    lost = _lost.get(path) or _lost.get(given)
    if lost is None:
        return
    if identity is None:
        raise StoreUnusable(
            f"{given} was removed or moved while this process used it, and with it every operation: put it back, or "
            "restart the process to begin with a new file"
        )
    if lost.path == path and lost.identity != identity and lost.wal_is_left():
        raise StoreUnusable(
            f"{path} was replaced, and the -wal file there belongs to the database before it: stop what "
            "still uses that one, or remove the -wal and -shm files"
        )
    _lost.pop(path, None)
    _lost.pop(given, None)


def _owns(writer: Writer, path: str) -> bool:
    """Returns ``True`` if the writer's file is the one at the path.

    The inodes are compared, because a file can have many paths, and the path may lead to another file by now.
    """
    if writer.failure is not None:
        return False
    identity = writer.place.identity
    return writer.path == path if identity is None else identity == identity_of(path)
