"""Makes any Python gRPC server safe to retry: one effect, one reply, however often a call comes.

Here are the interceptor and the stores for ``grpc.server``; those for ``grpc.aio.server``, of the same names, are in
:mod:`grpc_idempotency.aio`.
"""

from grpc_idempotency._refusals import Reason
from grpc_idempotency._sync import IdempotencyInterceptor
from grpc_idempotency.errors import (
    FenceRefused,
    IdempotencyError,
    PolicyError,
    StoreError,
    StoreUnavailable,
    StoreUnusable,
    TransactionMisuse,
)
from grpc_idempotency.operation import Operation, current_operation
from grpc_idempotency.policy import Disposition, Policy
from grpc_idempotency.principals import Caller, PrincipalFunction, mtls_or_shared, token_subject
from grpc_idempotency.records import Code, Effects, Outcome, Record, State
from grpc_idempotency.store import Database
from grpc_idempotency.stores.memory import MemoryStore
from grpc_idempotency.stores.sqlite import SQLiteStore

__all__ = [
    "Caller",
    "Code",
    "Database",
    "Disposition",
    "Effects",
    "FenceRefused",
    "IdempotencyError",
    "IdempotencyInterceptor",
    "MemoryStore",
    "Operation",
    "Outcome",
    "Policy",
    "PolicyError",
    "PrincipalFunction",
    "Reason",
    "Record",
    "SQLiteStore",
    "State",
    "StoreError",
    "StoreUnavailable",
    "StoreUnusable",
    "TransactionMisuse",
    "current_operation",
    "mtls_or_shared",
    "token_subject",
]
