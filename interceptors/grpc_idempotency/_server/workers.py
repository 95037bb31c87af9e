"""Threads for handlers and renewals, apart from the server's. They are reused, so that a call costs no new thread."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, TypeVar

logger = logging.getLogger("grpc_idempotency")
T = TypeVar("T")

IDLE = 10.0
"""Seconds after which an idle thread ends."""


class Workers:
    """Daemon threads, each of which runs one job at a time. There are as many threads as concurrent jobs."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []  # its append, pop and remove are atomic, so it needs no lock
        self._closed = False

    def take(self) -> "Worker":
        """Takes the worker that became idle last, or starts one.

        Raises:
            RuntimeError: No thread can be started.
        """
        try:
            return self._idle.pop()
        except IndexError:
            return Worker(self)

    def give_back(self, worker: "Worker") -> None:
        """Takes back a worker, which is idle now."""
        self._idle.append(worker)
        if self._closed:  # read after the append, since close() may have run between the two
            self._end_idle()

    async def asked(self, call: Callable[[], T]) -> T:
        """Makes a blocking call in one of the threads, and awaits its result.

        Raises:
            RuntimeError: No thread can be started.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if answer.done():  # the caller was cancelled
                return
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

        def ask() -> None:
            value, error = None, None
            try:
                value = call()
            except BaseException as exc:
                error = exc
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(settle, value, error)

        self.take().run(ask)
        return await answer

    def retire(self, worker: "Worker") -> bool:
        """True if the worker may end. False if it has just been taken, so that its job is coming."""
        try:
            self._idle.remove(worker)
        except ValueError:
            return False
        return True

    def close(self) -> None:
        """Ends the idle threads now, and the others after their jobs."""
        self._closed = True
        self._end_idle()

    def _end_idle(self) -> None:
        while True:
            try:
                worker = self._idle.pop()
            except IndexError:
                return
            worker.run(None)


class Worker:
    """One thread. The caller that has taken it gives it a job, or gives it back."""

    __slots__ = ("_job", "_wake", "_workers")

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._job: Callable[[], object] | None = None
        self._wake = threading.Lock()  # the cheapest thing to wait for: a condition is made of it
        self._wake.acquire()
        threading.Thread(target=self._work, name="grpc-idempotency-handler", daemon=True).start()

    def run(self, job: Callable[[], object] | None) -> None:
        """Runs the job in its thread, which is idle again after that. ``None`` ends the thread."""
        self._job = job
        self._wake.release()

    def _work(self) -> None:
        while True:
            if not self._wake.acquire(timeout=IDLE):
                if self._workers.retire(self):
                    return
                continue
            job, self._job = self._job, None
            if job is None:
                return
            try:
                job()
            except BaseException:  # jobs handle their own errors, so this is a bug of this library
                logger.exception("a thread for handlers met an error")
            del job  # an idle thread must not keep the objects of a call alive
            self._workers.give_back(self)


def within(seconds: float, call: Callable[[], object]) -> bool:
    """Makes a blocking call in a thread of its own, and waits for it for at most ``seconds``.

    Returns:
        True if the call ended in time.

    Raises:
        Exception: The call raised it.
    """
    ended: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as exc:
            ended.set_exception(exc)
        else:
            ended.set_result(None)

    try:
        threading.Thread(target=run, name="grpc-idempotency-close", daemon=True).start()
    except RuntimeError:  # no thread can be started, so the call runs here, without a limit
        run()
    if not wait((ended,), seconds).done:
        return False
    ended.result()
    return True
