"""What is counted, by whom it may be read, and how many series there can be."""

import gc
import sys
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from grpc_idempotency import Code, Reason, State
from grpc_idempotency.events import Ending, ExecutionEnded, RecordsCounted, Status
from grpc_idempotency.metrics import (
    BATCH_DURATION,
    BATCH_SIZE,
    CALL_DURATION,
    CALLS,
    EXECUTIONS,
    EXECUTIONS_ACTIVE,
    INSTRUMENTS,
    LEASES_LOST,
    OTHER,
    RECORDS,
    RECOVERED,
    REPLAY_AGE,
    SWEPT,
    TAKEOVERS,
    Instrument,
    Kind,
    Metrics,
    status_of,
)

from .happenings import METHOD, NAME, answered, of_each_kind, refused


def told(*events: Any) -> Metrics:
    metrics = Metrics()
    for event in events:
        metrics(event)
    return metrics


def counted(metrics: Metrics, instrument: Instrument) -> dict[tuple[str, ...], int]:
    """Returns the values of an instrument that are not 0, by the values of their attributes."""
    return {_key(one.attributes): one.value for one in metrics.values(instrument) if one.value}


def _key(attributes: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(value for name, value in attributes.items() if name != "rpc.method" or value != METHOD[1:])


def test_what_each_event_counts() -> None:
    """Each event is in the metrics that the reference tells of, with these attributes."""
    metrics = told(*of_each_kind())
    assert counted(metrics, CALLS) == {
        ("executed", "OK"): 1,
        ("replayed", "NOT_FOUND", "NOT_FOUND"): 1,
        ("refused", "FAILED_PRECONDITION", "KEY_REUSED"): 1,
        ("unkeyed", "OK"): 1,
        ("cancelled", "CANCELLED", "CANCELLED"): 1,
    }
    assert counted(metrics, TAKEOVERS) == {(): 1}
    assert counted(metrics, EXECUTIONS) == {("answered",): 1, ("raised",): 1}
    assert counted(metrics, LEASES_LOST) == {("true",): 1}
    assert counted(metrics, RECOVERED) == {("hold",): 1}
    assert counted(metrics, RECORDS) == {("held",): 1, ("completed",): 9}
    assert counted(metrics, SWEPT) == {(): 5}
    durations = metrics.distributions(CALL_DURATION)
    assert [_key(one.attributes) for one in durations] == [
        (status,) for status in ("executed", "replayed", "refused", "unkeyed", "cancelled")
    ]
    assert all(sum(one.counts) == 1 and one.sum == 0.02 for one in durations)
    assert [(one.sum, sum(one.counts)) for one in metrics.distributions(REPLAY_AGE)] == [(7, 1)]
    assert [(one.sum, sum(one.counts)) for one in metrics.distributions(BATCH_SIZE)] == [(3, 1)]
    assert [(one.sum, sum(one.counts)) for one in metrics.distributions(BATCH_DURATION)] == [(0.004, 1)]


class Interceptor:
    """What an interceptor tells of the handlers that run."""

    def __init__(self, **running: int) -> None:
        self.handlers = {f"/a.Service/{name}": count for name, count in running.items()}

    def running(self) -> Mapping[str, int]:
        return self.handlers


def test_the_handlers_that_run_are_those_of_all_interceptors() -> None:
    """They are asked for when they are read; a method of which none runs any more has 0; one that is gone runs none."""
    metrics, first, second = Metrics(), Interceptor(A=1, B=2), Interceptor(B=3)
    metrics.watch(first.running)
    metrics.watch(second.running)
    assert counted(metrics, EXECUTIONS_ACTIVE) == {("a.Service/A",): 1, ("a.Service/B",): 5}
    first.handlers.clear()
    assert counted(metrics, EXECUTIONS_ACTIVE) == {("a.Service/B",): 3}
    assert len(metrics.values(EXECUTIONS_ACTIVE)) == 2
    del second
    gc.collect()
    assert counted(metrics, EXECUTIONS_ACTIVE) == {}


@pytest.mark.parametrize("status", Status)
def test_statuses_are_those_of_the_trailer(status: Status) -> None:
    """A call is counted under the status that its client was told (2.2)."""
    assert status_of(answered(status)) == status.value


def test_bounds_are_inclusive() -> None:
    """A value is in the first bucket whose bound it does not pass; the last bucket has no bound."""
    metrics = told(*(answered(seconds=seconds) for seconds in (0.0, 0.001, 0.0011, 60, 61)))
    (one,) = metrics.distributions(CALL_DURATION)
    assert one.counts == (2, 1, *[0] * 12, 1, 1)
    assert one.sums == (0.001, 0.0011, *[0.0] * 12, 60, 61)
    assert one.sum == pytest.approx(121.0021)


def test_what_alerts_look_at_begins_at_zero() -> None:
    """The first refusal of a method is an increase: its series were there before, with 0."""
    metrics = told(answered())
    zeros = [
        tuple(value.attributes.values())[1:]
        for instrument in (CALLS, LEASES_LOST, TAKEOVERS)
        for value in metrics.values(instrument)
        if value.value == 0
    ]
    assert zeros == [
        ("unprotected", "OK"),
        ("refused", "UNAVAILABLE", "STORE_UNAVAILABLE"),
        ("refused", "FAILED_PRECONDITION", "KEY_REUSED"),
        ("false",),
        ("true",),
        (),
    ]
    metrics(refused(Reason.KEY_REUSED))
    assert ("refused", "FAILED_PRECONDITION", "KEY_REUSED") in counted(metrics, CALLS)


def test_records_are_as_they_were_counted_last() -> None:
    """A state that has no records any more has 0 of them; completed ones are kept until they are counted again."""
    metrics = told(*of_each_kind())
    metrics(RecordsCounted(counts={(METHOD, State.RUNNING): 2}, completed=False))
    assert counted(metrics, RECORDS) == {("running",): 2, ("completed",): 9}
    assert len(metrics.values(RECORDS)) == 3
    metrics(RecordsCounted(counts={}, completed=True))
    assert counted(metrics, RECORDS) == {}


def test_methods_are_bounded() -> None:
    """As many methods as are allowed are told apart; a server that answers methods of any name has no more series."""
    metrics = Metrics(most_methods=2)
    for number in range(50):
        metrics(answered(method=f"/any.Service/Do{number}"))
    methods = [value.attributes["rpc.method"] for value in metrics.values(CALLS) if value.value]
    assert methods == ["any.Service/Do0", "any.Service/Do1", OTHER]
    assert counted(metrics, CALLS)[OTHER, "executed", "OK"] == 48
    started = [value.attributes["rpc.method"] for value in metrics.values(TAKEOVERS)]
    assert started == methods, "the others begin at zero, too"


def test_methods_may_be_named() -> None:
    """With a list of methods, all others are counted as one, however early they come."""
    metrics = Metrics(methods=["/a.Service/Do", "b.Service/Do"])
    for method in ("/c.Service/Do", "/b.Service/Do", "/a.Service/Do", "/d.Service/Do"):
        metrics(answered(method=method))
    metrics(
        RecordsCounted(counts={("/c.Service/Do", State.HELD): 1, ("/d.Service/Do", State.HELD): 2}, completed=False)
    )
    assert counted(metrics, CALLS) == {
        (OTHER, "executed", "OK"): 2,
        ("b.Service/Do", "executed", "OK"): 1,
        ("a.Service/Do", "executed", "OK"): 1,
    }
    assert counted(metrics, RECORDS) == {(OTHER, "held"): 3}


def test_nothing_is_lost_between_threads() -> None:
    """Threads that count at once, and one that reads, lose no call and no run."""
    metrics, threads, calls = Metrics(), 8, 500
    ended = ExecutionEnded(method=METHOD, operation=NAME, attempt=1, ended=Ending.ANSWERED, seconds=0.01)
    begin = threading.Barrier(threads + 1)

    def count() -> None:
        begin.wait()
        for _ in range(calls):
            metrics(answered())
            metrics(ended)

    workers = [threading.Thread(target=count) for _ in range(threads)]
    for worker in workers:
        worker.start()
    begin.wait()
    while any(worker.is_alive() for worker in workers):
        assert 0 <= sum(value.value for value in metrics.values(EXECUTIONS)) <= threads * calls
    assert counted(metrics, CALLS) == {("executed", "OK"): threads * calls}
    assert [sum(one.counts) for one in metrics.distributions(CALL_DURATION)] == [threads * calls]
    assert counted(metrics, EXECUTIONS) == {("answered",): threads * calls}


def test_events_do_not_pile_up() -> None:
    """If nobody reads the counters, calls count the events, and no more than a few hundred are kept."""
    metrics, events = Metrics(), [answered() for _ in range(1_000)]
    for number in range(len(events)):
        metrics(events[number])
    references = [sys.getrefcount(event) for event in events]
    assert 0 < references.count(min(references) + 1) < 300  # these wait to be counted
    assert references.count(min(references)) > 700


def test_instruments_are_well_formed() -> None:
    """Names are unique and of the library's; a histogram has bounds in rising order, and no other has any."""
    assert len({one.name for one in INSTRUMENTS}) == len(INSTRUMENTS)
    for one in INSTRUMENTS:
        assert one.name.startswith("grpc_idempotency.")
        assert (one.kind is Kind.HISTOGRAM) is bool(one.bounds)
        assert list(one.bounds) == sorted(set(one.bounds))


def test_no_name_of_a_call_is_an_attribute() -> None:
    """An operation's name is in no attribute."""
    metrics = told(*of_each_kind(), answered(code=Code.INTERNAL))
    attributes = [
        text
        for one in INSTRUMENTS
        for point in (metrics.distributions(one) if one.kind is Kind.HISTOGRAM else metrics.values(one))
        for text in point.attributes.values()
    ]
    assert attributes
    assert not any(NAME.hex() in text for text in attributes)
