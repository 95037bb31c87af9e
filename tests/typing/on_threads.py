"""An embedder's server on ``grpc.server``, with principals of its own, as type checkers see it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import psycopg
from typing_extensions import assert_type

import grpc_idempotency
from grpc_idempotency import (
    Caller,
    Database,
    IdempotencyInterceptor,
    MemoryStore,
    Operation,
    Policy,
    PostgresStore,
    PrincipalFunction,
    RedisStore,
    SQLiteStore,
    current_operation,
    mtls_or_shared,
    token_subject,
)
from shop.orders.v1 import orders_pb2, orders_pb2_grpc


class Orders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, store: SQLiteStore) -> None:
        self._store = store

    def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: grpc.ServicerContext) -> orders_pb2.Order:
        def create(db: Database) -> orders_pb2.Order:
            db.execute("INSERT INTO orders (customer_id) VALUES (?)", (request.customer_id,))
            return orders_pb2.Order(customer_id=request.customer_id)

        return assert_type(self._store.transaction(create), orders_pb2.Order)

    def GetOrder(self, request: orders_pb2.GetOrderRequest, context: grpc.ServicerContext) -> orders_pb2.Order:
        assert_type(self._store.read(lambda db: db.execute("SELECT 1").rowcount), int)
        return orders_pb2.Order(id=request.id)


def charge() -> str:
    return "charge-1"


def refund(charged: str) -> None:
    del charged


def insert(db: Database) -> int:
    return db.execute("INSERT INTO orders (id) VALUES ('a')").rowcount


def delete(db: Database, inserted: int) -> None:
    db.execute("DELETE FROM orders LIMIT ?", (inserted,))


def in_steps() -> None:
    """A handler's steps, of which each answers what its function returned."""
    operation = assert_type(current_operation(), Operation | None)
    assert operation is not None
    assert_type(operation.step("charge", charge, undo=refund), str)
    assert_type(operation.step("insert", insert, undo=delete, transaction=True), int)


def by_certificate(caller: Caller) -> str | None:
    assert_type(caller.metadata, Sequence[tuple[str, str | bytes]])
    assert_type(caller.peer_identity_key, str | None)
    return caller.peer_identities[0].decode() if caller.peer_identities else None


def by_digest(caller: Caller) -> bytes:
    return caller.method.encode()


def verified(token: str) -> Mapping[str, Any]:
    return {"sub": token}


PRINCIPALS: list[PrincipalFunction] = [by_certificate, by_digest, mtls_or_shared, token_subject(verified)]


def serve() -> None:
    """Every way to name a principal, on a server that the interceptor is attached to."""
    store = SQLiteStore("orders.db")
    for principal in PRINCIPALS:
        interceptor = IdempotencyInterceptor(store, principal=principal, policy=Policy(required=True), max_waiters=4)
        server = grpc.server(ThreadPoolExecutor(), interceptors=[interceptor])
        interceptor.attach(server)
        orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(store), server)
        interceptor.close()
    IdempotencyInterceptor(MemoryStore())
    assert_type(grpc_idempotency.__version__, str)


def on_many_hosts() -> None:
    """Stores that many hosts share."""
    IdempotencyInterceptor(RedisStore(["redis://127.0.0.1:7000", "redis://127.0.0.1:7001"]))
    store = PostgresStore("postgresql://127.0.0.1/shop", transaction_pooler=True)
    assert_type(store.transaction(lambda db: db.execute("SELECT 1").fetchall()), list[tuple[Any, ...]])
    with psycopg.connect() as connection:
        assert_type(store.complete_in(connection, orders_pb2.Order()), orders_pb2.Order)
