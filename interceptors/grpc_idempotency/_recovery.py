"""Finishing operations whose server is gone, or that wait, without their client (5.4): what both kinds share."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import grpc

from grpc_idempotency._admission import NotAdmitted, read
from grpc_idempotency._context import Snapshot
from grpc_idempotency._effects import Call
from grpc_idempotency._methods import Methods
from grpc_idempotency._run import Target
from grpc_idempotency.records import Record

logger = logging.getLogger("grpc_idempotency")

EVERY = 2.0
"""Seconds between two looks for operations to finish, jittered."""
MOST_AT_ONCE = 16
"""How many operations a server finishes for others at one time."""
MOST_CUT_SHORT = 20
"""An operation whose runs were cut short so often takes its server down, most likely: it is left to its client."""


class _Details(NamedTuple):
    method: str
    invocation_metadata: Sequence[tuple[str, str | bytes]]


class Recoverable(NamedTuple):
    """An operation that can be run: its call, its handler, and what that is given."""

    call: Call
    target: Target
    messages: Sequence[Any]
    snapshot: Snapshot


class Recovery:
    """Which operations this server can finish, and how their handlers are found again."""

    def __init__(self, methods: Methods, names: Iterable[str], handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._methods = methods
        self._handlers = handlers
        self.names = [name for name in names if not methods[name].passes and methods[name].policy.recovers]
        """The methods whose operations are finished here."""

    def take(self, records: Iterable[Record], has: Callable[[bytes], bool]) -> list[Recoverable]:
        """What can be run of these records; ``has`` tells which operations are on their way in this process."""
        taken = (self._prepare(one) for one in records if not has(one.name) and _cut_short(one) < MOST_CUT_SHORT)
        return [one for one in taken if one is not None]

    def _prepare(self, record: Record) -> Recoverable | None:
        assert record.request is not None
        handler = self._find(record)
        if handler is None:
            return None
        method = self._methods[record.method]
        target = Target.of(handler, method)
        snapshot = Snapshot.of_nobody(record.method, record.request.metadata)
        try:
            messages = read(target, record.request.messages)
        except NotAdmitted:
            return None
        logger.info("finishing operation %s of %s without its client", record.name.hex(), record.method)
        call = Call(
            record.name,
            record.method,
            record.fingerprint,
            method.policy,
            time.monotonic(),
            target.response_streams,
            record.request.principal,
            record.request,
        )
        return Recoverable(call, target, messages, snapshot)

    def _find(self, record: Record) -> "grpc.RpcMethodHandler[Any, Any] | None":
        assert record.request is not None
        details: Any = _Details(record.method, record.request.metadata)
        found = (handler.service(details) for handler in self._handlers)
        return next((handler for handler in found if handler is not None), None)


def _cut_short(record: Record) -> int:
    """How many of its runs came to no end; those that failed in a way that may pass did."""
    return record.attempts - record.tries
