"""What the spans of calls get, and the spans that recovery gets, by the SDK's in-memory exporter."""

from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from grpc_idempotency import Reason
from grpc_idempotency.events import Ending, ExecutionEnded, ExecutionStarted, Status
from grpc_idempotency.otel import Tracing

from .happenings import METHOD, NAME, TRACE, answered, refused


class Traces:
    """A provider of tracers, an observer on it, and what it has exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")
        self.tracing = Tracing(self.provider)

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def span_of(self, event: Any) -> ReadableSpan:
        """Returns the span of a call that ends with an event."""
        with self.tracer.start_as_current_span("call"):
            self.tracing(event)
        return self.spans()[-1]


@pytest.fixture
def traces() -> Iterator[Traces]:
    traces = Traces()
    yield traces
    traces.provider.shutdown()


def linked(span: ReadableSpan) -> list[bytes]:
    """Returns the contexts that a span links to, as a claim keeps them."""
    return [
        link.context.trace_id.to_bytes(16, "big")
        + link.context.span_id.to_bytes(8, "big")
        + bytes([link.context.trace_flags])
        for link in span.links
    ]


def started(*, recovered: bool, trace: bytes = TRACE) -> ExecutionStarted:
    return ExecutionStarted(method=METHOD, operation=NAME, attempt=2, recovered=recovered, trace=trace)


def ended(ending: Ending = Ending.ANSWERED, operation: bytes = NAME) -> ExecutionEnded:
    return ExecutionEnded(method=METHOD, operation=operation, attempt=2, ended=ending, seconds=0.1)


@pytest.mark.parametrize("status", Status)
def test_the_span_of_a_call_says_how_it_was_answered(status: Status, traces: Traces) -> None:
    """The span has status and operation; it links to the run of another call, and never to its own."""
    span = traces.span_of(answered(status, trace=TRACE))
    assert span.attributes == {
        "grpc_idempotency.status": status.value,
        "grpc_idempotency.operation": NAME.hex(),
    }
    assert linked(span) == ([TRACE] if status in (Status.REPLAYED, Status.ATTACHED) else [])


def test_the_span_of_a_replay_without_a_trace(traces: Traces) -> None:
    """Where the first call was not sampled there is nothing to link to."""
    assert linked(traces.span_of(answered(Status.REPLAYED))) == []


def test_the_span_of_a_refusal(traces: Traces) -> None:
    """The span of a refused call has the reason; that of a call without a key has nothing."""
    assert traces.span_of(refused(Reason.KEY_REUSED)).attributes == {
        "grpc_idempotency.status": "refused",
        "grpc_idempotency.operation": NAME.hex(),
        "grpc_idempotency.reason": "KEY_REUSED",
    }
    malformed = answered(None, operation=None, reason=Reason.KEY_INVALID, code=Reason.KEY_INVALID.status)
    assert traces.span_of(malformed).attributes == {
        "grpc_idempotency.status": "refused",
        "grpc_idempotency.reason": "KEY_INVALID",
    }
    assert traces.span_of(answered(None, operation=None)).attributes == {}


def test_a_claim_keeps_the_trace_of_its_call(traces: Traces) -> None:
    """The trace context is that of the current span, 25 bytes."""
    assert traces.tracing.trace() == b""
    with traces.tracer.start_as_current_span("call") as span:
        kept = traces.tracing.trace()
    context = span.get_span_context()
    assert kept == context.trace_id.to_bytes(16, "big") + context.span_id.to_bytes(8, "big") + bytes(
        [context.trace_flags]
    )
    assert linked(traces.span_of(answered(Status.REPLAYED, trace=kept))) == [kept]


def test_a_claim_keeps_no_trace_that_is_not_sampled(traces: Traces) -> None:
    """A link to a span that was not exported would lead nowhere."""
    tracer = TracerProvider(sampler=ALWAYS_OFF).get_tracer("test")
    with tracer.start_as_current_span("call"):
        assert traces.tracing.trace() == b""
        traces.tracing(answered(Status.REPLAYED, trace=TRACE))


def test_recovery_has_a_span_of_its_own(traces: Traces) -> None:
    """The handler runs in a new trace that links to the call whose run was cut short."""
    with traces.tracer.start_as_current_span("around"):
        around = trace.get_current_span()
        traces.tracing(started(recovered=True))
        inside = trace.get_current_span()
        with traces.tracer.start_as_current_span("query"):
            pass
        traces.tracing(ended())
        assert trace.get_current_span() is around
    query, recovery, _ = traces.spans()
    assert recovery.name == METHOD[1:]
    assert recovery.parent is None
    assert recovery.context == inside.get_span_context() == query.parent
    assert linked(recovery) == [TRACE]
    assert recovery.attributes == {
        "rpc.method": METHOD[1:],
        "grpc_idempotency.operation": NAME.hex(),
        "grpc_idempotency.attempt": 2,
        "grpc_idempotency.ending": "answered",
    }
    assert recovery.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("ending", [ending for ending in Ending if ending is not Ending.ANSWERED])
def test_a_recovery_that_fails_is_an_error(ending: Ending, traces: Traces) -> None:
    """The span of a handler that did not answer is an error."""
    traces.tracing(started(recovered=True, trace=b""))
    traces.tracing(ended(ending))
    (span,) = traces.spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, ending.value)
    assert linked(span) == []


def test_a_run_with_a_call_has_no_span_of_its_own(traces: Traces) -> None:
    """The call has a span already."""
    traces.tracing(started(recovered=False))
    traces.tracing(ended())
    assert traces.spans() == ()


def test_recoveries_do_not_end_each_other(traces: Traces) -> None:
    """A span ends with its own operation, in its own context."""
    one, other = copy_context(), copy_context()
    one.run(traces.tracing, started(recovered=True))
    other.run(traces.tracing, ended())
    one.run(traces.tracing, ended(operation=bytes(16)))
    assert traces.spans() == ()
    one.run(traces.tracing, ended())
    assert len(traces.spans()) == 1
