"""Makes any Python gRPC server safe to retry: one effect, one reply, however often a call comes.

This module has the interceptors and the stores for ``grpc``. Those for ``grpc.aio`` are in :mod:`grpc_idempotency.aio`.
"""

from typing import TYPE_CHECKING

from grpc_idempotency._client.answers import refusal_of, status_of
from grpc_idempotency._client.keys import ClientPolicy
from grpc_idempotency._client.sync import ClientInterceptor
from grpc_idempotency._protocol.refusals import Reason, Refusal
from grpc_idempotency._server.sync.interceptor import IdempotencyInterceptor
from grpc_idempotency._server.sync.serving import serve
from grpc_idempotency.errors import (
    ConcurrentCalls,
    FenceRefused,
    IdempotencyError,
    InvalidOutcome,
    NotForgotten,
    NotHeld,
    OperationNotFound,
    OutcomeUnknown,
    PolicyError,
    StepMisuse,
    StoreError,
    StoreUnavailable,
    StoreUnusable,
    TransactionMisuse,
    UnkeyedRetry,
)
from grpc_idempotency.operation import Operation, current_operation
from grpc_idempotency.policy import Disposition, Policy
from grpc_idempotency.principals import Caller, PrincipalFunction, mtls_or_shared, token_subject
from grpc_idempotency.records import Code, Effects, Outcome, Record, State
from grpc_idempotency.store import Store
from grpc_idempotency.transactions import Database
from grpc_idempotency.urls import store_from_url

if TYPE_CHECKING:
    from grpc_idempotency.stores.memory import MemoryStore
    from grpc_idempotency.stores.postgres import PostgresStore
    from grpc_idempotency.stores.redis import RedisStore
    from grpc_idempotency.stores.sqlite import SQLiteStore

__version__ = "0.1.0"

__all__ = [
    "Caller",
    "ClientInterceptor",
    "ClientPolicy",
    "Code",
    "ConcurrentCalls",
    "Database",
    "Disposition",
    "Effects",
    "FenceRefused",
    "IdempotencyError",
    "IdempotencyInterceptor",
    "InvalidOutcome",
    "MemoryStore",
    "NotForgotten",
    "NotHeld",
    "Operation",
    "OperationNotFound",
    "Outcome",
    "OutcomeUnknown",
    "Policy",
    "PolicyError",
    "PostgresStore",
    "PrincipalFunction",
    "Reason",
    "Record",
    "RedisStore",
    "Refusal",
    "SQLiteStore",
    "State",
    "StepMisuse",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "StoreUnusable",
    "TransactionMisuse",
    "UnkeyedRetry",
    "current_operation",
    "mtls_or_shared",
    "refusal_of",
    "serve",
    "status_of",
    "store_from_url",
    "token_subject",
]

# Tracebacks, reprs and pickles then name the module that users import from, not the private one that defines the name.
for _public in (ClientInterceptor, ClientPolicy, IdempotencyInterceptor, Reason, Refusal, refusal_of, serve, status_of):
    _public.__module__ = __name__
del _public


if not TYPE_CHECKING:

    def __getattr__(name: str) -> type:
        """Imports a store, and its driver with it, on first access."""
        if name == "MemoryStore":
            from grpc_idempotency.stores.memory import MemoryStore as Store
        elif name == "PostgresStore":
            from grpc_idempotency.stores.postgres import PostgresStore as Store
        elif name == "RedisStore":
            from grpc_idempotency.stores.redis import RedisStore as Store
        elif name == "SQLiteStore":
            from grpc_idempotency.stores.sqlite import SQLiteStore as Store
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = Store
        return Store

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
