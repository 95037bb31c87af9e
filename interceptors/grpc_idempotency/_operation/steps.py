"""The steps of an operation as one run knows them: finished ones, those the handler came to, and their undos (5.2)."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from grpc_idempotency._operation.values import decode, encode
from grpc_idempotency.errors import StepMisuse, TransactionMisuse
from grpc_idempotency.records import Step

logger = logging.getLogger("grpc_idempotency")

UNDO = "undo:"
"""The prefix of the name of an undo's own step."""

BESIDE = -1
"""The position of a step that ran in a task or thread which the handler had started."""


class Unwinding(BaseException):
    """Ends a run that only collects the undos of finished steps. Raised where its first unfinished step would begin.

    It is no :class:`Exception`, so that a handler which catches those does not take it for a failure of its step.
    """


class Undo(NamedTuple):
    """How a step is undone."""

    fn: Callable[..., Any]
    transaction: bool
    """True if ``fn(db, result)`` runs in a transaction, as the step did; otherwise ``fn(result)`` is called."""


class Steps:
    """The steps of one run.

    Other threads of a ``def`` handler may have steps at the same time. So callers on threads hold the operation's lock
    when they begin, finish or end a step, and when they ask whether steps are running or missing. They need no lock for
    :meth:`made` and :meth:`check_reply`, which change nothing, nor to undo steps, when no step runs any more.
    """

    def __init__(self, finished: Sequence[Step], *, unwinds: bool) -> None:
        self._finished = {step.name: step for step in finished}
        self._unwinds = unwinds
        self._asked: dict[str, Undo | None] = {}
        self._running: dict[str, int] = {}
        """The position of each running step."""
        self._latest: tuple[int, str] = (-1, "")
        """The highest position that the handler itself has come to, and its step."""
        self.closed = False
        """True once the handler has ended, so that no further step begins."""

    @property
    def running(self) -> bool:
        """True if a step is running."""
        return bool(self._running)

    def begin(self, name: str, undo: Undo | None, *, beside: bool) -> Step | None:
        """Begins a step.

        Args:
            name: The step's name.
            undo: How it is undone, if it can be.
            beside: True if the caller is another task or thread than the handler's.

        Returns:
            The finished step if it is finished, so that it does not run again; else ``None``.

        Raises:
            StepMisuse: Such a step is not allowed now.
            Unwinding: The step is not finished, and this run only collects undos.
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
        if self.closed:
            raise StepMisuse(f"step {name!r} can't begin any more: the handler has ended")
        if name in self._asked:
            raise StepMisuse(f"there are two steps {name!r} in one run: each needs a name of its own")

    def _check_order(self, name: str, position: int) -> None:
        """Checks that the handler's own steps come in the order of earlier runs. Other steps have no order.

        Raises:
            StepMisuse: This step comes in another order.
        """
        latest, other = self._latest
        if position < latest:
            raise StepMisuse(
                f"step {name!r} came before step {other!r} in an earlier run and comes after it in this one: the steps "
                "of an operation have to come in the same order in every run, unless they are concurrent"
            )
        self._latest = position, name

    def begin_undo(self, name: str) -> None:
        """Begins an undo. Its name comes from :meth:`to_undo`."""
        self._running[name] = BESIDE

    def made(self, name: str, result: object) -> Step:
        """Returns the finished step that a running one becomes with this result.

        Raises:
            StepMisuse: The result can't be kept.
        """
        undoable = self._asked.get(name) is not None
        return Step(name=name, position=self._running[name], result=_kept(name, result), undoable=undoable)

    def finish(self, step: Step) -> Any:
        """Notes that a step is finished, now or since an earlier run.

        Returns:
            Its result, as every later run will get it.
        """
        self._finished[step.name] = step
        return decode(step.result)

    def ended(self, name: str) -> None:
        """Notes that a step or an undo is not running any more."""
        del self._running[name]

    def check_reply(self) -> None:
        """Checks that a transaction of the handler may commit the reply now.

        Raises:
            TransactionMisuse: A step is running.
            Unwinding: This run only collects undos.
        """
        if self._running:
            raise TransactionMisuse(
                "a transaction of the handler's own commits the operation's reply, and one of its steps is still "
                "running: a step's rows are kept with step(name, fn, transaction=True)"
            )
        self.check_winding()

    def check_winding(self) -> None:
        """Checks that this run may begin a step or have a reply.

        Raises:
            Unwinding: This run only collects undos.
        """
        if self._unwinds:
            raise Unwinding

    def learn(self, kept: Sequence[Step]) -> list[Step]:
        """Adds the steps that the store has, in its order. One may be kept though the answer to its run was lost.

        Returns:
            The finished steps that the store does not have, since it could not be asked to keep them.
        """
        finished, self._finished = self._finished, {step.name: step for step in kept} | self._finished
        names = {step.name for step in kept}
        return [step for step in finished.values() if step.name not in names]

    def missing(self, *, beside: bool) -> bool:
        """True if another task or thread than the caller may still reach a finished step.

        Asked in a run that collects undos, when the caller has come to an unfinished step. If the caller is the handler
        itself, it will reach no further step.

        Args:
            beside: True if the caller is another task or thread than the handler's.
        """
        return any(
            step.name not in self._asked and (beside or step.position == BESIDE) for step in self._left_to_undo()
        )

    def to_undo(self) -> list[tuple[str, Undo, Any]]:
        """Returns the undo's name, the undo and the result of each finished step to undo, in reverse order.

        Raises:
            StepMisuse: This run did not come to a finished step, so that its undo is unknown.
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
        """Returns the names of the finished steps that this run has not come to: its handler took another path."""
        return [name for name in self._finished if name not in self._asked and not name.startswith(UNDO)]


def undone_by(name: str) -> str | None:
    """Returns the name of the step that the step of this name has undone; ``None`` if it is no undo."""
    return name[len(UNDO) :] if name.startswith(UNDO) else None


def _kept(name: str, result: object) -> bytes:
    """Returns the bytes that are kept of a result. The result of an undo is not kept, since nothing reads it."""
    return encode(None if name.startswith(UNDO) else result)
