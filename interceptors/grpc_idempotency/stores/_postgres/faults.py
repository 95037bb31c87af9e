"""Tells the server's errors apart, and translates them into the store's errors, in one place."""

import psycopg

from grpc_idempotency.errors import StoreError, StoreUnavailable, StoreUnusable, Unstorable

_CONFLICTS = frozenset(["40001", "40P01"])
"""Serialization failure, deadlock: the same transaction may succeed when it is run again."""
_POOLER = frozenset(["26000", "42P05"])
"""A prepared statement is missing or exists already: a pooler has given the connection another session."""
_NEWCOMERS = frozenset(["23505", "42P07", "42P06", "42710", "XX000", *_CONFLICTS])
"""Errors of statements that create tables while another process creates them, despite IF NOT EXISTS."""
_MISSING = frozenset(["42P01", "3F000"])
"""A table or its schema does not exist."""
READ_ONLY = "25006"
"""The session can't write: after a failover, if its server is a replica now; or the transaction is a read."""
_FORBIDDEN = frozenset(["28000", "28P01", "3D000", "42501", *_MISSING])
"""An operator has to act: wrong credentials, no such database, no permission, no tables."""
_FAILING = ("08", "53", "57", "58", "XX")
"""Classes of errors of the server, as opposed to errors of a statement: connection, resources, operator, system."""
_LOCKED = "55P03"
_CANCELED = "57014"
"""A statement took longer than a ``statement_timeout``, for example."""


def state_of(error: BaseException | None) -> str:
    """Returns the error's five characters, SQLSTATE; empty if it has none."""
    return (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""


def is_conflict(error: BaseException | None) -> bool:
    """Returns ``True`` if the transaction was rolled back because of another one, and may be run again."""
    return state_of(error) in _CONFLICTS


def lost_race(error: BaseException) -> bool:
    """Returns ``True`` if tables could not be created because another process creates them at the same time."""
    return state_of(error) in _NEWCOMERS


def is_missing(error: BaseException) -> bool:
    """Returns ``True`` if the store's tables do not exist."""
    return state_of(error) in _MISSING


def lost_session(error: BaseException) -> bool:
    """Returns ``True`` if the connection's session is not the one that statements were prepared in."""
    return state_of(error) in _POOLER


def is_broken(error: BaseException) -> bool:
    """Returns ``True`` if the connection is of no use any more: another one may work."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | psycopg.InternalError):
        return False
    state = state_of(error)
    return not state or (state[:2] in ("08", "57") and state != _CANCELED) or state == READ_ONLY


def is_forbidden(error: BaseException) -> bool:
    """Returns ``True`` if an operator has to act."""
    return state_of(error) in _FORBIDDEN


def is_fault(error: BaseException | None) -> bool:
    """Returns ``True`` if the server or the connection failed, and not the statement."""
    if isinstance(error, StoreError):
        return True
    state = state_of(error)
    if not isinstance(error, psycopg.Error) or state == _CANCELED:
        return False
    if not state:
        return isinstance(error, psycopg.OperationalError)
    return state[:2] in _FAILING or state in (_LOCKED, READ_ONLY) or state in _CONFLICTS


def translated(error: BaseException, *, sent: bool = True) -> StoreError:
    """Returns the store's error for any error of a call.

    Args:
        error: The error.
        sent: True if the call has been sent to the server. What became of it is unknown if the connection was lost.
    """
    if isinstance(error, StoreError):
        return error
    state, told = state_of(error), " ".join(str(error).split()) or type(error).__name__
    failure: StoreError
    if isinstance(error, UnicodeError | psycopg.DataError | psycopg.ProgrammingError | TypeError | OverflowError) and (
        state not in _FORBIDDEN
    ):
        failure = Unstorable(f"PostgreSQL can't keep a value: {told}")
    elif state in _FORBIDDEN:
        failure = StoreUnusable(f"PostgreSQL refuses: {told}")
    elif state:
        unknown = sent and state[:2] in ("08", "57") and state != _CANCELED
        failure = StoreUnavailable(f"PostgreSQL failed: {told}", landed=None if unknown else False)
    else:
        failure = StoreUnavailable(f"PostgreSQL can't be reached: {told}", landed=None if sent else False)
    failure.__cause__ = error
    return failure
