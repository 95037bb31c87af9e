"""What the spans of calls get, and the spans that recovery gets, by the SDK's in-memory exporter."""

from contextvars import copy_context

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from grpc_idempotency import Reason
from grpc_idempotency._server.observers import Observers
from grpc_idempotency.events import CallAnswered, Ending, RecoveryEnded, RecoveryStarted, Status
from grpc_idempotency.otel import Tracing

from .happenings import METHOD, NAME, TRACE, answered, refused
from .watched import Watched, in_bytes, linked


def span_of(event: CallAnswered, watched: Watched) -> ReadableSpan:
    """Returns the span of a call that ends with an event."""
    with watched.tracer.start_as_current_span("call"):
        watched.tracing(event)
    return watched.spans()[-1]


def started(trace: bytes = TRACE) -> RecoveryStarted:
    return RecoveryStarted(method=METHOD, operation=NAME, attempt=2, trace=trace)


def ended(ending: Ending = Ending.ANSWERED, operation: bytes = NAME) -> RecoveryEnded:
    return RecoveryEnded(method=METHOD, operation=operation, attempt=2, ended=ending, seconds=0.1)


@pytest.mark.parametrize("status", Status)
def test_the_span_of_a_call_says_how_it_was_answered(status: Status, watched: Watched) -> None:
    """The span has status and operation; it links to the run of another call, and never to its own."""
    span = span_of(answered(status, trace=TRACE), watched)
    assert span.attributes == {
        "grpc_idempotency.status": status.value,
        "grpc_idempotency.operation": NAME.hex(),
    }
    assert linked(span) == ([TRACE] if status in (Status.REPLAYED, Status.ATTACHED) else [])


def test_the_span_of_a_replay_without_a_trace(watched: Watched) -> None:
    """Where the first call was not sampled there is nothing to link to."""
    assert linked(span_of(answered(Status.REPLAYED), watched)) == []


def test_the_span_of_a_refusal(watched: Watched) -> None:
    """The span of a refused call has the reason; that of a call without a key has nothing."""
    assert span_of(refused(Reason.KEY_REUSED), watched).attributes == {
        "grpc_idempotency.status": "refused",
        "grpc_idempotency.operation": NAME.hex(),
        "grpc_idempotency.reason": "KEY_REUSED",
    }
    malformed = answered(Status.REFUSED, operation=None, reason=Reason.KEY_INVALID, code=Reason.KEY_INVALID.status)
    assert span_of(malformed, watched).attributes == {
        "grpc_idempotency.status": "refused",
        "grpc_idempotency.reason": "KEY_INVALID",
    }
    assert span_of(answered(None, operation=None), watched).attributes == {}


def test_a_claim_keeps_the_trace_of_its_call(watched: Watched) -> None:
    """The trace context is that of the current span, 25 bytes."""
    assert watched.tracing.trace() == b""
    with watched.tracer.start_as_current_span("call") as span:
        kept = watched.tracing.trace()
    assert kept == in_bytes(span.get_span_context())
    assert linked(span_of(answered(Status.REPLAYED, trace=kept), watched)) == [kept]


def test_a_claim_keeps_no_trace_that_is_not_sampled(watched: Watched) -> None:
    """A link to a span that was not exported would lead nowhere."""
    tracer = TracerProvider(sampler=ALWAYS_OFF).get_tracer("test")
    with tracer.start_as_current_span("call"):
        assert watched.tracing.trace() == b""
        watched.tracing(answered(Status.REPLAYED, trace=TRACE))


def test_recovery_has_a_span_of_its_own(watched: Watched) -> None:
    """The handler runs in a new trace that links to the call whose run was cut short."""
    with watched.tracer.start_as_current_span("around"):
        around = trace.get_current_span()
        watched.tracing(started())
        inside = trace.get_current_span()
        with watched.tracer.start_as_current_span("query"):
            pass
        watched.tracing(ended())
        assert trace.get_current_span() is around
    query, recovery, _ = watched.spans()
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
def test_a_recovery_that_fails_is_an_error(ending: Ending, watched: Watched) -> None:
    """The span of a handler that did not answer is an error."""
    watched.tracing(started(trace=b""))
    watched.tracing(ended(ending))
    (span,) = watched.spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, ending.value)
    assert linked(span) == []


def test_a_run_with_a_call_has_no_span_of_its_own(watched: Watched) -> None:
    """The call has a span already."""
    observers = Observers([watched.tracing])
    assert observers.recovery_started is not None
    assert observers.recovery_ended is not None
    assert observers.execution_started is None
    assert observers.execution_ended is None


def test_recoveries_do_not_end_each_other(watched: Watched) -> None:
    """A span ends with its own operation, in its own context."""
    one, other = copy_context(), copy_context()
    one.run(watched.tracing, started())
    other.run(watched.tracing, ended())
    one.run(watched.tracing, ended(operation=bytes(16)))
    assert watched.spans() == ()
    one.run(watched.tracing, ended())
    assert len(watched.spans()) == 1


def test_two_observers_have_a_span_each(watched: Watched) -> None:
    """A second observer, as for a second provider, makes and ends a span of its own."""
    observers = [watched.tracing, Tracing(watched.tracers)]
    for event in (started(), ended()):
        for observer in observers:
            observer(event)
    assert [span.name for span in watched.spans()] == [METHOD[1:]] * 2
