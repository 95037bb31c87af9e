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
    Became,
    CallAnswered,
    Claimed,
    Event,
    ExecutionEnded,
    ExecutionStarted,
    RecordsCounted,
    Recovered,
    Settled,
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
    OTHER,
    RECORDS,
    RECOVERED,
    REPLAY_AGE,
    SETTLED,
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
    sum: float
    """The sum of all values."""


Recorder = Callable[[float, Mapping[str, str]], object]
"""A function that is called with each value of a histogram and its attributes."""
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
        self._counts[SWEPT][()] = 0
        for name in names:
            self._start(name)
        self._counting: Mapping[type[Event], Callable[[Any], None]] = {
            CallAnswered: self._call_answered,
            Claimed: self._claimed,
            ExecutionStarted: self._execution_started,
            ExecutionEnded: self._execution_ended,
            Settled: self._settled,
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
            return [
                Distribution(attributes=series.attributes, counts=tuple(series.counts), sum=series.sum)
                for series in self._histograms[instrument].series.values()
            ]

    def record_to(self, instrument: Instrument, record: Recorder) -> None:
        """Also passes each further value of a histogram to a function, for exporters that make histograms of their own.

        Args:
            instrument: One of ``INSTRUMENTS``.
            record: Called in the thread in which the value comes. The attributes that it gets never change.
        """
        histogram = self._histograms[instrument]
        with self._lock:
            histogram.recorders = (*histogram.recorders, record)

    # How each event counts

    def _call_answered(self, event: CallAnswered) -> None:
        method, status = self._name(event.method), status_of(event)
        key, durations = (method, status, _CODES[event.code], _error_of(event)), self._histograms[CALL_DURATION]
        with self._lock:
            calls = self._counts[CALLS]
            calls[key] = calls.get(key, 0) + 1
            series = durations.add((method, status), event.seconds)
        durations.pass_on(event.seconds, series)
        if event.age is not None:
            self._measured(REPLAY_AGE, event.age.total_seconds(), method)

    def _claimed(self, event: Claimed) -> None:
        if event.taken_over:
            self._count(TAKEOVERS, 1, self._name(event.method))

    def _execution_started(self, event: ExecutionStarted) -> None:
        self._count(EXECUTIONS_ACTIVE, 1, self._name(event.method))

    def _execution_ended(self, event: ExecutionEnded) -> None:
        method = self._name(event.method)
        self._count(EXECUTIONS_ACTIVE, -1, method)
        self._count(EXECUTIONS, 1, method, event.ended.value)

    def _settled(self, event: Settled) -> None:
        self._count(SETTLED, 1, self._name(event.method), event.became.value)

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
        self._measured(BATCH_SIZE, event.size)
        self._measured(BATCH_DURATION, event.seconds)

    def _swept(self, event: Swept) -> None:
        self._count(SWEPT, event.deleted)

    # The counters

    def _count(self, instrument: Instrument, by: int, *key: str) -> None:
        with self._lock:
            counts = self._counts[instrument]
            counts[key] = counts.get(key, 0) + by

    def _measured(self, instrument: Instrument, value: float, *key: str) -> None:
        histogram = self._histograms[instrument]
        with self._lock:
            series = histogram.add(key, value)
        histogram.pass_on(value, series)

    def _name(self, method: str) -> str:
        """Returns the attribute of a method."""
        return self._methods.get(method) or self._new(method)

    def _new(self, method: str) -> str:
        """Returns the attribute of a method that is not known yet, and knows it from now on if there is room."""
        with self._lock:
            if method not in self._methods:
                if len(self._methods) >= self._most:
                    return OTHER
                self._start(method.removeprefix("/"))
                self._methods[method] = method.removeprefix("/")
            return self._methods[method]

    def _start(self, name: str) -> None:
        """Begins a method's counters at 0 where alerts look at their increase: the first one has to be an increase."""
        calls = self._counts[CALLS]
        calls[name, Status.UNPROTECTED.value, Code.OK.name, ""] = 0
        for reason in (Reason.STORE_UNAVAILABLE, Reason.KEY_REUSED):
            calls[name, "refused", reason.status.name, reason.name] = 0
        self._counts[SETTLED][name, Became.LOST.value] = 0
        self._counts[TAKEOVERS][name,] = 0


def status_of(event: CallAnswered) -> str:
    """Returns how a call was answered, as in the attribute ``STATUS``.

    Args:
        event: The end of the call.
    """
    if event.status is not None:
        return event.status.value
    if event.reason is not None:
        return "refused"
    return "unkeyed" if event.operation is None else "cancelled"


def _error_of(event: CallAnswered) -> str:
    if event.reason is not None:
        return event.reason.name
    return "" if event.code is Code.OK else _CODES[event.code]


class _Histogram:
    """The distributions of one instrument."""

    __slots__ = ("_instrument", "recorders", "series")

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self.series: dict[_Key, _Series] = {}
        self.recorders: tuple[Recorder, ...] = ()

    def add(self, key: _Key, value: float) -> "_Series":
        """Counts a value, under the lock, and returns its series."""
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = _Series(self._instrument, key)
        series.counts[bisect_left(self._instrument.bounds, value)] += 1
        series.sum += value
        return series

    def pass_on(self, value: float, series: "_Series") -> None:
        """Passes a value to the recorders, without the lock."""
        for record in self.recorders:
            record(value, series.attributes)


class _Series:
    """A distribution that grows."""

    __slots__ = ("attributes", "counts", "sum")

    def __init__(self, instrument: Instrument, key: _Key) -> None:
        self.attributes = _attributes(instrument, key)
        self.counts = [0] * (len(instrument.bounds) + 1)
        self.sum = 0.0


def _attributes(instrument: Instrument, key: _Key) -> Mapping[str, str]:
    pairs = zip(instrument.attributes, key, strict=True)
    return MappingProxyType({name: value for name, value in pairs if value})


_CODES = {code: code.name for code in Code}
