"""The one poll of an interceptor for runs in other processes, which all of its waiting calls share (4.3)."""

import logging
import threading
import time
from collections.abc import Collection
from typing import Any

from grpc_idempotency._protocol.effects import AwaitedRun, AwaitedRuns, Effect, EndWaits, Pause, ReadStandings
from grpc_idempotency._protocol.rules import poll
from grpc_idempotency._server.drive import drive
from grpc_idempotency._server.subscribing import subscribe
from grpc_idempotency._server.sync.keeper import Keeper, jittered
from grpc_idempotency.store import Store

logger = logging.getLogger("grpc_idempotency")


class _Wait:
    """The wait for one run, which several calls may share."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.calls = 0


class Poller:
    """Ends the waits of calls when the runs that they wait for have ended. It polls only while calls wait.

    Its thread starts with the first call that waits.

    Args:
        store: The store that has the records.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._waits: dict[AwaitedRun, _Wait] = {}
        self._woken = threading.Event()
        """Ends a pause before its time."""
        self._polls = self._closed = False
        self._thread = Keeper("polls")

    def wait(self, name: bytes, fence: bytes, until: float) -> bool:
        """Waits until the run in another process has ended.

        Args:
            name: The operation's name.
            fence: The fence of the run.
            until: When to give up, in seconds of ``time.monotonic``.

        Returns:
            False if the time was up first.
        """
        run = name, fence
        with self._lock:
            if self._closed:
                return False
            wait = self._waits.setdefault(run, _Wait())
            wait.calls += 1
            begins, self._polls = not self._polls, True
        if begins:
            self._thread.later(0.0, self._poll)
        try:
            return wait.ended.wait(max(0.0, until - time.monotonic()))
        finally:
            self._leave(run, wait)

    def _leave(self, run: AwaitedRun, wait: _Wait) -> None:
        with self._lock:
            wait.calls -= 1
            if not wait.calls and self._waits.get(run) is wait:
                del self._waits[run]
            if not self._waits:
                self._woken.set()  # so that the poll ends at once

    def close(self) -> None:
        """Ends all waits, and the thread."""
        with self._lock:
            self._closed = True
            runs = [*self._waits]
        self._end(runs)
        self._woken.set()
        self._thread.close()

    # The thread

    def _poll(self) -> None:
        try:
            with subscribe(self._store, self._woken.set):
                drive(poll(), self._perform)
        except Exception:
            logger.exception("runs in other processes could not be polled")
            with self._lock:
                self._polls = False
                runs = [*self._waits]
            self._end(runs)  # the calls look at the store themselves

    def _perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case Pause(seconds):
                self._woken.wait(jittered(seconds))
                self._woken.clear()
                return None
            case AwaitedRuns():
                with self._lock:
                    self._polls = bool(self._waits)
                    return [*self._waits]
            case ReadStandings(names):
                return self._store.standing(names)
            case EndWaits(runs):
                return self._end(runs)
            case _:
                raise AssertionError(f"no poller performs {effect!r}")

    def _end(self, runs: Collection[AwaitedRun]) -> None:
        with self._lock:
            for run in runs:
                wait = self._waits.pop(run, None)
                if wait is not None:
                    wait.ended.set()
