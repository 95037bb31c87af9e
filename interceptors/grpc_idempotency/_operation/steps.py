"""What a run knows of its operation's steps: which are finished, which were asked for, how to undo them (5.2)."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from grpc_idempotency._operation.values import decode, encode
from grpc_idempotency.errors import StepMisuse, TransactionMisuse
from grpc_idempotency.records import Step

logger = logging.getLogger("grpc_idempotency")

UNDO = "undo:"
"""What the name of an undo's own step begins with."""

BESIDE = -1
"""The position of a step that ran in a task or thread which the handler had started."""


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
    """The steps of one run. On threads, whoever calls has locked them for himself."""

    def __init__(self, finished: Sequence[Step], *, unwinds: bool) -> None:
        self._finished = {step.name: step for step in finished}
        self._unwinds = unwinds
        self._asked: dict[str, Undo | None] = {}
        self._running: dict[str, int] = {}
        """The position of each step that runs."""
        self._latest: tuple[int, str] = (-1, "")
        """The highest position that the handler itself has come to, and its step."""
        self.over = False
        """Whether the handler has ended, so that no further step begins."""

    def __bool__(self) -> bool:
        """Whether any step is finished, in this run or one before, or was begun and may be: nobody knows otherwise."""
        return bool(self._finished) or bool(self._asked)

    @property
    def running(self) -> bool:
        """Whether a step runs."""
        return bool(self._running)

    def begin(self, name: str, undo: Undo | None, *, beside: bool) -> Step | None:
        """Begins a step, ``beside`` the handler where that has left it to another task or thread.

        Returns:
            The finished step, if it is: then it does not run.

        Raises:
            StepMisuse: if there can't be such a step now.
            Unwinding: if it would run in a run that only makes known how to undo.
        """
        self._check(name)
        step = self._finished.get(name)
        if step is None:
            self.check_winding()
        position = step.position if step is not None else BESIDE if beside else self._latest[0] + 1
        if not beside and position != BESIDE:
            self._check_order(name, position)
        self._asked[name] = undo
        if step is None:
            self._running[name] = position
        return step

    def _check(self, name: str) -> None:
        if not name or name.startswith(UNDO):
            raise StepMisuse(f"{name!r} can't be a step's name: it is empty, or begins with {UNDO}")
        if self.over:
            raise StepMisuse(f"step {name!r} can't begin any more: the handler has ended")
        if name in self._asked:
            raise StepMisuse(f"there are two steps {name!r} in one run: each needs a name of its own")

    def _check_order(self, name: str, position: int) -> None:
        """Sees to it that the handler's own steps come in the order of earlier runs; of others there is no order."""
        latest, other = self._latest
        if position < latest:
            raise StepMisuse(
                f"step {name!r} came before step {other!r} in an earlier run and comes after it in this one: the steps "
                "of an operation have to come in the same order in every run, unless they are concurrent"
            )
        self._latest = position, name

    def begin_undo(self, name: str) -> None:
        """Begins an undo, whose name :meth:`to_undo` has given."""
        self._running[name] = BESIDE

    def made(self, name: str, result: object) -> Step:
        """The finished step of a running one. Raises :class:`StepMisuse` where its result can't be kept."""
        undoable = self._asked.get(name) is not None
        return Step(name=name, position=self._running[name], result=_kept(name, result), undoable=undoable)

    def finish(self, step: Step) -> Any:
        """The step is finished, now or since an earlier run; its result, the same that every later run will get."""
        self._finished[step.name] = step
        return decode(step.result)

    def ended(self, name: str) -> None:
        """The step or undo does not run any more."""
        del self._running[name]

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

    def learn(self, finished: Sequence[Step]) -> None:
        """Takes over what the store has, in its order: a step may be there though its run did not hear so."""
        self._finished = {step.name: step for step in finished} | self._finished

    def missing(self, *, beside: bool) -> bool:
        """Whether a run that unwinds may still come to a finished step, in another task or thread than the caller's.

        The handler itself can't come to a step of its own any more where it asks for an unfinished one.
        """
        return any(
            step.name not in self._asked and (beside or step.position == BESIDE) for step in self._left_to_undo()
        )

    def to_undo(self) -> list[tuple[str, Undo, Any]]:
        """Name, undo and result of the finished steps that are still to be undone, the last first.

        Raises :class:`StepMisuse` when one is finished whose undo this run has not made known.
        """
        undos: list[tuple[str, Undo, Any]] = []
        for step in reversed(self._left_to_undo()):
            undo = self._asked.get(step.name)
            if undo is None:
                raise StepMisuse(f"step {step.name!r} has to be undone, but the handler has not come to it in this run")
            undos.append((UNDO + step.name, undo, decode(step.result)))
        return undos

    def _left_to_undo(self) -> list[Step]:
        return [
            step
            for step in self._finished.values()
            if step.undoable and UNDO + step.name not in self._finished and not step.name.startswith(UNDO)
        ]

    def forgotten(self) -> list[str]:
        """The finished steps that this run has not come to: its handler took another path."""
        return [name for name in self._finished if name not in self._asked and not name.startswith(UNDO)]


def _kept(name: str, result: object) -> bytes:
    """What is kept of a result: of an undo's nothing, since nobody will get it."""
    return encode(None if name.startswith(UNDO) else result)
