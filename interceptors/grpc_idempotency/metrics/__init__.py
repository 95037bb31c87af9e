"""Counts what the interceptors of this process do, for whatever exports metrics.

A :class:`Metrics` is an observer: ``IdempotencyInterceptor(store, observers=[metrics])``. Several interceptors may
share one if they are on one store. ``grpc_idempotency.otel`` and ``grpc_idempotency.prometheus`` export what it has
counted; another exporter reads :meth:`Metrics.values` and :meth:`Metrics.distributions` of the ``INSTRUMENTS``.

Names, units and attributes follow OpenTelemetry, where it has a convention. No key, no principal and no operation is an
attribute of a metric.
"""

from grpc_idempotency.metrics._counting import Distribution, Metrics, Value, status_of
from grpc_idempotency.metrics._instruments import (
    BATCH_DURATION,
    BATCH_SIZE,
    CALL_DURATION,
    CALLS,
    CODE,
    ENDING,
    ERROR,
    EXECUTIONS,
    EXECUTIONS_ACTIVE,
    FATE,
    FOR_GOOD,
    INSTRUMENTS,
    LEASES_LOST,
    METHOD,
    OTHER,
    RECORDS,
    RECOVERED,
    REPLAY_AGE,
    STATE,
    STATUS,
    SWEPT,
    TAKEOVERS,
    Instrument,
    Kind,
)

__all__ = [
    "BATCH_DURATION",
    "BATCH_SIZE",
    "CALLS",
    "CALL_DURATION",
    "CODE",
    "ENDING",
    "ERROR",
    "EXECUTIONS",
    "EXECUTIONS_ACTIVE",
    "FATE",
    "FOR_GOOD",
    "INSTRUMENTS",
    "LEASES_LOST",
    "METHOD",
    "OTHER",
    "RECORDS",
    "RECOVERED",
    "REPLAY_AGE",
    "STATE",
    "STATUS",
    "SWEPT",
    "TAKEOVERS",
    "Distribution",
    "Instrument",
    "Kind",
    "Metrics",
    "Value",
    "status_of",
]

# Tracebacks, reprs and pickles then name the module that users import from.
for _public in (Distribution, Instrument, Kind, Metrics, Value, status_of):
    _public.__module__ = __name__
del _public
