"""The one poll of an interceptor for runs in other processes, which all of its waiting calls share (4.3)."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from grpc_idempotency._jitter import uniform
from grpc_idempotency._protocol.effects import AwaitedRun, AwaitedRuns, Effect, EndWaits, Pause, ReadStandings
from grpc_idempotency._protocol.rules import poll
from grpc_idempotency._server.drive import drive_async
from grpc_idempotency._server.subscribing import subscribe
from grpc_idempotency.store import AsyncStore

Spawn = Callable[[Coroutine[Any, Any, None], Callable[[], None]], object]
"""Runs a coroutine in a task of its own, and calls a function when the task has ended, however it has."""


class Poller:
    """Ends the waits of calls when the runs that they wait for have ended. It polls only while calls wait.

    Args:
        store: The store that has the records.
        spawn: Makes the task that polls.
    """

    def __init__(self, store: AsyncStore, spawn: Spawn) -> None:
        self._store = store
        self._spawn = spawn
        self._waiters: dict[AwaitedRun, set[asyncio.Future[None]]] = {}
        self._woken = asyncio.Event()
        """Ends a pause before its time."""
        self._polls = False

    async def wait(self, name: bytes, fence: bytes, until: float) -> bool:
        """Waits until the run in another process has ended.

        Args:
            name: The operation's name.
            fence: The fence of the run.
            until: When to give up, in seconds of ``time.monotonic``.

        Returns:
            False if the time was up first.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault((name, fence), set()).add(waiter)
        if not self._polls:
            self._polls, self._woken = True, asyncio.Event()
            self._spawn(self._poll(), self._stopped)
        try:
            done, _ = await asyncio.wait((waiter,), timeout=max(0.0, until - time.monotonic()))
            return bool(done)
        finally:
            self._leave((name, fence), waiter)

    def _leave(self, run: AwaitedRun, waiter: "asyncio.Future[None]") -> None:
        waiters = self._waiters.get(run)
        if waiters is not None:
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[run]
        if not self._waiters:
            self._woken.set()  # so that the task ends at once

    async def _poll(self) -> None:
        with subscribe(self._store, partial(_post, asyncio.get_running_loop(), self._woken.set)):
            await drive_async(poll(), self._perform)

    def _stopped(self) -> None:
        """Ends the waits that are left: the calls look at the store themselves.

        The task was cancelled or has failed, or a call came when it had just found none.
        """
        self._polls = False
        self._end([*self._waiters])

    def _perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case Pause(seconds):
                return self._pause(seconds * uniform(0.5, 1.5))
            case AwaitedRuns():
                return [*self._waiters]
            case ReadStandings(names):
                return self._store.standing(names)
            case EndWaits(runs):
                return self._end(runs)
            case _:
                raise AssertionError(f"no poller performs {effect!r}")

    async def _pause(self, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()
        self._woken.clear()

    def _end(self, runs: Collection[AwaitedRun]) -> None:
        for run in runs:
            for waiter in self._waiters.pop(run, ()):
                if not waiter.done():
                    waiter.set_result(None)


def _post(loop: asyncio.AbstractEventLoop, do: Callable[[], object]) -> None:
    """Schedules a function in the loop, from any thread. Does nothing if the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(do)
