"""Finishing operations whose server is gone, or that wait, without their client (5.4): what both kinds share."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
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
        self._left: set[bytes] = set()
        """Those that are not: told once, and not to stand in the way of others."""
        self._begun: set[bytes] = set()
        """Those that were begun here, as far as they are still under way."""

    @property
    def limit(self) -> int:
        """How many records to ask the store for, the oldest ones first."""
        return MOST_AT_ONCE + len(self._left)

    def take(self, records: Sequence[Record], has: Callable[[bytes], bool]) -> list[Recoverable]:
        """What can be run of these records; ``has`` tells which operations are on their way in this process."""
        self._left &= {one.name for one in records}
        self._begun = {name for name in self._begun if has(name)}
        taken = (self._prepare(one) for one in records if one.name not in self._left and not has(one.name))
        found = list(islice((one for one in taken if one is not None), MOST_AT_ONCE - len(self._begun)))
        self._begun.update(one.call.name for one in found)
        return found

    def _prepare(self, record: Record) -> Recoverable | None:
        if _cut_short(record) < MOST_CUT_SHORT:
            try:
                return self._found(record)
            except NotAdmitted:
                why = "its request can't be read"
            except Exception:
                logger.exception("the handler of %s could not be found again", record.method)
                why = "its handler could not be found"
        else:
            why = f"{_cut_short(record)} runs of it were cut short"
        self._left.add(record.name)
        logger.error("operation %s of %s is left to its client: %s", record.name.hex(), record.method, why)
        return None

    def _found(self, record: Record) -> Recoverable:
        assert record.request is not None
        snapshot = Snapshot.of_nobody(record.method, record.request.metadata)
        handler = self._find(record.method, snapshot.caller.metadata)
        method = self._methods[record.method]
        target = Target.of(handler, method)
        messages = [read(target, raw) for raw in record.request.messages]
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

    def _find(self, method: str, metadata: Any) -> "grpc.RpcMethodHandler[Any, Any]":
        details: Any = _Details(method, metadata)
        found = (handler.service(details) for handler in self._handlers)
        return next(handler for handler in found if handler is not None)


def _cut_short(record: Record) -> int:
    """How many of its runs came to no end; those that failed in a way that may pass did."""
    return record.attempts - record.tries
