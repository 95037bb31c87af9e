"""What a run knows of its operation's steps: which are finished, which were asked for, how to undo them (5.2)."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from grpc_idempotency._codec import decode, encode
from grpc_idempotency.errors import StepMisuse, TransactionMisuse
from grpc_idempotency.records import Step

logger = logging.getLogger("grpc_idempotency")

UNDO = "undo:"
"""What the name of an undo's own step begins with."""
_RESERVED = ("!", UNDO)


class Unwinding(BaseException):
    """Ends a run that is only to make known how to undo its finished steps, where the first unfinished one would begin.

    It is no Exception, so that a handler that catches those does not take it for a failure of its step.
    """


class Undo(NamedTuple):
    """How a step is undone."""

    fn: Callable[..., Any]
    transaction: bool
    """Whether ``fn(db, result)`` runs in a transaction, as the step did; else it is ``fn(result)``."""


class Steps:
    """The steps of one run."""

    def __init__(self, finished: Sequence[Step], *, unwinds: bool) -> None:
        self._finished = {step.name: step for step in finished if not step.name.startswith("!")}
        self._unwinds = unwinds
        self._asked: dict[str, Undo | None] = {}
        self._done = 0
        """How many steps are finished in this run, by running or by being known."""
        self._running: set[str] = set()
        self._over = False
        # Of concurrent steps nobody can say which comes first, and so not that one came in another order.
        self._in_order = len({step.position for step in finished}) == len(finished)

    def __bool__(self) -> bool:
        """Whether any step is finished, in this run or one before, or was begun and may be: nobody knows otherwise."""
        return bool(self._finished) or bool(self._asked)

    def ask(self, name: str, undo: Undo | None) -> Step | None:
        """Begins a step; the finished one, if it is. Raises :class:`StepMisuse` and :class:`Unwinding`."""
        if not name or name.startswith(_RESERVED):
            raise StepMisuse(f"{name!r} can't be a step's name: it is empty, or begins with {' or '.join(_RESERVED)}")
        if self._over:
            raise StepMisuse(f"step {name!r} can't begin any more: the handler has ended")
        if name in self._asked:
            raise StepMisuse(f"there are two steps {name!r} in one run: each needs a name of its own")
        step = self._finished.get(name)
        if step is None:
            self.check_winding()
        if step is not None and self._in_order and step.position != self._done:
            raise StepMisuse(
                f"step {name!r} was number {step.position + 1} in an earlier run and is number {self._done + 1} in "
                "this one: the steps of an operation have to come in the same order in every run"
            )
        self._asked[name] = undo
        return step

    @contextmanager
    def running(self, name: str) -> Iterator[Callable[[object], Step]]:
        """While a step runs; gives what makes a finished step of its result."""
        position = self._done
        if self._running:
            position = self._done - 1 if self._done else 0  # shares its number: concurrent
        self._running.add(name)
        undoable = self._asked.get(name) is not None
        try:
            yield lambda result: Step(name=name, position=position, result=_kept(name, result), undoable=undoable)
        finally:
            self._running.discard(name)

    def finish(self, step: Step) -> Any:
        """The step is kept, now or since an earlier run; its result, the same that every later run will get."""
        self._finished[step.name] = step
        self._done += 1
        return decode(step.result)

    def check_reply(self) -> None:
        """The handler's transaction is about to commit its reply. Raises :class:`TransactionMisuse` within a step."""
        if self._running:
            raise TransactionMisuse(
                "a transaction of the handler's own commits the operation's reply, and one of its steps is still "
                "running: a step's rows are kept with step(name, fn, transaction=True)"
            )
        self.check_winding()

    def check_winding(self) -> None:
        """Raises :class:`Unwinding` in a run that may have no reply."""
        if self._unwinds:
            raise Unwinding

    def to_undo(self) -> list[tuple[str, Undo, Any]]:
        """Name, undo and result of the finished steps that are still to be undone, the last first.

        Raises :class:`StepMisuse` when one is finished whose undo this run has not made known.
        """
        left = [
            step
            for step in self._finished.values()
            if step.undoable and UNDO + step.name not in self._finished and not step.name.startswith(UNDO)
        ]
        undos: list[tuple[str, Undo, Any]] = []
        for step in reversed(left):
            undo = self._asked.get(step.name)
            if undo is None:
                raise StepMisuse(f"step {step.name!r} has to be undone, but the handler has not come to it in this run")
            undos.append((UNDO + step.name, undo, decode(step.result)))
        return undos

    def end(self) -> bool:
        """The handler has ended, and no further step begins. Whether all that were begun have ended too."""
        self._over = True
        return not self._running

    def forgotten(self) -> list[str]:
        """The finished steps that this run has not come to: its handler took another path."""
        return [name for name in self._finished if name not in self._asked and not name.startswith(UNDO)]


def _kept(name: str, result: object) -> bytes:
    """What is kept of a result: of an undo's nothing, since nobody will get it."""
    return encode(None if name.startswith(UNDO) else result)
