"""What became of requests whose commit failed: some may have taken effect all the same (5.1)."""

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
    """The name and the fence that a request is made under; empty for a transaction of no operation."""
    if isinstance(request, ClaimRequest | UnclaimedRequest):
        return request.claim.name, request.claim.fence
    if isinstance(request, FencedRequest):
        return request.name, request.fence
    operation = request.operation if isinstance(request, TransactionRequest) else None
    return (b"", b"") if operation is None else (operation.name, operation.fence)


def landed(db: sqlite3.Connection, sql: Sql, request: Request[Any], standing: tuple[bytes, int] | None) -> bool:
    """Whether a write of unknown result took effect, by the fence and state that its record has now, or by its step.

    Only if they tell: of a release there is nothing left to tell any more.
    """
    name, fence = owner(request)
    if isinstance(request, StepRequest | TransactionRequest) and request.step is not None:
        return bool(db.execute(sql["has_step"], (request.step.name, name, fence)).fetchone()[0])
    state = _leaves(request)
    return state is not None and standing == (fence, state)


def _leaves(request: Request[Any]) -> int | None:
    """The state in which a request leaves a record, where that tells."""
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
