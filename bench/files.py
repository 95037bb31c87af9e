"""Makes databases with millions of completed operations, much faster than by calls."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg

TABLE = "grpc_idempotency_operations"
_ROWS = "idempotency.operations"
_PART = 50_000
"""The rows of one transaction."""
_OWN = {"name": "randomblob(length(name))", "fence": "randomblob(length(fence))"}
"""The columns that differ from row to row. All others are copied."""
_BYTES_PER_NAME = 64
"""A high estimate of a row's bytes in the index of names, the only tree that is written at random places."""
_LEAST_CACHE, _MOST_CACHE = 64 << 20, 2 << 30


def multiply(database: Path, count: int, progress: Callable[[int], None]) -> None:
    """Copies the one operation of a file until there are ``count``, each with its own name and fence.

    The tables and indexes are the store's own, and rows are inserted one by one, as by calls. No server may have the
    file open.

    Args:
        database: A file in which a store has kept one completed operation.
        count: How many operations the file shall have.
        progress: Called from time to time with the number of operations that were added.
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        # Not durable: if this is cut short, the file is deleted.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        cache = min(max(count * _BYTES_PER_NAME, _LEAST_CACHE), _MOST_CACHE)
        db.execute(f"PRAGMA cache_size = -{cache >> 10}")
        columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({TABLE})") if name != "id"]
        values = ", ".join(_OWN.get(name, name) for name in columns)
        (model,) = db.execute(f"SELECT id FROM {TABLE}").fetchall()
        statement = (
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            f"INSERT INTO {TABLE} ({', '.join(columns)}) SELECT {values} FROM n JOIN {TABLE} ON id = ?"
        )
        left = count - 1
        while left:
            part = min(left, _PART)
            db.execute("BEGIN")
            db.execute(statement, (part, *model))
            db.execute("COMMIT")
            left -= part
            progress(part)
        db.execute("PRAGMA journal_mode = WAL")


def multiply_rows(url: str, count: int, progress: Callable[[int], None]) -> None:
    """Does the same as :func:`multiply` in a database of PostgreSQL.

    At the end there is nothing left for autovacuum or a checkpoint to do: what they have to write is not the calls'.
    """
    with closing(psycopg.connect(url, autocommit=True)) as db:
        db.execute("SET synchronous_commit = off")
        asked = f"SELECT attname FROM pg_attribute WHERE attrelid = '{_ROWS}'::regclass AND attnum > 0 ORDER BY attnum"
        columns = [name for (name,) in db.execute(asked.encode()).fetchall()]
        values = ", ".join("uuid_send(gen_random_uuid())" if name in _OWN else name for name in columns)
        [(model,)] = db.execute(f"SELECT name FROM {_ROWS}".encode()).fetchall()
        statement = (
            f"INSERT INTO {_ROWS} ({', '.join(columns)}) "
            f"SELECT {values} FROM generate_series(1, %s) CROSS JOIN {_ROWS} WHERE name = %s"
        )
        left = count - 1
        while left:
            part = min(left, _PART)
            db.execute(statement.encode(), (part, model))
            left -= part
            progress(part)
        db.execute("VACUUM (ANALYZE)")
        db.execute("CHECKPOINT")


def swept(database: Path, count: int) -> int:
    """Returns how many of the operations that :func:`multiply` made are deleted. Sweeps delete the oldest first."""
    with closing(sqlite3.connect(database)) as db:
        (first,) = db.execute(f"SELECT min(id) FROM {TABLE}").fetchone()
    return count if first is None else min(count, first - 1)
