"""All observers, with the exporters of OpenTelemetry's SDK that keep what they get, and a registry of Prometheus."""

from typing import Any

from opentelemetry.instrumentation.grpc import aio_server_interceptor, server_interceptor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from grpc_idempotency import otel, prometheus
from grpc_idempotency.metrics import Metrics


class Watched:
    """Metrics and traces of the servers of one test."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.tracers.get_tracer("test")
        self.tracing = otel.Tracing(self.tracers)
        self.reader = InMemoryMetricReader()
        self._meters = MeterProvider(metric_readers=[self.reader])
        self.metrics = Metrics()
        self.registry = CollectorRegistry()
        otel.instrument(self.metrics, self._meters)
        prometheus.register(self.metrics, self.registry)

    @property
    def observers(self) -> list[Any]:
        return [self.metrics, self.tracing]

    def outside(self, kind: str) -> list[Any]:
        """Returns OpenTelemetry's own interceptor, which makes a span for each call."""
        build: Any = server_interceptor if kind == "sync" else aio_server_interceptor
        return [build(tracer_provider=self.tracers)]

    def spans(self) -> tuple[ReadableSpan, ...]:
        """Returns the spans that have ended, in the order of their ends."""
        return self._exporter.get_finished_spans()

    def exported(self) -> dict[str, Metric]:
        """Returns the metrics by their names, as the SDK's reader gets them."""
        data = self.reader.get_metrics_data()
        assert data is not None
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        assert {scope.scope.name for scope in scopes} == {"grpc_idempotency"}
        assert all(scope.scope.version for scope in scopes)
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str, *attributes: str) -> dict[tuple[str, ...], float]:
        """Returns the values of a metric that are not 0, or the counts of a histogram, by some of their attributes."""
        found: dict[tuple[str, ...], float] = {}
        metric = self.exported().get(name)
        points: Any = metric.data.data_points if metric is not None else ()
        for point in points:
            if value := getattr(point, "value", None) or getattr(point, "count", 0):
                key = tuple(str(point.attributes[one]) for one in attributes if one in point.attributes)
                found[key] = found.get(key, 0) + value
        return found

    def close(self) -> None:
        self.tracers.shutdown()
        self._meters.shutdown()


def linked(span: ReadableSpan) -> list[bytes]:
    """Returns the contexts that a span links to, as a claim keeps them."""
    return [in_bytes(link.context) for link in span.links]


def in_bytes(context: Any) -> bytes:
    """Returns the context of a span as a claim keeps it."""
    return bytes(
        context.trace_id.to_bytes(16, "big") + context.span_id.to_bytes(8, "big") + bytes([context.trace_flags])
    )
