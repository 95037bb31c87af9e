"""Threads that run timers, apart from the server's: for limits, polls, sweeps and recovery."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from grpc_idempotency._jitter import uniform
from grpc_idempotency._protocol.effects import Effect, Pause, Plan
from grpc_idempotency._server.drive import Perform
from grpc_idempotency.errors import IdempotencyError

logger = logging.getLogger("grpc_idempotency")
T = TypeVar("T")


class Keeper:
    """Runs timers in a daemon thread, one after another. The thread starts with the first timer.

    Args:
        what: The last part of the thread's name.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Schedules a callback after ``seconds``. If the thread can't be started now, the callback runs once it can."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), do))
            if self._due[0][2] is do:
                self._changed.notify()
        try:
            self.start()
        except RuntimeError as exc:
            logger.warning("what is to be done at its time has to wait: %s", exc)

    def start(self) -> None:
        """Starts the thread, unless there is one.

        Raises:
            RuntimeError: No thread can be started.
        """
        if self._thread is None:
            with self._changed:
                self._start()

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._run, name=f"grpc-idempotency-{self._what}", daemon=True)
            thread.start()
            self._thread = thread  # set only now: if the thread could not be started, the next call tries again

    def carry(
        self,
        plan: Plan[T],
        perform: Perform,
        then: Callable[[T], None] = lambda _: None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """Runs a plan in the keeper's thread, which is free for other timers while the plan pauses.

        Args:
            plan: The plan.
            perform: Performs an effect.
            then: Called with the plan's result.
            failed: Called if the plan raises.
        """

        def step(resume: Callable[[], Effect[Any]]) -> None:
            try:
                effect = resume()
                while not isinstance(effect, Pause):
                    try:
                        reply = perform(effect)
                    except IdempotencyError as exc:
                        effect = plan.throw(exc)
                    else:
                        effect = plan.send(reply)
            except StopIteration as done:
                then(done.value)
                return
            except Exception:
                failed()
                raise
            self.later(jittered(effect.seconds), lambda: step(lambda: plan.send(None)))

        self.later(0.0, lambda: step(lambda: next(plan)))

    def close(self) -> None:
        """Ends the thread, after what it is doing now."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while (do := self._next()) is not None:
            try:
                do()
            except Exception:
                logger.exception("something that was to be done at its time failed")

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                    continue
                return heapq.heappop(self._due)[2]
            return None


def jittered(seconds: float) -> float:
    """Returns ``seconds`` with jitter, so that processes do not act in step."""
    return seconds * uniform(0.5, 1.5)
