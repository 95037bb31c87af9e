"""What Prometheus scrapes, over HTTP."""

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from grpc_idempotency import otel, prometheus
from grpc_idempotency.events import Status
from grpc_idempotency.metrics import Metrics

from .happenings import METHOD, answered, of_each_kind
from .scrapes import exposed, scraped, value_of


def test_a_scrape() -> None:
    """A scrape over HTTP has what was counted until then."""
    metrics, registry = Metrics(), CollectorRegistry()
    prometheus.register(metrics, registry)
    for event in of_each_kind():
        metrics(event)
    with exposed(registry) as url:
        first = scraped(url)
        metrics(answered(Status.REPLAYED, seconds=0.7))
        second = scraped(url)
    replayed = {"rpc_method": METHOD[1:], "grpc_idempotency_status": "replayed"}
    calls, durations = "grpc_idempotency_calls_total", "grpc_idempotency_call_duration_seconds"
    assert value_of(first, calls, **replayed) == 1
    assert value_of(second, calls, **replayed) == 2
    assert value_of(second, calls, rpc_response_status_code="OK", **replayed) == 1
    assert value_of(second, f"{durations}_count", **replayed) == 2
    assert value_of(second, f"{durations}_sum", **replayed) == pytest.approx(0.72)
    assert [value_of(second, f"{durations}_bucket", le=le, **replayed) for le in ("0.01", "0.025", "1.0", "+Inf")] == [
        0,
        1,
        2,
        2,
    ]
    assert value_of(second, "grpc_idempotency_records", grpc_idempotency_state="held") == 1
    assert value_of(second, "grpc_idempotency_swept_total") == 5


def test_both_roads_give_the_same_series() -> None:
    """OpenTelemetry's exporter for Prometheus gives the same names, labels and values: one set of rules fits both."""
    metrics, ours, theirs = Metrics(), CollectorRegistry(), PrometheusMetricReader()
    provider = MeterProvider(metric_readers=[theirs])
    prometheus.register(metrics, ours)
    otel.instrument(metrics, provider)
    for event in of_each_kind():
        metrics(event)

    def series(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        found = {}
        for family in registry.collect():
            for sample in family.samples:
                labels = {
                    name: f"{float(value):g}" if name == "le" else value
                    for name, value in sample.labels.items()
                    if value and not name.startswith("otel_scope")
                }
                if sample.name.startswith("grpc_idempotency"):
                    found[sample.name, frozenset(labels.items())] = sample.value
        return found

    assert series(REGISTRY) == pytest.approx(series(ours))
    provider.shutdown()


def testgenerate_latest() -> None:
    """The same in the format of OpenMetrics, whose rules on names and units are strict."""
    metrics, registry = Metrics(), CollectorRegistry()
    prometheus.register(metrics, registry)
    for event in of_each_kind():
        metrics(event)
    families = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    assert families["grpc_idempotency_call_duration_seconds"].unit == "seconds"
    assert families["grpc_idempotency_calls"].type == "counter"
    assert families["grpc_idempotency_executions_active"].type == "gauge"


def test_a_registry_has_one_collector() -> None:
    """A second collector in one registry is refused: its series would be those of the first. It may replace it."""
    registry = CollectorRegistry()
    collector = prometheus.register(Metrics(), registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        prometheus.register(Metrics(), registry)
    registry.unregister(collector)
    prometheus.register(Metrics(), registry)
