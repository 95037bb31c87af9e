"""Translates the errors of redis-py into the store's errors, in one place."""

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from grpc_idempotency.errors import StoreError, StoreUnavailable, StoreUnusable

DRIVER = (RedisError, RedisClusterException, OSError)
"""What redis-py raises when it can't reach a server, or when the server refuses."""

# The server refuses a script with these at the script's first write, or before the script runs: nothing was written.
_REFUSED = (ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_REFUSED_CODES = ("MISCONF", "NOREPLICAS", "OOM", "UNKILLABLE", "BUSY")


def translated(error: Exception, where: str, *, sent: bool) -> StoreError:
    """Returns the store's error for a failure of the driver or the server, with ``error`` as its cause.

    Args:
        error: The error.
        where: The address of the server.
        sent: True if the command may have reached the server.
    """
    if isinstance(error, StoreError):
        return error
    failure = _failure(error, where, sent)
    failure.__cause__ = error
    return failure


def _failure(error: Exception, where: str, sent: bool) -> StoreError:
    told = f"Redis at {where}: {error}"
    if isinstance(error, AuthenticationError | AuthorizationError):
        return StoreUnusable(f"{told}: give the user and the password in the URL")
    if isinstance(error, NoPermissionError):
        failure = StoreUnusable(f"{told}: its user lacks a permission")
        failure.landed = None  # the script may have changed something before it came to this command
        return failure
    refused = isinstance(error, _REFUSED) or (
        isinstance(error, ResponseError) and str(error).startswith(_REFUSED_CODES)
    )
    return StoreUnavailable(told, landed=None if sent and not refused else False)
