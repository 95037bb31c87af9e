"""A store in an SQLite file: the default (6.2)."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from grpc_idempotency.errors import PolicyError, StoreUnusable
from grpc_idempotency.stores._sqlite.connection import open_read_only
from grpc_idempotency.stores._sqlite.store import AsyncSQLiteStore, SQLiteStore
from grpc_idempotency.urls import Options, StoreUrl, flag, seconds

__all__ = ["AsyncSQLiteStore", "SQLiteStore", "async_from_url", "from_url"]

# As in grpc_idempotency: tracebacks and docs name the module that users import from.
for _public in (AsyncSQLiteStore, SQLiteStore):
    _public.__module__ = __name__
del _public

S = TypeVar("S", SQLiteStore, AsyncSQLiteStore)
_OPTIONS: Options = {
    "table_prefix": str,
    "busy_timeout": seconds,
    "synchronous": str,
    "foreign_keys": flag,
    "migrate": flag,
}


def from_url(url: StoreUrl, *, migrate: bool, read_only: bool) -> SQLiteStore:
    """See :class:`grpc_idempotency.urls.StoreFactory`."""
    return _made(SQLiteStore, url, migrate=migrate, read_only=read_only)


def async_from_url(url: StoreUrl, *, migrate: bool, read_only: bool) -> AsyncSQLiteStore:
    """See :class:`grpc_idempotency.urls.AsyncStoreFactory`."""
    return _made(AsyncSQLiteStore, url, migrate=migrate, read_only=read_only)


def _made(kind: type[S], url: StoreUrl, *, migrate: bool, read_only: bool) -> S:
    path, settings = _path(url), url.settings(_OPTIONS)
    migrate = settings.pop("migrate", True) and migrate
    store = kind(path, read_only=read_only, migrate=migrate, **settings)
    if not migrate:
        _check_there(path, settings.get("table_prefix", "grpc_idempotency_"))
    return store


def _path(url: StoreUrl) -> Path:
    path = unquote(url.address.removeprefix("///")) if url.address.startswith("///") else ""
    if not path or "\0" in path:
        raise PolicyError(
            "an SQLite store's URL must be sqlite:///FILE, for a file in this folder, or sqlite:////FOLDER/FILE"
        )
    return Path(path)


def _check_there(path: Path, table_prefix: str) -> None:
    """Raises an error if the store does not exist. Opening it would create what is missing."""
    try:
        with closing(open_read_only(str(path.resolve()))) as db:
            sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
            found = db.execute(sql, (f"{table_prefix}operations",)).fetchone()
    except sqlite3.Error as exc:
        raise StoreUnusable(f"{path} can't be read: {exc}") from exc
    if found is None:
        raise StoreUnusable(f"{path} holds no operations whose tables begin with {table_prefix}")
