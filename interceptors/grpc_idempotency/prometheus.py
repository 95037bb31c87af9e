"""Metrics for Prometheus, by ``prometheus_client``: ``pip install grpc-idempotency[prometheus]``.

>>> metrics = Metrics()
>>> prometheus.register(metrics)
>>> interceptor = IdempotencyInterceptor(store, observers=[metrics])

The metrics are those of :mod:`grpc_idempotency.metrics`, under the names and labels that OpenTelemetry's exporters for
Prometheus give them: ``grpc_idempotency.call.duration`` is ``grpc_idempotency_call_duration_seconds``.
"""

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from grpc_idempotency.metrics import INSTRUMENTS, Distribution, Instrument, Kind, Metrics

_UNITS = {"s": "seconds"}
"""The units that are part of a name. What is counted is not."""


def register(metrics: Metrics, registry: CollectorRegistry = REGISTRY) -> "MetricsCollector":
    """Exports metrics by a registry.

    Args:
        metrics: The counters. They also have to be an observer of the interceptors.
        registry: The registry; by default that of ``prometheus_client``.

    Returns:
        The collector, for ``registry.unregister``.

    Raises:
        ValueError: The registry has such a collector already.
    """
    collector = MetricsCollector(metrics)
    registry.register(collector)
    return collector


class MetricsCollector(Collector):
    """Collects what a ``Metrics`` has counted whenever Prometheus asks."""

    def __init__(self, metrics: Metrics) -> None:
        """Makes a collector.

        Args:
            metrics: The counters.
        """
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Returns all metrics without values, by which a registry notices duplicates."""
        return [_family(instrument) for instrument in INSTRUMENTS]

    def collect(self) -> Iterable[Metric]:
        """Returns all metrics with their values."""
        return [self._filled(instrument) for instrument in INSTRUMENTS]

    def _filled(self, instrument: Instrument) -> Metric:
        family = _family(instrument)
        if isinstance(family, HistogramMetricFamily):
            for distribution in self._metrics.distributions(instrument):
                family.add_metric(
                    _labels(instrument, distribution.attributes), _buckets(instrument, distribution), distribution.sum
                )
        else:
            for value in self._metrics.values(instrument):
                family.add_metric(_labels(instrument, value.attributes), value.value)
        return family


def _family(instrument: Instrument) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    name, unit = instrument.name.replace(".", "_"), _UNITS.get(instrument.unit, "")
    labels = [attribute.replace(".", "_") for attribute in instrument.attributes]
    if instrument.kind is Kind.HISTOGRAM:
        return HistogramMetricFamily(name, instrument.description, labels=labels, unit=unit)
    if instrument.kind is Kind.COUNTER:
        return CounterMetricFamily(name, instrument.description, labels=labels, unit=unit)
    return GaugeMetricFamily(name, instrument.description, labels=labels, unit=unit)


def _labels(instrument: Instrument, attributes: Mapping[str, str]) -> list[str]:
    return [attributes.get(name, "") for name in instrument.attributes]


def _buckets(instrument: Instrument, distribution: Distribution) -> list[tuple[str, float]]:
    """Returns the bounds of the buckets, as text, and how many values are within each of them."""
    bounds = (*instrument.bounds, float("inf"))
    return [
        (floatToGoString(bound), count) for bound, count in zip(bounds, accumulate(distribution.counts), strict=True)
    ]
