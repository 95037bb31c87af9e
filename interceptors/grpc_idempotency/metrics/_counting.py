"""Counts events, by one lock. Nothing is computed that can be computed when the counters are read.

A call only puts its events into a queue. They are counted many at a time, since code that a call enters now and then
is in no cache of the processor, and takes three times as long.
"""

import threading
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from grpc_idempotency._protocol.refusals import Reason
from grpc_idempotency.events import (
    BatchCommitted,
    CallAnswered,
    Event,
    ExecutionEnded,
    LeaseLost,
    RecordsCounted,
    Recovered,
    RecoveryEnded,
    Status,
    Swept,
    TakenOver,
)
from grpc_idempotency.metrics._instruments import (
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
)
from grpc_idempotency.records import Code, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A number that was counted."""

    attributes: Mapping[str, str]
    """The attributes. Those that do not apply are missing."""
    value: int
    """The number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """The values of a histogram under some attributes."""

    attributes: Mapping[str, str]
    """The attributes."""
    counts: tuple[int, ...]
    """How many values are in each bucket: one for each of the instrument's bounds, and one for larger values."""
    sums: tuple[float, ...]
    """The sum of the values in each bucket."""

    @property
    def sum(self) -> float:
        """The sum of all values."""
        return sum(self.sums)


_Key = tuple[str, ...]
"""The values of an instrument's attributes, in their order; empty ones do not apply."""
_AT_ONCE = 256
"""How many events wait at most, until a call counts them."""


class Metrics:
    """An observer that counts, in this process, what interceptors do.

    It may be read, and told of events, from several threads at once. It keeps some events before it counts them, but
    whoever reads it gets the numbers of all events.
    Several interceptors may share one if they are on one store: it has one number of records for each method and state.
    """

    def __init__(self, *, methods: Collection[str] | None = None, most_methods: int = 200) -> None:
        """Makes the counters.

        Args:
            methods: The full names of the methods that are told apart. All others are counted as one, ``_OTHER``.
                ``None``: the first ``most_methods`` methods that have a keyed call or a record.
            most_methods: How many methods are told apart at most if ``methods`` is not given. It bounds the memory and
                the number of time series where a server answers methods of any name.
        """
        names = {name.removeprefix("/") for name in methods or ()}
        self._methods = {f"/{name}": name for name in names}
        self._most = len(self._methods) if methods is not None else most_methods
        self._told: deque[Event] = deque()
        """The events that are not counted yet. Appending and taking are atomic."""
        self._lock = threading.Lock()
        """Held while events are counted, and while the counters are read."""
        self._counts: dict[Instrument, dict[_Key, int]] = {
            instrument: {} for instrument in INSTRUMENTS if instrument.kind is not Kind.HISTOGRAM
        }
        self._histograms = {
            instrument: _Histogram(instrument) for instrument in INSTRUMENTS if instrument.kind is Kind.HISTOGRAM
        }
        # Those of each call, at hand.
        self._calls, self._durations = self._counts[CALLS], self._histograms[CALL_DURATION]
        self._executions = self._counts[EXECUTIONS]
        self._running: list[weakref.WeakMethod[Callable[[], Mapping[str, int]]]] = []
        """For each interceptor, what tells which handlers run. An interceptor that is gone runs none."""
        self._counts[SWEPT][()] = 0
        for name in names:
            self._start(name)
        self._counting: Mapping[type[Event], Callable[[Any], None]] = {
            CallAnswered: self._call_answered,
            ExecutionEnded: self._execution_ended,
            RecoveryEnded: self._execution_ended,
            TakenOver: self._taken_over,
            LeaseLost: self._lease_lost,
            Recovered: self._recovered,
            RecordsCounted: self._records_counted,
            BatchCommitted: self._batch_committed,
            Swept: self._swept,
        }

    @property
    def events(self) -> Collection[type[Event]]:
        """The classes of the events that are counted."""
        return self._counting.keys()

    def __call__(self, event: Event) -> None:
        """Takes an event, which is counted at the latest when the counters are read.

        Args:
            event: An event of one of the classes in ``events``.
        """
        told = self._told
        told.append(event)
        if len(told) >= _AT_ONCE and self._lock.acquire(blocking=False):
            try:
                self._count_told()
            finally:
                self._lock.release()

    def watch(self, running: Callable[[], Mapping[str, int]]) -> None:
        """Takes what tells which handlers of an interceptor run. It is called when the counters are read.

        Args:
            running: A bound method that returns how many run, by the full names of their methods.
        """
        with self._lock:
            self._running.append(weakref.WeakMethod(running))

    def values(self, instrument: Instrument) -> Sequence[Value]:
        """Returns the numbers of an instrument that is not a histogram.

        Args:
            instrument: One of ``INSTRUMENTS``.
        """
        with self._lock:
            self._count_told()
            if instrument is EXECUTIONS_ACTIVE:
                self._count_running()
            counts = tuple(self._counts[instrument].items())
        return [Value(attributes=_attributes(instrument, key), value=count) for key, count in counts]

    def distributions(self, instrument: Instrument) -> Sequence[Distribution]:
        """Returns the distributions of a histogram.

        Args:
            instrument: One of ``INSTRUMENTS``.
        """
        with self._lock:
            self._count_told()
            series = self._histograms[instrument].copied()
        return [
            Distribution(attributes=_attributes(instrument, key), counts=counts, sums=sums)
            for key, counts, sums in series
        ]

    # Under the lock

    def _count_told(self) -> None:
        """Counts the events that were told until now."""
        told = self._told
        for _ in range(len(told)):
            event = told.popleft()
            self._counting[type(event)](event)

    def _count_running(self) -> None:
        """Counts the handlers that run now."""
        active = self._counts[EXECUTIONS_ACTIVE]
        for key in active:
            active[key] = 0
        for each in self._running:
            running = each()
            for method, count in (running() if running is not None else {}).items():
                _add(active, (self._name(method),), count)

    def _call_answered(self, event: CallAnswered) -> None:
        method, status, code = self._name(event.method), status_of(event), _CODES[event.code]
        error = event.reason.name if event.reason is not None else "" if event.code is Code.OK else code
        _add(self._calls, (method, status, code, error), 1)
        self._durations.add((method, status), event.seconds)
        if event.age is not None:
            self._histograms[REPLAY_AGE].add((method,), event.age.total_seconds())

    def _execution_ended(self, event: ExecutionEnded) -> None:
        _add(self._executions, (self._name(event.method), event.ended.value), 1)

    def _taken_over(self, event: TakenOver) -> None:
        _add(self._counts[TAKEOVERS], (self._name(event.method),), 1)

    def _lease_lost(self, event: LeaseLost) -> None:
        _add(self._counts[LEASES_LOST], (self._name(event.method), _FOR_GOOD[event.for_good]), 1)

    def _recovered(self, event: Recovered) -> None:
        _add(self._counts[RECOVERED], (self._name(event.method), event.fate.value), 1)

    def _records_counted(self, event: RecordsCounted) -> None:
        records = self._counts[RECORDS]
        for key in records:
            if event.completed or key[1] != State.COMPLETED.value:
                # Some exporters would go on to export the last value of a series that has vanished.
                records[key] = 0
        counted: dict[_Key, int] = {}
        for (method, state), count in event.counts.items():
            _add(counted, (self._name(method), state.value), count)
        records.update(counted)

    def _batch_committed(self, event: BatchCommitted) -> None:
        self._histograms[BATCH_SIZE].add((), event.size)
        self._histograms[BATCH_DURATION].add((), event.seconds)

    def _swept(self, event: Swept) -> None:
        _add(self._counts[SWEPT], (), event.deleted)

    def _name(self, method: str) -> str:
        """Returns the attribute of a method. A method that is not known yet is known from now on, if there is room."""
        name = self._methods.get(method)
        if name is not None:
            return name
        if len(self._methods) >= self._most:
            if (OTHER,) not in self._counts[TAKEOVERS]:
                self._start(OTHER)
            return OTHER
        name = self._methods[method] = method.removeprefix("/")
        self._start(name)
        return name

    def _start(self, name: str) -> None:
        """Begins a method's counters at 0 where alerts look at their increase: the first one has to be an increase."""
        calls = self._counts[CALLS]
        calls[name, Status.UNPROTECTED.value, Code.OK.name, ""] = 0
        for reason in (Reason.STORE_UNAVAILABLE, Reason.KEY_REUSED):
            calls[name, Status.REFUSED.value, reason.status.name, reason.name] = 0
        for for_good in _FOR_GOOD.values():
            self._counts[LEASES_LOST][name, for_good] = 0
        self._counts[TAKEOVERS][name,] = 0
        self._counts[EXECUTIONS_ACTIVE][name,] = 0


