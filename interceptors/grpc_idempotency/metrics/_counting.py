"""Counts events, by one lock. Nothing is computed that can be computed when the counters are read."""

import threading
from bisect import bisect_left
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
    ExecutionStarted,
    LeaseLost,
    RecordsCounted,
    Recovered,
    Status,
    Swept,
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


class Metrics:
    """An observer that counts, in this process, what interceptors do.

    It may be read, and told of events, from several threads at once. Counting a first call takes a few microseconds.
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
        self._lock = threading.Lock()
        self._counts: dict[Instrument, dict[_Key, int]] = {
            instrument: {} for instrument in INSTRUMENTS if instrument.kind is not Kind.HISTOGRAM
        }
        self._histograms = {
            instrument: _Histogram(instrument) for instrument in INSTRUMENTS if instrument.kind is Kind.HISTOGRAM
        }
        # Those of each call, at hand.
        self._calls, self._durations = self._counts[CALLS], self._histograms[CALL_DURATION]
        self._executions, self._active = self._counts[EXECUTIONS], self._counts[EXECUTIONS_ACTIVE]
        self._counts[SWEPT][()] = 0
        for name in names:
            self._start(name)
        self._counting: Mapping[type[Event], Callable[[Any], None]] = {
            CallAnswered: self._call_answered,
            ExecutionStarted: self._execution_started,
            ExecutionEnded: self._execution_ended,
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
        """Counts an event.

        Args:
            event: An event of one of the classes in ``events``.
        """
        self._counting[type(event)](event)

    def values(self, instrument: Instrument) -> Sequence[Value]:
        """Returns the numbers of an instrument that is not a histogram.

        Args:
            instrument: One of ``INSTRUMENTS``.
        """
        with self._lock:
            counts = tuple(self._counts[instrument].items())
        return [Value(attributes=_attributes(instrument, key), value=count) for key, count in counts]

    def distributions(self, instrument: Instrument) -> Sequence[Distribution]:
        """Returns the distributions of a histogram.

        Args:
            instrument: One of ``INSTRUMENTS``.
        """
        with self._lock:
            series = self._histograms[instrument].copied()
        return [
            Distribution(attributes=_attributes(instrument, key), counts=counts, sums=sums)
            for key, counts, sums in series
        ]

    # How each event counts

    def _call_answered(self, event: CallAnswered) -> None:
        method = self._methods.get(event.method) or self._new(event.method)
        status, calls = status_of(event), self._calls
        key = (method, status, _CODES[event.code], _error_of(event))
        with self._lock:
            calls[key] = calls.get(key, 0) + 1
            self._durations.add((method, status), event.seconds)
            if event.age is not None:
                self._histograms[REPLAY_AGE].add((method,), event.age.total_seconds())

    def _execution_started(self, event: ExecutionStarted) -> None:
        method = self._methods.get(event.method) or self._new(event.method)
        with self._lock:
            self._active[method,] = self._active.get((method,), 0) + 1
        if event.attempt > 1:
            self._count(TAKEOVERS, 1, method)

    def _execution_ended(self, event: ExecutionEnded) -> None:
        method = self._methods.get(event.method) or self._new(event.method)
        key = (method, event.ended.value)
        with self._lock:
            self._active[method,] = self._active.get((method,), 0) - 1
            self._executions[key] = self._executions.get(key, 0) + 1

    def _lease_lost(self, event: LeaseLost) -> None:
        self._count(LEASES_LOST, 1, self._name(event.method), _FOR_GOOD[event.for_good])

    def _recovered(self, event: Recovered) -> None:
        self._count(RECOVERED, 1, self._name(event.method), event.fate.value)

    def _records_counted(self, event: RecordsCounted) -> None:
        counted: dict[_Key, int] = {}
        for (method, state), count in event.counts.items():
            key: _Key = (self._name(method), state.value)
            counted[key] = counted.get(key, 0) + count
        with self._lock:
            records = self._counts[RECORDS]
            for key in records:
                if event.completed or key[1] != State.COMPLETED.value:
                    # Some exporters would go on to export the last value of a series that has vanished.
                    records[key] = 0
            records.update(counted)

    def _batch_committed(self, event: BatchCommitted) -> None:
        with self._lock:
            self._histograms[BATCH_SIZE].add((), event.size)
            self._histograms[BATCH_DURATION].add((), event.seconds)

    def _swept(self, event: Swept) -> None:
        self._count(SWEPT, event.deleted)

    # The counters

    def _count(self, instrument: Instrument, by: int, *key: str) -> None:
        with self._lock:
            counts = self._counts[instrument]
            counts[key] = counts.get(key, 0) + by

    def _name(self, method: str) -> str:
        """Returns the attribute of a method."""
        return self._methods.get(method) or self._new(method)

    def _new(self, method: str) -> str:
        """Returns the attribute of a method that is not known yet, and knows it from now on if there is room."""
        with self._lock:
            if method not in self._methods:
                if len(self._methods) >= self._most:
                    if (OTHER,) not in self._counts[TAKEOVERS]:
                        self._start(OTHER)
                    return OTHER
                self._start(method.removeprefix("/"))
                self._methods[method] = method.removeprefix("/")
            return self._methods[method]

    def _start(self, name: str) -> None:
        """Begins a method's counters at 0 where alerts look at their increase: the first one has to be an increase."""
        calls = self._counts[CALLS]
        calls[name, Status.UNPROTECTED.value, Code.OK.name, ""] = 0
        for reason in (Reason.STORE_UNAVAILABLE, Reason.KEY_REUSED):
            calls[name, Status.REFUSED.value, reason.status.name, reason.name] = 0
        for for_good in _FOR_GOOD.values():
            self._counts[LEASES_LOST][name, for_good] = 0
        self._counts[TAKEOVERS][name,] = 0


def status_of(event: CallAnswered) -> str:
    """Returns how a call was answered, as in the attribute ``STATUS``.

    Args:
        event: The end of the call.
    """
    if event.status is not None:
        return event.status.value
    return "unkeyed" if event.operation is None else "cancelled"


def _error_of(event: CallAnswered) -> str:
    if event.reason is not None:
        return event.reason.name
    return "" if event.code is Code.OK else _CODES[event.code]


class _Histogram:
    """The distributions of one instrument."""

    __slots__ = ("_bounds", "_series")

    def __init__(self, instrument: Instrument) -> None:
        self._bounds = instrument.bounds
        self._series: dict[_Key, tuple[list[int], list[float]]] = {}
        """The number and the sum of the values in each bucket."""

    def add(self, key: _Key, value: float) -> None:
        """Counts a value, under the lock."""
        series = self._series.get(key)
        if series is None:
            buckets = len(self._bounds) + 1
            series = self._series[key] = ([0] * buckets, [0.0] * buckets)
        bucket = bisect_left(self._bounds, value)
        series[0][bucket] += 1
        series[1][bucket] += value

    def copied(self) -> list[tuple[_Key, tuple[int, ...], tuple[float, ...]]]:
        """Returns all series as they are now, under the lock."""
        return [(key, tuple(counts), tuple(sums)) for key, (counts, sums) in self._series.items()]


def _attributes(instrument: Instrument, key: _Key) -> Mapping[str, str]:
    pairs = zip(instrument.attributes, key, strict=True)
    return MappingProxyType({name: value for name, value in pairs if value})


_CODES = {code: code.name for code in Code}
_FOR_GOOD = {False: "false", True: "true"}
