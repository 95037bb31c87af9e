"""Tells events to the observers of one interceptor, and to the log."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar, get_args

from grpc_idempotency import _checks
from grpc_idempotency._server.log import log
from grpc_idempotency.errors import PolicyError
from grpc_idempotency.events import (
    BatchCommitted,
    CallAnswered,
    Claimed,
    Event,
    ExecutionEnded,
    ExecutionStarted,
    Observer,
    RecordsCounted,
    RecoveryEnded,
    RecoveryStarted,
    Settled,
    StepFinished,
    StepUndone,
    StoreCalled,
)

E = TypeVar("E", bound=Event)
logger = logging.getLogger("grpc_idempotency")

_KINDS: Final[tuple[type[Event], ...]] = get_args(Event)
_TRACE = (25, 0)
"""How many bytes a trace context may have."""


class Observers:
    """The observers of one interceptor.

    For each class of frequent events there is an attribute: the function that tells such an event, or ``None`` if no
    observer wants it. So a call makes no event that nobody wants, and enters no function to find that out. The log
    wants only rare events, which :meth:`announce` tells.

    Args:
        given: The embedder's observers, in the order in which they are called.

    Raises:
        PolicyError: One of them is no plain function, or wants what is no class of events.
    """

    def __init__(self, given: Sequence[Observer] = ()) -> None:
        self._wanted = [(one, _kinds(one)) for one in _checks.plain_functions("observers", given)]
        self._failed: set[tuple[int, str]] = set()
        """The observers that have raised, each with what it was called for. Each is logged once."""
        self.call_answered = self._telling(CallAnswered)
        self.claimed = self._telling(Claimed)
        self.execution_started = self._telling(ExecutionStarted)
        self.execution_ended = self._telling(ExecutionEnded)
        self.recovery_started = self._telling(RecoveryStarted)
        self.recovery_ended = self._telling(RecoveryEnded)
        """Never ``None`` if ``execution_ended`` is not: who wants a class is told of its subclasses."""
        self.settled = self._telling(Settled)
        self.step_finished = self._telling(StepFinished)
        self.step_undone = self._telling(StepUndone)
        self.store_called = self._telling(StoreCalled)
        self.batch_committed = self._telling(BatchCommitted)
        self.records_counted = self._telling(RecordsCounted)
        tracing: Any = next((one for one, _ in self._wanted if hasattr(one, "trace")), None)
        self.trace: Callable[[], bytes] | None = None if tracing is None else self._tracing(tracing)
        """Returns the trace context of the current call, 25 bytes or none; ``None`` if no observer knows it."""

    def watch(self, running: Callable[[], Mapping[str, int]]) -> None:
        """Gives the observers that want it the function that tells which handlers run."""
        for one, _ in self._wanted:
            watcher: Any = one
            if hasattr(watcher, "watch"):
                watcher.watch(running)

    def announce(self, event: Event) -> None:
        """Writes a rare event to the log, and tells it to the observers that want it."""
        log(event)
        self._telling_to([one for one, kinds in self._wanted if isinstance(event, kinds)])(event)

    def _telling(self, kind: type[E]) -> Callable[[E], None] | None:
        wanting = [one for one, kinds in self._wanted if issubclass(kind, kinds)]
        return self._telling_to(wanting) if wanting else None

    def _telling_to(self, observers: Sequence[Observer]) -> Callable[[Event], None]:
        def tell(event: Event) -> None:
            for observer in observers:
                try:
                    observer(event)
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as exc:  # no error of an observer may end a call, or a thread
                    self._log_failure(observer, type(event).__name__, exc)

        return tell

    def _tracing(self, observer: Any) -> Callable[[], bytes]:
        def trace() -> bytes:
            try:
                found: bytes = observer.trace()
                if type(found) is not bytes or len(found) not in _TRACE:
                    raise ValueError(f"a trace context has {max(_TRACE)} bytes or none")
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as exc:
                self._log_failure(observer, "trace", exc)
                return b""
            return found

        return trace

    def _log_failure(self, observer: Any, what: str, error: BaseException) -> None:
        failure = id(observer), what
        if failure not in self._failed:
            self._failed.add(failure)
            logger.error(
                "the observer %r failed on %s; that is logged once, and no call fails", observer, what, exc_info=error
            )


def _kinds(observer: Any) -> tuple[type[Event], ...]:
    kinds = getattr(observer, "events", _KINDS)
    if not isinstance(kinds, Collection) or not all(one in _KINDS for one in kinds):
        raise PolicyError("the events of an observer must be a collection of classes of grpc_idempotency.events.")
    return tuple(kinds)
