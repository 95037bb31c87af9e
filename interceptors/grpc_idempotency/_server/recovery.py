"""Operations whose server is gone, or that wait, without their clients (5.4): what both kinds of server share.

Those that are safe to run again are finished. Those in doubt are held, so that an operator sees them.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import grpc

from grpc_idempotency._methods.resolve import Methods
from grpc_idempotency._protocol.effects import Call, Effect, Fate, Hold, Tell
from grpc_idempotency._protocol.rules import fate
from grpc_idempotency._server.admission import NotAdmitted, process_name, read
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.drive import Perform
from grpc_idempotency._server.target import Target
from grpc_idempotency.records import Record

logger = logging.getLogger("grpc_idempotency")

EVERY = 2.0
"""Seconds between two looks for such operations, jittered."""
MOST_AT_ONCE = 16
"""How many operations a server finishes for others at one time, and about how many it reads in one look."""
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


class Found(NamedTuple):
    """What is to be done after one look."""

    in_doubt: list[Record]
    """What has to be held."""
    to_run: list[Recoverable]


class Recovery:
    """Which operations this server can finish or has to hold, and how their handlers are found again."""

    def __init__(self, methods: Methods, names: Iterable[str], handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._methods = methods
        self._handlers = handlers
        self.names = [name for name in names if not methods[name].passes]
        """The methods whose operations are looked for."""
        self._left: set[bytes] = set()
        """The operations that are left to their clients: told once."""
        self._begun: set[bytes] = set()
        """Those that were begun here, as far as they are still under way."""
        self._passed_over = 0
        """How many of the last look were nothing to be done about here: they must not stand in the way of others."""

    @property
    def limit(self) -> int:
        """How many records to ask the store for."""
        return MOST_AT_ONCE + self._passed_over

    def take(self, records: Sequence[Record], has: Callable[[bytes], bool]) -> Found:
        """Tells what is to be done with these records.

        Args:
            records: What the store says is pending.
            has: Tells whether an operation is on its way in this process.
        """
        self._left &= {one.name for one in records}
        self._begun = {name for name in self._begun if has(name)}
        ours = [one for one in records if one.name not in self._left and not has(one.name)]
        in_doubt = [one for one in ours if self._fate(one) is Fate.HOLD]
        taken = (self._prepare(one) for one in ours if self._fate(one) is not Fate.HOLD)
        to_run = list(islice((one for one in taken if one is not None), MOST_AT_ONCE - len(self._begun)))
        self._begun.update(one.call.name for one in to_run)
        self._passed_over = sum(one.name in self._left or has(one.name) for one in records)
        return Found(in_doubt, to_run)

    def _fate(self, record: Record) -> Fate:
        return fate(record, self._methods[record.method].policy)

    def _prepare(self, record: Record) -> Recoverable | None:
        if self._fate(record) is Fate.LEAVE:
            why = "its method does not recover any more"
        elif _cut_short(record) < MOST_CUT_SHORT:
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
            record,
            process_name(),
        )
        return Recoverable(call, target, messages, snapshot)

    def _find(self, method: str, metadata: Any) -> "grpc.RpcMethodHandler[Any, Any]":
        details: Any = _Details(method, metadata)
        found = (handler.service(details) for handler in self._handlers)
        return next(handler for handler in found if handler is not None)


def holding(store: Any, record: Record) -> Perform:
    """Performs the plan that holds a record; on asyncio the store's replies are awaitables."""

    def perform(effect: Effect[Any]) -> Any:
        match effect:
            case Hold(name, fence, reason, lapsed_only):
                return store.hold(name, fence, reason, lapsed_only=lapsed_only)
            case Tell(event):
                return logger.warning(event.value, record.name.hex(), record.method)
            case _:
                raise AssertionError(f"recovery does not perform {effect!r}")

    return perform


def _cut_short(record: Record) -> int:
    """How many of its runs came to no end; those that failed in a way that may pass did."""
    return record.attempts - record.tries - record.undo_tries
