"""What observers cost: counters with both exporters, and traces."""

import math
from collections.abc import Callable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_span_in_context
from prometheus_client import CollectorRegistry

from bench.cases import CALLERS
from bench.rows import Row
from grpc_idempotency import otel, prometheus
from grpc_idempotency.metrics import Metrics

if TYPE_CHECKING:
    from bench.measure import Figure

_MOST = 1.1
"""The target: processor time per call as a ratio to that without observers."""


def all_observers() -> tuple[list[Any], Callable[[], object]]:
    """Makes a sampled span the current one of each call, as an interceptor outside does.

    It is one span for all calls: making them is no work of ours.

    Returns:
        All observers, and the function that exports the metrics.
    """
    metrics, tracers = Metrics(), TracerProvider()
    prometheus.register(metrics, CollectorRegistry())
    exporter = ConsoleMetricExporter(StringIO(), formatter=lambda _metrics: "")
    # They are exported at the end of each burst, so that a burst has its share of what is done then, and no other's.
    meters = MeterProvider(metric_readers=[PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)])
    otel.instrument(metrics, meters)
    attach(set_span_in_context(tracers.get_tracer("bench").start_span("call")))
    return [metrics, otel.Tracing(tracers)], meters.force_flush


def observed_rows(figures: Sequence["Figure"]) -> list[Row]:
    """Returns the processor time of observed calls, as a ratio to that of others, beside its target."""
    return [
        Row(
            name=f"{figure.case}-cpu",
            what=f"{figure.title}, {figure.server}, {figure.callers} callers: processor time against none",
            value=1 / figure.cpu_ratio if figure.cpu_ratio else None,
            unit="",
            target=_MOST,
            note=f"{_microseconds(figure.measured):.0f} and {_microseconds(figure.reference):.0f} µs",
        )
        for figure in figures
        if figure.versus == "unobserved" and figure.callers == CALLERS[-1]
    ]


def _microseconds(values: dict[str, float]) -> float:
    return values["cpu_per_call"] * 1e6
