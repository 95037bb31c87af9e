"""From a hand-made table of idempotency keys to the interceptor, in stages that can serve side by side."""

import asyncio
import hashlib
import os
import sqlite3
import uuid
from contextlib import closing
from typing import Any

import grpc.aio

from grpc_idempotency import Database, Effects, Policy
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore, serve
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order
from shop.orders.v1.orders_pb2_grpc import OrderServiceServicer, add_OrderServiceServicer_to_server

Context = grpc.aio.ServicerContext[Any, Any]
STAGE = os.environ.get("STAGE", "1")


class KeyReused(Exception):
    pass


def look_up(db: "sqlite3.Connection | Database", key: str, request: CreateOrderRequest) -> Order | None:
    sql = "SELECT request, reply FROM idempotency_keys WHERE key = ?"
    row = db.execute(sql, (key,)).fetchone()
    if row is None:
        return None
    if row[0] != digest(request):
        raise KeyReused
    return Order.FromString(row[1])


def remember(db: "sqlite3.Connection | Database", key: str, request: CreateOrderRequest, order: Order) -> None:
    sql = "INSERT INTO idempotency_keys (key, request, reply) VALUES (?, ?, ?)"
    db.execute(sql, (key, digest(request), order.SerializeToString()))


def insert(db: "sqlite3.Connection | Database", request: CreateOrderRequest) -> Order:
    order = Order(id=uuid.uuid4().hex, customer_id=request.customer_id)
    db.execute("INSERT INTO orders (id, customer_id) VALUES (?, ?)", (order.id, order.customer_id))
    return order


def digest(request: CreateOrderRequest) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def key_of(context: Context) -> str:
    return str(dict(context.invocation_metadata() or ()).get("idempotency-key", ""))


class HandMade(OrderServiceServicer):
    async def CreateOrder(self, request: CreateOrderRequest, context: Context) -> Order:
        key = key_of(context)
        try:
            with closing(sqlite3.connect("orders.db", isolation_level="IMMEDIATE")) as db, db:
                order = look_up(db, key, request)
                if order is None:
                    order = insert(db, request)
                    remember(db, key, request, order)
        except KeyReused:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "The key was used with another request.")
        return order


class Both(OrderServiceServicer):
    def __init__(self, store: SQLiteStore) -> None:
        self._store = store

    async def CreateOrder(self, request: CreateOrderRequest, context: Context) -> Order:
        key = key_of(context)

        def create(db: Database) -> Order:
            order = look_up(db, key, request)
            if order is None:
                order = insert(db, request)
                remember(db, key, request, order)
            return order

        try:
            return await self._store.transaction(create)
        except KeyReused:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "The key was used with another request.")


class Reading(OrderServiceServicer):
    def __init__(self, store: SQLiteStore) -> None:
        self._store = store

    async def CreateOrder(self, request: CreateOrderRequest, context: Context) -> Order:
        key = key_of(context)

        def create(db: Database) -> Order:
            return look_up(db, key, request) or insert(db, request)

        try:
            return await self._store.transaction(create)
        except KeyReused:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "The key was used with another request.")


class Done(OrderServiceServicer):
    def __init__(self, store: SQLiteStore) -> None:
        self._store = store

    async def CreateOrder(self, request: CreateOrderRequest, context: Context) -> Order:
        return await self._store.transaction(lambda db: insert(db, request))


def create_tables() -> None:
    with closing(sqlite3.connect("orders.db")) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, customer_id TEXT NOT NULL)")
        db.execute(
            "CREATE TABLE IF NOT EXISTS idempotency_keys"
            " (key TEXT PRIMARY KEY, request BLOB NOT NULL, reply BLOB NOT NULL)"
        )


def hand_made() -> grpc.aio.Server:
    server = grpc.aio.server()
    add_OrderServiceServicer_to_server(HandMade(), server)
    return server


def intercepted() -> grpc.aio.Server:
    store = SQLiteStore("orders.db")
    policy = Policy(effects=Effects.TRANSACTIONAL, required=True)
    interceptor = IdempotencyInterceptor(store, policy=policy)
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    handlers = {"1": Both, "2": Reading, "3": Done}
    add_OrderServiceServicer_to_server(handlers[STAGE](store), server)
    return server


async def main() -> None:
    create_tables()
    server = hand_made() if STAGE == "0" else intercepted()
    server.add_insecure_port("127.0.0.1:50051")
    await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
