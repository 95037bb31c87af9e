"""Metrics and traces by OpenTelemetry's API: ``pip install grpc-idempotency[otel]``.

>>> metrics = Metrics()
>>> otel.instrument(metrics)
>>> interceptor = IdempotencyInterceptor(store, observers=[metrics, otel.Tracing()])

The metrics are those of :mod:`grpc_idempotency.metrics`. They are read when they are exported.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextvars import ContextVar, Token
from itertools import chain, repeat

from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    StatusCode,
    TraceFlags,
    TracerProvider,
    get_current_span,
    get_tracer,
    set_span_in_context,
)

from grpc_idempotency import __version__
from grpc_idempotency.events import CallAnswered, Ending, Event, RecoveryEnded, RecoveryStarted, Status
from grpc_idempotency.metrics import (
    CALLS,
    ENDING,
    INSTRUMENTS,
    METHOD,
    STATUS,
    Distribution,
    Instrument,
    Kind,
    Metrics,
    status_of,
)

OPERATION = "grpc_idempotency.operation"
"""The attribute of a span with the operation's name, in hexadecimal, as in logs and commands."""
REASON = "grpc_idempotency.reason"
"""The attribute of a span with the reason of a refusal."""
ATTEMPT = "grpc_idempotency.attempt"
"""The attribute of a recovery's span with the number of the claim."""
_SCOPE = "grpc_idempotency"
_AT_ONCE = 100
"""How many values are recorded without a pause."""
_NO_SPAN = set_span_in_context(INVALID_SPAN, Context())
"""The context in which values are recorded: a span in which metrics happen to be read is an exemplar of none."""


def instrument(metrics: Metrics, meter_provider: MeterProvider | None = None) -> None:
    """Exports metrics by OpenTelemetry. Call it once for each ``Metrics`` and provider.

    Args:
        metrics: The counters. They also have to be an observer of the interceptors.
        meter_provider: The provider of the meter; ``None``: the global one.
    """
    meter = get_meter(_SCOPE, __version__, meter_provider)
    histograms = _Histograms(meter, metrics)
    for each in INSTRUMENTS:
        if each.kind is not Kind.HISTOGRAM:
            _create(meter, metrics, each, histograms if each is CALLS else None)


def _create(meter: Meter, metrics: Metrics, each: Instrument, first: "_Histograms | None") -> None:
    create: Callable[..., object] = {
        Kind.COUNTER: meter.create_observable_counter,
        Kind.UP_DOWN: meter.create_observable_up_down_counter,
        Kind.GAUGE: meter.create_observable_gauge,
    }[each.kind]

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        if first is not None:
            first.record()
        return [Observation(value.value, value.attributes) for value in metrics.values(each)]

    create(each.name, callbacks=[observe], unit=each.unit, description=each.description)


class _Histograms:
    """Records to OpenTelemetry's histograms what was measured since the last export.

    The API has no histogram that is read when it is exported. One that is told of each value as it comes costs a call
    up to a tenth of its processor time, and here, many at a time, a fourth of that.
    """

    def __init__(self, meter: Meter, metrics: Metrics) -> None:
        self._metrics = metrics
        self._histograms = {
            each: meter.create_histogram(
                each.name, each.unit, each.description, explicit_bucket_boundaries_advisory=each.bounds
            )
            for each in INSTRUMENTS
            if each.kind is Kind.HISTOGRAM
        }
        self._lock = threading.Lock()
        self._recorded: dict[tuple[Instrument, frozenset[tuple[str, str]]], Distribution] = {}

    def record(self) -> None:
        """Records all new values. Those of a bucket are recorded as their mean, so that number and sum are right."""
        with self._lock:  # several readers may export at once
            for each, histogram in self._histograms.items():
                for now in self._metrics.distributions(each):
                    key = each, frozenset(now.attributes.items())
                    attributes = dict(now.attributes) or None  # the SDK is slower with an empty one, or another mapping
                    values = chain.from_iterable(_means(each.bounds, self._recorded.get(key), now))
                    for number, value in enumerate(values, 1):
                        histogram.record(value, attributes, _NO_SPAN)
                        if number % _AT_ONCE == 0:
                            time.sleep(0)  # lets the threads that serve go on
                    self._recorded[key] = now


