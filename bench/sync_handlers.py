"""The handlers on ``grpc.server``."""

import sqlite3
import threading

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from bench import orders
from bench.setup import Synchronous
from grpc_idempotency.transactions import Database, TransactionalStore
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order


class Echo:
    """A trivial handler that replies with the number of its runs, so that no two executions have the same reply."""

    def __init__(self, reply_length: int) -> None:
        self._length = reply_length
        self._count = 0
        self._lock = threading.Lock()

    def handle(self, _request: StringValue, _context: grpc.ServicerContext) -> StringValue:
        with self._lock:
            self._count += 1
            count = self._count
        return StringValue(value=str(count).zfill(self._length))

    def effects(self) -> int:
        return self._count

    def close(self) -> None:
        pass


class Orders:
    """CreateOrder without the library: one connection, a lock, and one commit per call."""

    def __init__(self, database: str, synchronous: Synchronous) -> None:
        self._database = database
        self._db = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA synchronous = {synchronous}")
        self._turn = threading.Lock()
        orders.SQLITE.create(database)

    def handle(self, request: CreateOrderRequest, _context: grpc.ServicerContext) -> Order:
        order = orders.new(request)
        with self._turn:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(orders.SQLITE.new_order, orders.row(order))
            self._db.executemany(orders.SQLITE.new_item, orders.item_rows(order))
            self._db.execute("COMMIT")
        return order

    def effects(self) -> int:
        return orders.SQLITE.count(self._database)

    def close(self) -> None:
        self._db.close()


class TransactionalOrders:
    """CreateOrder with ``store.transaction``."""

    def __init__(self, store: TransactionalStore, tables: orders.Tables, database: str) -> None:
        self._store = store
        self._tables = tables
        self._database = database
        tables.create(database)

    def handle(self, request: CreateOrderRequest, _context: grpc.ServicerContext) -> Order:
        def create(db: Database) -> Order:
            order = orders.new(request)
            db.execute(self._tables.new_order, orders.row(order))
            db.executemany(self._tables.new_item, orders.item_rows(order))
            return order

        return self._store.transaction(create)

    def effects(self) -> int:
        return self._tables.count(self._database)

    def close(self) -> None:
        pass
