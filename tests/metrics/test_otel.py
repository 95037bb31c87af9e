"""What OpenTelemetry exports, read by the SDK's in-memory reader."""

import math
import threading
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import Gauge, Histogram, Sum

from grpc_idempotency import otel
from grpc_idempotency.events import Status
from grpc_idempotency.metrics import CALL_DURATION, INSTRUMENTS, Instrument, Kind, Metrics

from .happenings import METHOD, answered, of_each_kind
from .watched import Watched


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda one: one.name)
def test_each_metric_is_exported(instrument: Instrument, watched: Watched) -> None:
    """Each metric is exported as an instrument of its kind, with its unit and what was counted."""
    for event in of_each_kind():
        watched.metrics(event)
    metric = watched.exported()[instrument.name]
    assert (metric.unit, metric.description) == (instrument.unit, instrument.description)
    points: list[Any] = list(metric.data.data_points)
    told: list[Any]
    if instrument.kind is Kind.HISTOGRAM:
        assert isinstance(metric.data, Histogram)
        told = [(dict(point.attributes), tuple(point.bucket_counts), pytest.approx(point.sum)) for point in points]
        assert told == [
            (dict(one.attributes), one.counts, one.sum) for one in watched.metrics.distributions(instrument)
        ]
        assert {tuple(point.explicit_bounds) for point in points} == {instrument.bounds}
    else:
        if instrument.kind is Kind.GAUGE:
            assert isinstance(metric.data, Gauge)
        else:
            assert isinstance(metric.data, Sum)
            assert metric.data.is_monotonic is (instrument.kind is Kind.COUNTER)
        told = [(dict(point.attributes), point.value) for point in points]
        assert told == [(dict(one.attributes), one.value) for one in watched.metrics.values(instrument)]


def test_counts_are_read_when_they_are_exported(watched: Watched) -> None:
    """An export has what was counted until then."""
    for expected in (1, 2, 3):
        watched.metrics(answered(Status.ATTACHED))
        (point,) = [
            point
            for point in watched.exported()["grpc_idempotency.calls"].data.data_points
            if (point.attributes or {})["grpc_idempotency.status"] == "attached"
        ]
        assert point.value == expected  # type: ignore[union-attr]  # a sum has number points
        assert dict(point.attributes or {}) == {
            "rpc.method": METHOD[1:],
            "grpc_idempotency.status": "attached",
            "rpc.response.status_code": "OK",
        }


def test_values_stay_in_their_buckets(watched: Watched) -> None:
    """Values on a bound, and the next ones above it, are in the buckets in which they were counted."""
    seconds = [bound for bound in CALL_DURATION.bounds for _ in range(7)]
    seconds += [math.nextafter(bound, math.inf) for bound in CALL_DURATION.bounds for _ in range(3)]
    for times in (1, 2):
        for one in seconds:
            watched.metrics(answered(seconds=one))
        (point,) = _points(watched)
        (counted,) = watched.metrics.distributions(CALL_DURATION)
        assert tuple(point.bucket_counts) == counted.counts
        assert point.sum == pytest.approx(counted.sum)
        assert point.count == times * len(seconds)


def test_readers_that_export_at_once_count_no_value_twice(watched: Watched) -> None:
    """Each reader has each value once, although all export what one of them has recorded."""
    for _ in range(500):
        watched.metrics(answered())
    readers = [threading.Thread(target=watched.exported) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    (point,) = _points(watched)
    assert point.count == 500


def test_an_export_within_a_span_has_no_exemplar_of_it(watched: Watched) -> None:
    """The span in which metrics are read, as of a scrape, has nothing to do with the calls that were counted."""
    watched.metrics(answered())
    with watched.tracer.start_as_current_span("a scrape"):
        (point,) = _points(watched)
    assert (point.count, list(point.exemplars)) == (1, [])


def _points(watched: Watched) -> list[Any]:
    return list(watched.exported()[CALL_DURATION.name].data.data_points)


def test_without_a_provider_nothing_is_exported() -> None:
    """An application that has not set OpenTelemetry up runs on with the API's own provider, which exports nothing."""
    metrics = Metrics()
    otel.instrument(metrics)
    for event in of_each_kind():
        metrics(event)