def _means(bounds: Sequence[float], before: Distribution | None, now: Distribution) -> Iterator[Iterable[float]]:
    """Yields the mean of the new values of each bucket, as often as there are new values."""
    for bucket, (count, total) in enumerate(zip(now.counts, now.sums, strict=True)):
        if before is not None:
            count, total = count - before.counts[bucket], total - before.sums[bucket]
        if count:
            mean = total / count
            # Rounding must not put it into another bucket.
            if bucket > 0:
                mean = max(mean, math.nextafter(bounds[bucket - 1], math.inf))
            if bucket < len(bounds):
                mean = min(mean, bounds[bucket])
            yield repeat(mean, count)


class Tracing:
    """An observer that adds what it knows to the spans of calls, and makes spans for recovery.

    The span of a call is made by an interceptor outside this library's, such as that of
    ``opentelemetry-instrumentation-grpc``. It gets the attributes ``grpc_idempotency.status`` and
    ``grpc_idempotency.operation``, and ``grpc_idempotency.reason`` if the call was refused. The span of a call that was
    replayed or attached gets a link to the span of the call whose run made the outcome, if that was sampled.

    A handler that recovery runs has no call, and so gets a span of its own, which links to that of the call whose run
    was cut short.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        """Makes the observer.

        Args:
            tracer_provider: The provider of the tracer for recovery; ``None``: the global one.
        """
        self._tracer = get_tracer(_SCOPE, __version__, tracer_provider)
        self._recovering: ContextVar[tuple[bytes, Span, Token[Context]] | None] = ContextVar("recovering", default=None)
        """The operation that recovery runs in this context, its span, and the token that detaches it."""

    @property
    def events(self) -> Collection[type[Event]]:
        """The classes of the events that it gets."""
        return (CallAnswered, RecoveryStarted, RecoveryEnded)

    def trace(self) -> bytes:
        """Returns the trace context of the current span, 25 bytes; empty if it is not sampled."""
        context = get_current_span().get_span_context()
        flags = context.trace_flags
        if not (flags & TraceFlags.SAMPLED and context.is_valid):
            return b""
        # In one go: the trace id, the span id and the flags.
        return (context.trace_id << 72 | context.span_id << 8 | flags).to_bytes(25, "big")

    def __call__(self, event: Event) -> None:
        """Writes an event to the spans.

        Args:
            event: An event of one of the classes in ``events``.
        """
        if isinstance(event, CallAnswered):
            self._call_answered(event)
        elif isinstance(event, RecoveryStarted):
            self._recovery_started(event)
        elif isinstance(event, RecoveryEnded):
            self._recovery_ended(event)

    def _call_answered(self, event: CallAnswered) -> None:
        span = get_current_span()
        if not span.is_recording():
            return
        operation, status = event.operation, event.status
        # One by one: OpenTelemetry's SDK takes longer to set two attributes at once.
        if operation is not None:
            span.set_attribute(OPERATION, operation.hex())
        if operation is not None or status is not None:
            span.set_attribute(STATUS, status_of(event))
        if event.reason is not None:
            span.set_attribute(REASON, event.reason.name)
        if event.trace and (status is Status.REPLAYED or status is Status.ATTACHED):
            span.add_link(_context_of(event.trace))

    def _recovery_started(self, event: RecoveryStarted) -> None:
        method = event.method.removeprefix("/")
        span = self._tracer.start_span(
            method,
            Context(),
            attributes={METHOD: method, OPERATION: event.operation.hex(), ATTEMPT: event.attempt},
            links=[Link(_context_of(event.trace))] if event.trace else None,
        )
        self._recovering.set((event.operation, span, attach(set_span_in_context(span))))

    def _recovery_ended(self, event: RecoveryEnded) -> None:
        recovering = self._recovering.get()
        if recovering is None or recovering[0] != event.operation:
            return
        _, span, token = recovering
        self._recovering.set(None)
        detach(token)
        span.set_attribute(ENDING, event.ended.value)
        if event.ended is not Ending.ANSWERED:
            span.set_status(StatusCode.ERROR, event.ended.value)
        span.end()


def _context_of(trace: bytes) -> SpanContext:
    """Returns the context of the span that a claim has kept."""
    trace_id, span_id = int.from_bytes(trace[:16], "big"), int.from_bytes(trace[16:24], "big")
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(trace[24]))
