"""Makes any Python gRPC server safe to retry: one effect, one reply, however often a call comes.

The interceptor and the stores for ``grpc.aio`` are in :mod:`grpc_idempotency.aio`.
"""

from grpc_idempotency._refusals import Reason
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

__all__ = [
    "Caller",
    "Code",
    "Database",
    "Disposition",
    "Effects",
    "FenceRefused",
    "IdempotencyError",
    "Operation",
    "Outcome",
    "Policy",
    "PolicyError",
    "PrincipalFunction",
    "Reason",
    "Record",
    "State",
    "StoreError",
    "StoreUnavailable",
    "StoreUnusable",
    "TransactionMisuse",
    "current_operation",
    "mtls_or_shared",
    "token_subject",
]
