"""The same on a grpc.server."""

import uuid

import grpc
import psycopg
from django.db import connection, transaction
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from grpc_idempotency import PostgresStore
from shop.orders.v1 import orders_pb2, orders_pb2_grpc


class PsycopgOrders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, store: PostgresStore, url: str) -> None:
        self._store = store
        self._url = url

    def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: grpc.ServicerContext) -> orders_pb2.Order:
        order = orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)
        with psycopg.connect(self._url) as connection:
            connection.execute("INSERT INTO orders VALUES (%s, %s)", (order.id, order.customer_id))
            return self._store.complete_in(connection, order)


class SQLAlchemyOrders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, store: PostgresStore, engine: Engine) -> None:
        self._store = store
        self._engine = engine

    def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: grpc.ServicerContext) -> orders_pb2.Order:
        order = orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)
        with Session(self._engine) as session, session.begin():
            row = {"id": order.id, "customer_id": order.customer_id}
            session.execute(text("INSERT INTO orders VALUES (:id, :customer_id)"), row)
            return self._store.complete_in(session, order)


class DjangoOrders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: grpc.ServicerContext) -> orders_pb2.Order:
        order = orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("INSERT INTO orders VALUES (%s, %s)", (order.id, order.customer_id))
            return self._store.complete_in(connection, order)
