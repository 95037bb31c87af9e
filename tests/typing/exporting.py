"""Metrics and traces, as type checkers see them."""

from collections.abc import Mapping, Sequence

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from typing_extensions import assert_type

from grpc_idempotency import IdempotencyInterceptor, MemoryStore, aio, otel, prometheus
from grpc_idempotency.metrics import CALL_DURATION, CALLS, INSTRUMENTS, Distribution, Instrument, Metrics, Value

METRICS = Metrics(methods=["/shop.orders.v1.OrderService/CreateOrder"])
TRACING = otel.Tracing(TracerProvider())


def exported() -> None:
    """The exporters, and the observers of both kinds of server."""
    otel.instrument(METRICS)
    otel.instrument(METRICS, MeterProvider())
    registry = CollectorRegistry()
    registry.unregister(prometheus.register(METRICS, registry))
    IdempotencyInterceptor(MemoryStore(), observers=[METRICS, TRACING])
    aio.IdempotencyInterceptor(aio.MemoryStore(), observers=[METRICS, TRACING, print])


def read() -> None:
    """Another exporter."""
    assert_type(INSTRUMENTS, tuple[Instrument, ...])
    for value in assert_type(METRICS.values(CALLS), Sequence[Value]):
        assert_type(value.attributes, Mapping[str, str])
        assert_type(value.value, int)
    for distribution in assert_type(METRICS.distributions(CALL_DURATION), Sequence[Distribution]):
        assert_type(distribution.counts, tuple[int, ...])
        assert_type(distribution.sum, float)
