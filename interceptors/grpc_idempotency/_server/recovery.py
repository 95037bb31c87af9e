"""Recovery (5.4): the part that both wings share. It deals with lapsed operations without their clients.

Those that are safe to run again are finished. Those in doubt are held, so that an operator sees them. Those that
have had no effect, and can't be run again from here, are released.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import grpc

from grpc_idempotency._methods.resolve import Methods
from grpc_idempotency._protocol.effects import Call, Effect, Fate, Hold, Plan, Release, Tell, Told
from grpc_idempotency._protocol.rules import fate, hold_lapsed, release_lapsed
from grpc_idempotency._server.admission import NotAdmitted, process_name, read
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.drive import Perform
from grpc_idempotency._server.observers import Observers
from grpc_idempotency._server.target import Target
from grpc_idempotency.events import Held, Recovered
from grpc_idempotency.records import Record

logger = logging.getLogger("grpc_idempotency")

EVERY = 2.0
"""Seconds between two looks for lapsed operations, jittered."""
MOST_AT_ONCE = 16
"""How many operations a server recovers at the same time, and about how many records it reads in one look."""
MOST_CUT_SHORT = 20
"""After so many runs that were cut short, an operation is left to its client: most likely it crashes its server."""


class _Details(NamedTuple):
    method: str
    invocation_metadata: Sequence[tuple[str, str | bytes]]


class Recoverable(NamedTuple):
    """An operation that can be run: its call, its handler, and the handler's input."""

    call: Call
    target: Target
    messages: Sequence[Any]
    snapshot: Snapshot


class Found(NamedTuple):
    """The operations to deal with after one look."""

    to_settle: list[tuple[Record, Plan[bool]]]
    """The records to hold or release, each with the plan that does it."""
    to_run: list[Recoverable]
    """The operations to run."""


class Recovery:
    """Decides which lapsed operations this server runs, holds or releases, and finds their handlers."""

    def __init__(
        self,
        methods: Methods,
        names: Iterable[str],
        handlers: Sequence[grpc.GenericRpcHandler],
        observers: Observers,
    ) -> None:
        self._methods = methods
        self._observers = observers
        self._handlers = handlers
        self.names = [name for name in names if not methods[name].passes]
        """The methods whose operations it looks for."""
        self._left: set[bytes] = set()
        """The operations that are left to their clients. Each is logged once."""
        self._begun: set[bytes] = set()
        """The operations that recovery began here, and that are still under way."""
        self._lapsed_since: dict[bytes, float] = {}
        """By fence, when each record that is to be released was first seen lapsed; seconds of ``time.monotonic``."""
        self._passed_over = 0
        """How many records of the last look need nothing from this server. The next look asks for so many more."""

    @property
    def limit(self) -> int:
        """How many records to ask the store for."""
        return MOST_AT_ONCE + self._passed_over

    def take(self, records: Sequence[Record], has: Callable[[bytes], bool]) -> Found:
        """Decides what to do with these records.

        Args:
            records: The pending records, as the store gave them.
            has: Returns whether an operation has an execution in this process.
        """
        self._left &= {one.name for one in records}
        self._begun = {name for name in self._begun if has(name)}
        ours = [one for one in records if one.name not in self._left and not has(one.name)]
        without_effect = {one.fence for one in ours if self._fate(one) is Fate.RELEASE}
        self._lapsed_since = {fence: self._lapsed_since.get(fence, time.monotonic()) for fence in without_effect}
        to_settle = [(one, hold_lapsed(one)) for one in ours if self._fate(one) is Fate.HOLD]
        to_release = (one for one in ours if one.fence in without_effect and self._is_long_lapsed(one))
        to_settle += [(one, release_lapsed(one)) for one in to_release]
        taken = (self._prepare(one) for one in ours if self._fate(one) in (Fate.RUN, Fate.LEAVE))
        to_run = list(islice((one for one in taken if one is not None), MOST_AT_ONCE - len(self._begun)))
        self._begun.update(one.call.name for one in to_run)
        passed_over = (one.name in self._left or has(one.name) or one.fence in without_effect for one in records)
        self._passed_over = sum(passed_over)
        return Found(to_settle, to_run)

    def _is_long_lapsed(self, record: Record) -> bool:
        """True if a record that is to be released has been lapsed for one lease longer.

        Nobody waits for this: a retry takes the record over at once. But an owner that is only slow, as all are after
        their store was away, could still renew its lease; a release would roll its work back.
        """
        lease = self._methods[record.method].policy.lease
        return time.monotonic() - self._lapsed_since[record.fence] >= lease.total_seconds()

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
        self._observers.announce(Recovered(method=record.method, operation=record.name, fate=Fate.LEAVE, reason=why))
        return None

    def _found(self, record: Record) -> Recoverable:
        assert record.request is not None
        snapshot = Snapshot.of_nobody(record.method, record.request.metadata)
        handler = self._find(record.method, snapshot.caller.metadata)
        method = self._methods[record.method]
        target = Target.of(handler, method)
        messages = [read(target, raw) for raw in record.request.messages]
        self._observers.announce(Recovered(method=record.method, operation=record.name, fate=Fate.RUN, reason=""))
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
            trace=record.trace,
        )
        return Recoverable(call, target, messages, snapshot)

    def _find(self, method: str, metadata: Any) -> "grpc.RpcMethodHandler[Any, Any]":
        details: Any = _Details(method, metadata)
        found = (handler.service(details) for handler in self._handlers)
        return next(handler for handler in found if handler is not None)


def settling(store: Any, record: Record, observers: Observers) -> Perform:
    """Returns the function that performs the effects of the plan that holds or releases a record.

    On asyncio the store's replies are awaitables.
    """

    def tell(effect: Tell) -> None:
        method, operation, held = record.method, record.name, effect.told is Told.HELD
        if held:
            observers.announce(Held(method=method, operation=operation, reason=effect.reason))
        fate = Fate.HOLD if held else Fate.RELEASE
        observers.announce(Recovered(method=method, operation=operation, fate=fate, reason=""))

    def perform(effect: Effect[Any]) -> Any:
        match effect:
            case Hold(name, fence, reason, lapsed_only):
                return store.hold(name, fence, reason, lapsed_only=lapsed_only)
            case Release(name, fence, lapsed_only):
                return store.release(name, fence, lapsed_only=lapsed_only)
            case Tell():
                return tell(effect)
            case _:
                raise AssertionError(f"recovery does not perform {effect!r}")

    return perform


def _cut_short(record: Record) -> int:
    """Returns how many of an operation's runs were cut short: all that did not fail in a way that may pass."""
    return record.attempts - record.failed_runs - record.failed_undos
