"""Creates and migrates the store's tables, also while other processes do the same."""

import secrets
import time

import psycopg

from grpc_idempotency import _jitter
from grpc_idempotency.errors import StoreUnavailable, StoreUnusable
from grpc_idempotency.stores._postgres import faults
from grpc_idempotency.stores._postgres.settings import Connection
from grpc_idempotency.stores._postgres.sql import Sql

_TRIES = 30
_LONGEST_PAUSE = 0.1
"""Seconds between two tries, at most."""


def prepare(db: Connection, sql: Sql, *, migrate: bool) -> str:
    """Creates or migrates the tables if they are missing or old.

    Args:
        db: A connection in autocommit mode.
        sql: The statements.
        migrate: False to change nothing.

    Returns:
        The identity of the database's operations: random, and stored when the tables were created.

    Raises:
        StoreUnusable: The tables are newer than this version, or are missing or old and must not be changed.
    """
    for _ in range(_TRIES):
        meta = _meta(db, sql)
        if int(meta.get("version", 0)) == sql.version:
            return meta["identity"]
        _check(meta, sql, migrate=migrate)
        try:
            with db.transaction():
                _migrate(db, sql)
        except psycopg.Error as error:
            if not faults.lost_race(error):
                raise
            # Another process creates the tables at this moment.
            time.sleep(_jitter.uniform(0, _LONGEST_PAUSE))
    raise StoreUnavailable(f"the tables in schema {sql.schema} could not be created: others create them all the time")


def _meta(db: Connection, sql: Sql) -> dict[str, str]:
    try:
        return dict(db.execute(sql["meta"]).fetchall())
    except psycopg.Error as error:
        if faults.is_missing(error):
            return {}
        raise


def _check(meta: dict[str, str], sql: Sql, *, migrate: bool) -> None:
    version = int(meta.get("version", 0))
    if version > sql.version:
        raise StoreUnusable(
            f"schema {sql.schema} has tables of version {version}, and this grpc-idempotency knows them up to version "
            f"{sql.version}: upgrade grpc-idempotency"
        )
    if not migrate:
        found = f"has tables of version {version}" if version else "holds no operations"
        raise StoreUnusable(
            f"schema {sql.schema} {found}, and this store must not create or change tables (migrate=False): it needs "
            f"version {sql.version}, and `grpc-idempotency schema` prints the SQL that creates it"
        )


def _migrate(db: Connection, sql: Sql) -> None:
    """Brings the tables to the newest version. Called within a transaction."""
    db.execute(sql["create_schema"])
    db.execute(sql["create_meta"])
    db.execute(sql["begin_meta"], {"identity": secrets.token_hex(16)})
    row = db.execute(sql["lock_version"]).fetchone()
    assert row is not None
    for reached, statements in sql.migrations(int(row[0])):
        for statement in statements:
            db.execute(statement.encode())
        db.execute(sql["set_version"], {"version": str(reached)})
