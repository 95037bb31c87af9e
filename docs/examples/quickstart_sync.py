"""The shortest server on threads that is safe to retry."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc

from grpc_idempotency import IdempotencyInterceptor, SQLiteStore, serve
from shop.orders.v1 import orders_pb2, orders_pb2_grpc


class Orders(orders_pb2_grpc.OrderServiceServicer):
    def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: grpc.ServicerContext) -> orders_pb2.Order:
        return orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)


def main() -> None:
    interceptor = IdempotencyInterceptor(SQLiteStore("idempotency.db"))
    server = grpc.server(ThreadPoolExecutor(max_workers=10), interceptors=[interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)
    server.add_insecure_port("127.0.0.1:50051")
    serve(server)


if __name__ == "__main__":
    main()
