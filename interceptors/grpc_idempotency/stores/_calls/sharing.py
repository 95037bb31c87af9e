"""The engines that the stores of a process share: counted, ended at its end, and dropped in a forked child."""

import atexit
import os
import threading
import time
from typing import Any, Generic, Protocol, TypeVar

from grpc_idempotency.stores._calls.requests import Request

_PATIENCE_AT_EXIT = 5.0


class Sharable(Protocol):
    """An engine that several stores use. It ends when the last of them has left."""

    @property
    def closed(self) -> threading.Event:
        """Set when the engine holds nothing open any more."""

    def submit(self, request: Request[Any]) -> None:
        """Queues a request."""

    def close(self, farewell: Request[Any] | None = None) -> None:
        """Finishes pending requests, ends, and answers ``farewell``."""

    def abandon(self) -> None:
        """Drops everything in a forked child, where it belongs to the parent."""


E = TypeVar("E", bound=Sharable)


class Shared(Generic[E]):
    """The engines of one kind, with the number of stores that use each."""

    def __init__(self) -> None:
        # Re-entrant: the garbage collector may release a store's engine at any point, also in a thread that holds it.
        self.lock = threading.RLock()
        """Held while an engine is chosen or made."""
        self.users: dict[E, int] = {}
        self.leaving: list[E] = []
        """Those that have been told to end."""
        self._abandoned: list[E] = []
        """What a fork has left behind, kept so that nothing of it is ever finalized."""
        atexit.register(self._close_all)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._abandon_all)

    def use(self, engine: E) -> E:
        """Counts one more user of an engine, and returns it. The caller holds the lock."""
        self.users[engine] = self.users.get(engine, 0) + 1
        return engine

    def release(self, engine: E, farewell: Request[Any] | None = None) -> bool:
        """Counts one user less of the engine. The last user closes it.

        Args:
            engine: The engine.
            farewell: A request that is answered when all requests before it are done.

        Returns:
            ``True`` if this was the last user.
        """
        with self.lock:
            left = self.users.get(engine, 0) - 1
            if left > 0:
                self.users[engine] = left
                if farewell is not None:
                    engine.submit(farewell)
                return False
            self.users.pop(engine, None)
            self.leaving[:] = [one for one in self.leaving if not one.closed.is_set()]
            self.leaving.append(engine)
            engine.close(farewell)
            return True

    def _close_all(self) -> None:
        """Finishes pending requests and ends all engines at exit, for a process that did not close its stores."""
        with self.lock:
            engines = [*self.users, *self.leaving]
            self.users.clear()
        for engine in engines:
            engine.close()
        give_up_at = time.monotonic() + _PATIENCE_AT_EXIT
        for engine in engines:
            engine.closed.wait(max(0.0, give_up_at - time.monotonic()))

    def _abandon_all(self) -> None:
        """Drops all engines in a forked child: locks, threads and connections belong to the parent."""
        self.lock = threading.RLock()
        engines = [*self.users, *self.leaving]
        for engine in engines:
            engine.abandon()
        self._abandoned += engines
        self.users.clear()
        self.leaving.clear()
