"""The metrics of the library: their names, kinds, units and attributes, after OpenTelemetry where it has any."""

import enum
from dataclasses import dataclass

METHOD = "rpc.method"
"""The attribute with the full method name, ``package.Service/Method``, or ``OTHER``."""
STATUS = "grpc_idempotency.status"
"""The attribute that says how a call was answered: ``executed``, ``replayed``, ``attached``, ``unprotected`` or
``refused``, as in the trailer ``idempotency-status``; ``cancelled``, if its client has gone away; or ``unkeyed``."""
CODE = "rpc.response.status_code"
"""The attribute with the name of the answer's status code."""
ERROR = "error.type"
"""The attribute with the reason of a refusal, or the name of another answer's status code that is not OK."""
ENDING = "grpc_idempotency.ending"
"""The attribute that says how a handler's run has ended: the values of ``events.Ending``."""
FATE = "grpc_idempotency.fate"
"""The attribute with the decision of recovery: the values of ``events.Fate``."""
FOR_GOOD = "grpc_idempotency.for_good"
"""The attribute that says whether a run whose lease was lost still counts: ``true`` if it does not."""
STATE = "grpc_idempotency.state"
"""The attribute with the state of records: the values of ``State``."""

OTHER = "_OTHER"
"""The method's name where there are more methods than are told apart."""


class Kind(enum.Enum):
    """The kind of an instrument."""

    COUNTER = "counter"
    """A number that only grows."""
    UP_DOWN = "up-down counter"
    """A number whose sum over all processes is meaningful."""
    GAUGE = "gauge"
    """A number that all processes on one store tell alike."""
    HISTOGRAM = "histogram"
    """A distribution of values."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instrument:
    """The description of a metric."""

    name: str
    """The name after OpenTelemetry, such as ``grpc_idempotency.calls``."""
    kind: Kind
    """The kind."""
    unit: str
    """The unit, in UCUM: ``s``, or what is counted, in braces."""
    description: str
    """What is counted or measured."""
    attributes: tuple[str, ...] = ()
    """The names of the attributes."""
    bounds: tuple[float, ...] = ()
    """The inclusive upper bounds of a histogram's buckets; the last bucket has none."""


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

CALLS = Instrument(
    name="grpc_idempotency.calls",
    kind=Kind.COUNTER,
    unit="{call}",
    description="Calls that were answered, of methods whose calls may have a key.",
    attributes=(METHOD, STATUS, CODE, ERROR),
)
CALL_DURATION = Instrument(
    name="grpc_idempotency.call.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="Time from a call's arrival at the interceptor to its answer.",
    attributes=(METHOD, STATUS),
    bounds=_SECONDS,
)
EXECUTIONS = Instrument(
    name="grpc_idempotency.executions",
    kind=Kind.COUNTER,
    unit="{execution}",
    description="Runs of handlers of keyed calls that have ended.",
    attributes=(METHOD, ENDING),
)
EXECUTIONS_ACTIVE = Instrument(
    name="grpc_idempotency.executions.active",
    kind=Kind.UP_DOWN,
    unit="{execution}",
    description="Handlers of keyed calls that are running in this process.",
    attributes=(METHOD,),
)
TAKEOVERS = Instrument(
    name="grpc_idempotency.takeovers",
    kind=Kind.COUNTER,
    unit="{takeover}",
    description="Runs of operations whose earlier run was cut short, or failed in a way that may pass.",
    attributes=(METHOD,),
)
LEASES_LOST = Instrument(
    name="grpc_idempotency.leases.lost",
    kind=Kind.COUNTER,
    unit="{lease}",
    description="Leases that ended while their operations ran in this process.",
    attributes=(METHOD, FOR_GOOD),
)
RECOVERED = Instrument(
    name="grpc_idempotency.recovered",
    kind=Kind.COUNTER,
    unit="{operation}",
    description="Lapsed operations about which recovery has decided.",
    attributes=(METHOD, FATE),
)
RECORDS = Instrument(
    name="grpc_idempotency.records",
    kind=Kind.GAUGE,
    unit="{operation}",
    description="Operations in the store, of all processes.",
    attributes=(METHOD, STATE),
)
REPLAY_AGE = Instrument(
    name="grpc_idempotency.replay.age",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="Age of the outcomes that were replayed.",
    attributes=(METHOD,),
    bounds=(0.1, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0, 259200.0),
)
BATCH_SIZE = Instrument(
    name="grpc_idempotency.store.batch.size",
    kind=Kind.HISTOGRAM,
    unit="{request}",
    description="Requests that the store's writer has written in one transaction or pipeline.",
    bounds=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0),
)
BATCH_DURATION = Instrument(
    name="grpc_idempotency.store.batch.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="Time that one transaction or pipeline of the store's writer took.",
    bounds=_SECONDS,
)
SWEPT = Instrument(
    name="grpc_idempotency.swept",
    kind=Kind.COUNTER,
    unit="{operation}",
    description="Expired operations that sweeps of this process have deleted.",
)

INSTRUMENTS: tuple[Instrument, ...] = (
    CALLS,
    CALL_DURATION,
    EXECUTIONS,
    EXECUTIONS_ACTIVE,
    TAKEOVERS,
    LEASES_LOST,
    RECOVERED,
    RECORDS,
    REPLAY_AGE,
    BATCH_SIZE,
    BATCH_DURATION,
    SWEPT,
)
"""All metrics of the library."""
