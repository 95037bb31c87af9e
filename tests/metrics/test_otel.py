"""What OpenTelemetry exports, read by the SDK's in-memory reader."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, Histogram, InMemoryMetricReader, Metric, Sum

from grpc_idempotency import otel
from grpc_idempotency.events import Status
from grpc_idempotency.metrics import INSTRUMENTS, Instrument, Kind, Metrics

from .happenings import METHOD, answered, of_each_kind


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def metrics(reader: InMemoryMetricReader) -> Iterator[Metrics]:
    """Counters that the reader reads."""
    provider = MeterProvider(metric_readers=[reader])
    metrics = Metrics()
    otel.instrument(metrics, provider)
    yield metrics
    provider.shutdown()


def exported(reader: InMemoryMetricReader) -> dict[str, Metric]:
    data = reader.get_metrics_data()
    assert data is not None
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    assert {scope.scope.name for scope in scopes} == {"grpc_idempotency"}
    assert all(scope.scope.version for scope in scopes)
    return {metric.name: metric for scope in scopes for metric in scope.metrics}


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda one: one.name)
def test_each_metric_is_exported(instrument: Instrument, metrics: Metrics, reader: InMemoryMetricReader) -> None:
    """Each metric is exported as an instrument of its kind, with its unit and what was counted."""
    for event in of_each_kind():
        metrics(event)
    metric = exported(reader)[instrument.name]
    assert (metric.unit, metric.description) == (instrument.unit, instrument.description)
    points: list[Any] = list(metric.data.data_points)
    told: list[Any]
    if instrument.kind is Kind.HISTOGRAM:
        assert isinstance(metric.data, Histogram)
        told = [(dict(point.attributes), tuple(point.bucket_counts), pytest.approx(point.sum)) for point in points]
        assert told == [(dict(one.attributes), one.counts, one.sum) for one in metrics.distributions(instrument)]
        assert {tuple(point.explicit_bounds) for point in points} == {instrument.bounds}
    else:
        if instrument.kind is Kind.GAUGE:
            assert isinstance(metric.data, Gauge)
        else:
            assert isinstance(metric.data, Sum)
            assert metric.data.is_monotonic is (instrument.kind is Kind.COUNTER)
        told = [(dict(point.attributes), point.value) for point in points]
        assert told == [(dict(one.attributes), one.value) for one in metrics.values(instrument)]


def test_counts_are_read_when_they_are_exported(metrics: Metrics, reader: InMemoryMetricReader) -> None:
    """An export has what was counted until then."""
    for expected in (1, 2, 3):
        metrics(answered(Status.ATTACHED))
        (point,) = [
            point
            for point in exported(reader)["grpc_idempotency.calls"].data.data_points
            if (point.attributes or {})["grpc_idempotency.status"] == "attached"
        ]
        assert point.value == expected  # type: ignore[union-attr]  # a sum has number points
        assert dict(point.attributes or {}) == {
            "rpc.method": METHOD[1:],
            "grpc_idempotency.status": "attached",
            "rpc.response.status_code": "OK",
        }


def test_without_a_provider_nothing_is_exported() -> None:
    """An application that has not set OpenTelemetry up runs on with the API's own provider, which exports nothing."""
    metrics = Metrics()
    otel.instrument(metrics)
    for event in of_each_kind():
        metrics(event)