def _add(counts: dict[_Key, int], key: _Key, by: int) -> None:
    counts[key] = counts.get(key, 0) + by


def status_of(event: CallAnswered) -> str:
    """Returns how a call was answered, as in the attribute ``STATUS``.

    Args:
        event: The end of the call.
    """
    if event.status is not None:
        return event.status.value
    return "unkeyed" if event.operation is None else "cancelled"


class _Histogram:
    """The distributions of one instrument."""

    __slots__ = ("_bounds", "_series")

    def __init__(self, instrument: Instrument) -> None:
        self._bounds = instrument.bounds
        self._series: dict[_Key, tuple[list[int], list[float]]] = {}
        """The number and the sum of the values in each bucket."""

    def add(self, key: _Key, value: float) -> None:
        """Counts a value."""
        series = self._series.get(key)
        if series is None:
            buckets = len(self._bounds) + 1
            series = self._series[key] = ([0] * buckets, [0.0] * buckets)
        bucket = bisect_left(self._bounds, value)
        series[0][bucket] += 1
        series[1][bucket] += value

    def copied(self) -> list[tuple[_Key, tuple[int, ...], tuple[float, ...]]]:
        """Returns all series as they are now."""
        return [(key, tuple(counts), tuple(sums)) for key, (counts, sums) in self._series.items()]


def _attributes(instrument: Instrument, key: _Key) -> Mapping[str, str]:
    pairs = zip(instrument.attributes, key, strict=True)
    return MappingProxyType({name: value for name, value in pairs if value})


_CODES = {code: code.name for code in Code}
_FOR_GOOD = {False: "false", True: "true"}
