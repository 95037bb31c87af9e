"""What really happened: which runs there were, what they did, and what of theirs was left."""

import threading
from asyncio import Future
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .grammar import Case


class Ledger:
    """Written by the handlers, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.runs: Counter[str] = Counter()
        """How many runs each key has had."""
        self.inside: Counter[str] = Counter()
        self.most_inside: Counter[str] = Counter()
        """How many runs of a key there were at one time, at most."""
        self.effects: dict[str, list[int]] = defaultdict(list)
        """The runs that had an effect which no transaction can take back."""
        self._tasks: set[Future[Any]] = set()
        self._threads: list[threading.Thread] = []

    def enter(self, case: Case) -> int:
        """A run begins; returns its number."""
        with self._lock:
            self.runs[case.key] += 1
            self.inside[case.key] += 1
            self.most_inside[case.key] = max(self.most_inside[case.key], self.inside[case.key])
            return self.runs[case.key]

    def leave(self, case: Case) -> None:
        """A run ends."""
        with self._lock:
            self.inside[case.key] -= 1

    def effect(self, key: str, run: int) -> None:
        """A run has an effect."""
        with self._lock:
            self.effects[key].append(run)

    def spawned(self, task: Future[Any]) -> None:
        """A handler has begun a task."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # what a background task raises is nobody's

    def thread(self, work: Callable[[], object]) -> None:
        """A handler begins a thread."""

        def quietly() -> None:
            with suppress(BaseException):
                work()

        thread = threading.Thread(target=quietly, name="spawned by a handler", daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, timeout: float) -> None:
        """Waits for the threads that handlers have begun."""
        for thread in self._threads:
            thread.join(timeout)
        self._threads.clear()
