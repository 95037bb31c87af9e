"""Checks whether the files that were opened are still the ones at the path (6.2).

SQLite goes on writing to a file that was removed or moved, and so would the store: what it acknowledged would be lost
at the next start. So the writer compares the inodes before it answers a group, and after a while without one also
before it begins a group.
"""

import os

from grpc_idempotency.errors import StoreUnavailable

Identity = tuple[int, int]


class Place:
    """The path of one database, and the identity of the files that were opened there."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.identity: Identity | None = None
        """The file's device and inode, once the file is open."""
        self.wal_size = 0
        """The size of the -wal file in bytes at the last check."""
        self.emptied = False
        """True if the -wal file was emptied into its own database when that database was lost."""
        self.paths: tuple[str, ...] = (path,)
        """The path, and the links through which stores name it."""
        self._wal = path + "-wal"
        self._beside: list[tuple[str, Identity | None]] = []
        self._frozen: tuple[int, ...] | None = None

    def watch(self, link: str) -> None:
        """Adds another path that must lead to the file."""
        if link not in self.paths:
            self.paths = (*self.paths, link)

    def opened(self, before: Identity | None, *, frozen: bool = False) -> None:
        """Records which files were opened.

        Args:
            before: The identity of the file at the path before the opening.
            frozen: True if the database is read on the condition that nobody changes it.

        Raises:
            StoreUnavailable: The file was removed or replaced in the meantime.
        """
        self.identity = identity_of(self.path)
        if self.identity is None or before not in (None, self.identity):
            raise StoreUnavailable(f"{self.path} was removed or replaced while it was opened")
        if frozen:
            self._frozen = self._state()
        else:
            self._beside = [(path, identity_of(path)) for path in (self._wal, self.path + "-shm")]

    def trouble(self) -> str | None:
        """Returns what has happened to the files since they were opened; ``None`` if they are unchanged."""
        stat, path = os.stat, self.path  # inlined for speed: this runs for each group
        try:
            for path in self.paths:
                status = stat(path)
                if (status.st_dev, status.st_ino) != self.identity:
                    return _replaced(path)
                if not status.st_size:
                    return f"{path} was emptied while this process used it"
            for path, identity in self._beside:
                status = stat(path)
                if (status.st_dev, status.st_ino) != identity:
                    return _replaced(path)
                if path == self._wal:
                    self.wal_size = status.st_size
        except OSError:
            return _replaced(path)
        if self._frozen is not None and self._state() != self._frozen:
            return f"{self.path} was changed while it was read"
        return None

    def wal_is_left(self) -> bool:
        """Returns ``True`` if the -wal file that was open still exists and has content that is not in its database."""
        return not self.emptied and any(
            identity_of(path) == identity and _size(path) > 0 for path, identity in self._beside[:1]
        )

    def _state(self) -> tuple[int, ...]:
        status = _status(self.path)
        return () if status is None else (status.st_mtime_ns, status.st_size, _size(self._wal))


def _replaced(path: str) -> str:
    return f"{path} was removed, replaced or moved while this process used it"


def identity_of(path: str) -> Identity | None:
    """Returns the file's device and inode; ``None`` if there is no file."""
    status = _status(path)
    return None if status is None else (status.st_dev, status.st_ino)


def _size(path: str) -> int:
    """Returns the file's size in bytes; -1 if there is no file."""
    status = _status(path)
    return -1 if status is None else status.st_size


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - paths are strings here
    except OSError:
        return None
