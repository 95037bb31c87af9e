"""A server that exports metrics and traces by OpenTelemetry. It prints them; a real one exports them by OTLP."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc
from opentelemetry.instrumentation.grpc import server_interceptor
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.trace import set_tracer_provider

from grpc_idempotency import IdempotencyInterceptor, SQLiteStore, otel, serve
from grpc_idempotency.metrics import Metrics
from shop.orders.v1 import orders_pb2, orders_pb2_grpc


class Orders(orders_pb2_grpc.OrderServiceServicer):
    def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: grpc.ServicerContext) -> orders_pb2.Order:
        return orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)


def main() -> None:
    meters = MeterProvider(metric_readers=[PeriodicExportingMetricReader(ConsoleMetricExporter())])
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    set_meter_provider(meters)
    set_tracer_provider(tracers)

    metrics = Metrics()
    otel.instrument(metrics)
    interceptor = IdempotencyInterceptor(SQLiteStore("idempotency.db"), observers=[metrics, otel.Tracing()])
    server = grpc.server(ThreadPoolExecutor(10), interceptors=[server_interceptor(), interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)
    server.add_insecure_port("127.0.0.1:50051")
    serve(server)
    tracers.shutdown()
    meters.shutdown()


if __name__ == "__main__":
    main()
