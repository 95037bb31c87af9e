"""Writes an outcome in a transaction that a handler has opened itself, on the connection of any driver (5.6)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.pq import TransactionStatus

from grpc_idempotency.errors import FenceRefused, TransactionMisuse
from grpc_idempotency.records import Code, Outcome
from grpc_idempotency.stores._postgres import rows
from grpc_idempotency.stores._postgres.sql import Sql
from grpc_idempotency.transactions import RunningOperation

_PARAMETER = re.compile(r"%\((\w+)\)b")
_DRIVERS = ("psycopg", "sqlalchemy", "asyncpg", "django")
_KNOWN = "connections of psycopg, sessions and connections of SQLAlchemy, connections of asyncpg, Django's connection"
_AUTOCOMMIT = "the connection is in autocommit mode: the outcome would be kept without your rows. Open a transaction"


def outcome_of(operation: RunningOperation, reply: object) -> Outcome:
    """Makes the outcome of an operation whose reply is to be written.

    Raises:
        TransactionMisuse: The operation has an outcome already, or this reply is no success.
    """
    if operation.committed is not None or operation.unconfirmed is not None:
        raise TransactionMisuse("a keyed call has one transaction: its reply is written already")
    outcome = operation.make_outcome(reply)
    if outcome.status is not Code.OK:
        raise TransactionMisuse(
            f"the call's status is {outcome.status.name}: roll your transaction back, and answer without complete_in"
        )
    return outcome


def flush(connection: Any) -> None:
    """Flushes a session of SQLAlchemy's ORM. Does nothing with other connections."""
    if _driver(connection) == "sqlalchemy" and hasattr(connection, "flush"):
        connection.flush()


async def flush_async(connection: Any) -> None:
    """Flushes an asyncio session of SQLAlchemy's ORM. Does nothing with other connections."""
    if _driver(connection) == "sqlalchemy" and hasattr(connection, "flush"):
        await connection.flush()


def write(connection: Any, sql: Sql, operation: RunningOperation, outcome: Outcome) -> None:
    """Writes an outcome on a connection that blocks.

    Raises:
        FenceRefused: The operation has another owner by now.
        TransactionMisuse: The connection has no transaction, or is of an unknown kind.
    """
    values = _values(operation, outcome)
    match _driver(connection):
        case "psycopg":
            _require(not connection.autocommit or connection.info.transaction_status is not TransactionStatus.IDLE)
            found = connection.execute(_statement(sql, "psycopg"), values).fetchall()
        case "sqlalchemy":
            bound = connection.connection() if callable(getattr(connection, "connection", None)) else connection
            _require(not getattr(bound.connection.dbapi_connection, "autocommit", False))
            found = bound.execute(_text(sql), values).all()
        case "django":
            _require(connection.in_atomic_block or not connection.get_autocommit())
            with connection.cursor() as cursor:
                cursor.execute(_statement(sql, "psycopg"), values)
                found = cursor.fetchall()
        case _:
            raise TransactionMisuse(f"complete_in of a store for threads takes {_KNOWN}, which block")
    _end(operation, outcome, found)


async def write_async(connection: Any, sql: Sql, operation: RunningOperation, outcome: Outcome) -> None:
    """Writes an outcome on a connection that is awaited; see :func:`write`."""
    values = _values(operation, outcome)
    match _driver(connection):
        case "psycopg":
            _require(not connection.autocommit or connection.info.transaction_status is not TransactionStatus.IDLE)
            cursor = await connection.execute(_statement(sql, "psycopg"), values)
            found = await cursor.fetchall()
        case "sqlalchemy":
            bound = await connection.connection() if hasattr(connection, "flush") else connection
            raw = await bound.get_raw_connection()
            _require(not getattr(raw.dbapi_connection, "autocommit", False))
            found = (await bound.execute(_text(sql), values)).all()
        case "asyncpg":
            _require(connection.is_in_transaction())
            found = await connection.fetch(_statement(sql, "asyncpg"), *(values[name] for name in _names(sql)))
        case _:
            raise TransactionMisuse(f"complete_in of a store for grpc.aio takes {_KNOWN}, which are awaited")
    _end(operation, outcome, found)


def _values(operation: RunningOperation, outcome: Outcome) -> Mapping[str, Any]:
    own = {"name": operation.name, "fence": operation.fence}
    return own | rows.outcome_columns(outcome, operation.ttl)


def _end(operation: RunningOperation, outcome: Outcome, found: Sequence[object]) -> None:
    if len(found) != 1:
        raise FenceRefused("the operation has another owner by now: roll your transaction back")
    operation.unconfirmed = outcome


def _require(has_transaction: bool) -> None:
    if not has_transaction:
        raise TransactionMisuse(_AUTOCOMMIT)


def _driver(connection: object) -> str:
    """Returns the package that a connection's class, or a base class of it, is from."""
    packages = (one.__module__.partition(".")[0] for one in type(connection).__mro__)
    return next((package for package in packages if package in _DRIVERS), "")


def _statement(sql: Sql, style: str) -> str:
    """Returns the statement with parameters in a driver's style."""
    text = sql["complete_one"].decode()
    if style == "psycopg":
        return _PARAMETER.sub(r"%(\1)s", text)
    if style == "sqlalchemy":
        return _PARAMETER.sub(r":\1", text)
    for number, name in enumerate(_names(sql), 1):
        text = text.replace(f"%({name})b", f"${number}")
    return text


def _names(sql: Sql) -> list[str]:
    """Returns the names of the statement's parameters, in order."""
    return list(dict.fromkeys(_PARAMETER.findall(sql["complete_one"].decode())))


def _text(sql: Sql) -> Any:
    import sqlalchemy  # the caller has a connection of it

    return sqlalchemy.text(_statement(sql, "sqlalchemy"))
