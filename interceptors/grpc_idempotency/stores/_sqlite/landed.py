"""Finds out which requests took effect although their commit failed (5.1)."""

import sqlite3
from typing import Any

from grpc_idempotency.stores._calls.requests import (
    ClaimRequest,
    CompleteRequest,
    FencedRequest,
    HoldRequest,
    Request,
    StepRequest,
    TransactionRequest,
    UnclaimedRequest,
    UndoRequest,
    WaitRequest,
)
from grpc_idempotency.stores._sqlite import rows
from grpc_idempotency.stores._sqlite.sql import Sql


def owner(request: Request[Any]) -> tuple[bytes, bytes]:
    """Returns the name and the fence that a request is made under; both are empty if it has no operation."""
    if isinstance(request, ClaimRequest | UnclaimedRequest):
        return request.claim.name, request.claim.fence
    if isinstance(request, FencedRequest):
        return request.name, request.fence
    operation = request.operation if isinstance(request, TransactionRequest) else None
    return (b"", b"") if operation is None else (operation.name, operation.fence)


def landed(db: sqlite3.Connection, sql: Sql, request: Request[Any], standing: tuple[bytes, int] | None) -> bool:
    """Returns ``True`` if a write with unknown result is known to have taken effect.

    The fence and the state that its record has now show this, or its step. A release leaves nothing that could show it.
    """
    name, fence = owner(request)
    if isinstance(request, StepRequest | TransactionRequest) and request.step is not None:
        return bool(db.execute(sql["has_step"], (request.step.name, name, fence)).fetchone()[0])
    state = _leaves(request)
    return state is not None and standing == (fence, state)


def _leaves(request: Request[Any]) -> int | None:
    """Returns the state in which a request leaves a record; ``None`` if the state would show nothing."""
    if isinstance(request, ClaimRequest):
        return rows.RUNNING
    if isinstance(request, CompleteRequest | UnclaimedRequest):
        return rows.COMPLETED
    if isinstance(request, HoldRequest):
        return rows.HELD
    if isinstance(request, WaitRequest):
        return rows.WAITING
    if isinstance(request, UndoRequest):
        return rows.UNDOING
    if isinstance(request, TransactionRequest) and request.committed is not None:
        return rows.COMPLETED
    return None
