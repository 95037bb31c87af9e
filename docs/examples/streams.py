"""A server that imports a stream of orders once, and the client that sends it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from grpc_idempotency import ClientInterceptor, Database, Effects, IdempotencyInterceptor, Policy, SQLiteStore, serve
from shop.orders.v1 import orders_pb2, orders_pb2_grpc


class Orders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, store: SQLiteStore) -> None:
        self._store = store

    def ImportOrders(
        self, request_iterator: Iterator[orders_pb2.CreateOrderRequest], context: grpc.ServicerContext
    ) -> orders_pb2.ImportOrdersResponse:
        rows = [(request.customer_id,) for request in request_iterator]

        def insert(db: Database) -> orders_pb2.ImportOrdersResponse:
            db.executemany("INSERT INTO orders (customer_id) VALUES (?)", rows)
            return orders_pb2.ImportOrdersResponse(count=len(rows))

        return self._store.transaction(insert)


def import_orders(address: str, requests: list[orders_pb2.CreateOrderRequest], key: str) -> int:
    with grpc.intercept_channel(grpc.insecure_channel(address), ClientInterceptor()) as channel:
        orders = orders_pb2_grpc.OrderServiceStub(channel)
        return orders.ImportOrders(iter(requests), metadata=(("idempotency-key", key),), timeout=10).count


def create_tables(db: Database) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, customer_id TEXT NOT NULL)")


def main() -> None:
    store = SQLiteStore("orders.db")
    store.transaction(create_tables)
    interceptor = IdempotencyInterceptor(
        store,
        methods={"/shop.orders.v1.OrderService/ImportOrders": Policy(effects=Effects.TRANSACTIONAL, required=True)},
    )
    server = grpc.server(ThreadPoolExecutor(max_workers=10), interceptors=[interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(store), server)
    server.add_insecure_port("127.0.0.1:50051")
    serve(server)


if __name__ == "__main__":
    main()
