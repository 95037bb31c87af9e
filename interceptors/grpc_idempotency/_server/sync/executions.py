"""The executions of this process on threads. Handlers run in the interceptor's threads, and the server's threads wait.

So neither a client that goes away nor a handler that never ends blocks a thread of the server, and a call whose handler
can't be stopped is answered all the same.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from grpc_idempotency._operation.sync import SyncRunning
from grpc_idempotency._protocol.effects import (
    Call,
    Conclusion,
    CutShort,
    Effect,
    Execute,
    Followed,
    Joined,
    Ran,
)
from grpc_idempotency._protocol.rules import is_only_told, no_room, settle, shut_down
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.drive import advance, drive
from grpc_idempotency._server.execution import ExecutionBase, count_running
from grpc_idempotency._server.leases import Leases
from grpc_idempotency._server.observers import Observers
from grpc_idempotency._server.replays import Replays
from grpc_idempotency._server.sync.context import ThreadContext
from grpc_idempotency._server.sync.keeper import Keeper, jittered
from grpc_idempotency._server.sync.poller import Poller
from grpc_idempotency._server.sync.run import SyncRun
from grpc_idempotency._server.target import Target
from grpc_idempotency._server.workers import Worker, Workers
from grpc_idempotency.store import Store

logger = logging.getLogger("grpc_idempotency")


class Execution(ExecutionBase):
    """An execution whose handler runs in a thread of its own."""

    run: SyncRun | None
    _executions: "Executions"

    _runs = False
    """True once its handler has begun."""
    _limited = False
    """True while a handler or an undo runs, which has a limit."""

    def __init__(
        self, executions: "Executions", call: Call, target: Target, messages: Sequence[Any], snapshot: Snapshot
    ) -> None:
        self.moved = threading.Condition()
        """Guards what the followers read; notified when there is more to read, and when the execution has concluded."""
        super().__init__(executions, call, target, messages, snapshot)

    def new_run(self) -> SyncRun:
        """Returns a run of its handler."""
        run = SyncRun(self._target, self._messages, ThreadContext(self._snapshot))
        run.moved = self.moved
        return run

    def start(self) -> None:
        """Claims the operation in the calling thread, and continues in a worker's thread once the handler is to run.

        Only the store can delay the calling thread. If the execution is pre-empted by a record, as for a replay, it
        costs no hand-over to another thread.
        """
        self.worker = self._executions.take_worker()
        if self.worker is None:
            self._conclude(no_room())
            return
        plan = self._plan
        try:
            effect = next(plan)
            while not isinstance(effect, Execute):
                effect = advance(plan, self.perform, effect)
        except StopIteration as done:
            self._conclude(done.value)
        except Exception as exc:
            self._log_failure(exc)
            self._conclude(shut_down())
        else:
            self._hand_over(effect)

    def launch(self) -> None:
        """Runs an execution that no call follows. All of it, with its claim, runs in a worker's thread."""
        self.worker = self._executions.take_worker()
        if self.worker is None:
            self._conclude(no_room())
        else:
            self._hand_over(None)

    def _hand_over(self, effect: Effect[Any] | None) -> None:
        worker, self.worker = self.worker, None
        assert worker is not None
        worker.run(partial(contextvars.copy_context().run, self._carry_out, effect))

    def _carry_out(self, effect: Effect[Any] | None) -> None:
        conclusion: Conclusion | None = None
        try:
            conclusion = drive(self._plan, self.perform, effect)
        except Exception as exc:
            self._log_failure(exc)
        finally:
            self._conclude(conclusion or shut_down())

    def _log_failure(self, error: Exception) -> None:
        logger.error("an operation of %s could not be brought to its end", self.call.method, exc_info=error)

    def concluded(self) -> bool:
        """True once it has concluded."""
        return self.conclusion is not None

    def heard(self, told: Conclusion | None) -> Conclusion | None:
        """Returns the conclusion that a follower gets now, if there is one.

        Args:
            told: The value of ``early`` when the follower came: it does not get that one.
        """
        return self.conclusion or (None if self.early is told else self.early)

    def begun(self, until: float | None, gone: Callable[[], bool]) -> None:
        """Waits until the handler runs or the execution has concluded. This takes no longer than the store's answer.

        Args:
            until: When to give up, in seconds of ``time.monotonic``; ``None``: never.
            gone: Returns True if the caller's client has gone away.
        """
        with self.moved:
            timeout = None if until is None else max(0.0, until - time.monotonic())
            self.moved.wait_for(lambda: self._runs or self.concluded() or gone(), timeout)

    def follow(self, until: float | None, gone: Callable[[], bool]) -> Followed:
        """Waits for the conclusion.

        Args:
            until: When to give up, in seconds of ``time.monotonic``; ``None``: never.
            gone: Returns True if the caller's client has gone away, so that it need not wait.
        """
        with self.moved:
            told = self.early
            timeout = None if until is None else max(0.0, until - time.monotonic())
            while self.heard(told) is None and not gone():
                if not self.moved.wait(timeout):
                    break
                if until is not None:
                    timeout = max(0.0, until - time.monotonic())
            return Followed(self.heard(told))

    def play(self, until: float | None, gone: Callable[[], bool], leads: bool) -> Generator[bytes, None, Followed]:
        """Waits for the conclusion, and yields the messages of the stream meanwhile.

        Args:
            until: When to give up before the first message, in seconds of ``time.monotonic``; ``None``: never.
            gone: Returns True if the caller's client has gone away, so that it need not wait.
            leads: True for the call that leads: it starts the execution.
        """
        begin = self.start if leads else None
        assert self.run is not None
        if self.run.held_back:
            if begin is not None:
                begin()
            return self.follow(until, gone)
        told = self.early
        ended, begun = yield from self.run.play(lambda: self.heard(told) is not None or gone(), until, begin)
        return Followed(self.heard(told) if ended else None, begun)

    def stir(self) -> None:
        """Wakes the followers, so that each checks whether its client has gone away."""
        if self.conclusion is None:  # otherwise they are awake; this is called at the end of every call
            with self.moved:
                self.moved.notify_all()

    def _conclude(self, conclusion: Conclusion, *, ended: bool = True) -> None:
        if ended and self.worker is not None:
            self._executions.give_back(self.worker)
            self.worker = None
        if not ended and is_only_told(conclusion, claimed=self._has_record):
            with self.moved:
                self.early = conclusion
                self.moved.notify_all()
            return
        self._settled(conclusion, ended=ended)
        # Out of the register first: waiting calls that get no outcome join or lead the next execution.
        self._executions.forget(self, ended)
        with self.moved:
            self.conclusion = self.conclusion or conclusion
            self.moved.notify_all()

    def pause(self, seconds: float) -> None:
        """Waits for about ``seconds``."""
        time.sleep(jittered(seconds))

    def execute(self, effect: Execute) -> Ran:
        """Runs the handler in this thread."""
        if self.run is None:
            self.run = self.new_run()
        operation = self._begin(effect, SyncRunning)
        self._limited = self._runs = True
        if self.followers > 1:  # a follower that comes later sees that the handler runs
            with self.moved:
                self.moved.notify_all()
        try:
            ended = self.run.to_end(operation)
        finally:
            self._limited = False
        return self._ran(ended, operation)

    def unwind(self) -> str | None:
        """Undoes the finished steps."""
        assert isinstance(self._operation, SyncRunning)
        assert self.run is not None
        self._limit_anew()
        self._limited = True
        try:
            return self.run.unwind(self._operation)
        finally:
            self._limited = False

    def overrun(self) -> None:
        """Answers the waiting calls, since a thread can't be stopped. Its own thread settles what comes later."""
        if not self._limited:
            return
        logger.error("the handler of %s ran past its execution limit", self.call.method)
        if self._claim is None:
            self.abandon()
            return
        plan = settle(self.call, self._claim, Ran(CutShort.ABANDONED), 0)
        conclude = partial(self._conclude, ended=False)
        self._executions.asker.carry(plan, self.perform, conclude, lambda: conclude(shut_down()))

    def abandon(self) -> None:
        """Answers the waiting calls, and leaves the record as that of a dead server."""
        self._stop_renewing()
        self._conclude(shut_down(), ended=False)


class Executions:
    """The executions of one interceptor, and the poller for runs in other processes."""

    def __init__(
        self,
        own_store: Store,
        store: Store,
        replays: Replays,
        observers: Observers,
        *,
        max_waiters: int,
        max_detached: int,
    ) -> None:
        self.own_store = own_store
        self.store = store
        self.replays = replays
        self.observers = observers
        self.torn_down = False
        """Always False, since threads can't be cancelled."""
        self.poller = Poller(store)
        self.asker = Keeper("limits")
        """Settles operations whose handlers can't be stopped."""
        self.detached: set[Execution] = set()
        """The running executions that no call follows any more."""
        self._workers = Workers()
        self.leases = Leases(store, self._workers.asked)
        self._waiters = threading.BoundedSemaphore(max_waiters) if max_waiters else None
        self._max_detached = max_detached
        self._changed = threading.Condition()
        self._closed = False
        self._executions: dict[bytes, Execution] = {}

    def join(self, call: Call, target: Target, messages: Sequence[Any], snapshot: Snapshot) -> Joined | None:
        """Joins the execution of the call's name, or leads one.

        The call that leads is counted among the followers.

        Returns:
            The execution, and whether the call leads it; ``None`` if no further one is taken on.
        """
        with self._changed:
            execution = self._executions.get(call.name)
            if execution is not None:
                return Joined(execution.call.fingerprint, False, execution)
            if self._closed or len(self.detached) >= self._max_detached:
                return None
            execution = self._executions[call.name] = Execution(self, call, target, messages, snapshot)
            execution.followers = 1
            return Joined(call.fingerprint, True, execution)

    def launch(self, call: Call, target: Target, messages: Sequence[Any], snapshot: Snapshot) -> None:
        """Starts an execution that no call follows."""
        joined = self.join(call, target, messages, snapshot)
        if joined is not None and joined.leads:
            assert isinstance(joined.execution, Execution)
            joined.execution.launch()
            self.remove_follower(joined.execution)

    def take_worker(self) -> Worker | None:
        """Returns a thread for a handler; ``None`` if it, or the thread of the leases, can't be started."""
        try:
            if not self.leases.started:
                self.leases.start()
            return self._workers.take()
        except RuntimeError as exc:
            logger.error("an operation was refused, since no thread could be started for it: %s", exc)
            return None

    def give_back(self, worker: Worker) -> None:
        """Takes back a thread that was not needed."""
        self._workers.give_back(worker)

    def has(self, name: bytes) -> bool:
        """True if an operation has an execution here."""
        return name in self._executions

    def running(self) -> Mapping[str, int]:
        """Returns how many handlers run, by their methods. It may be called in any thread."""
        return count_running(self._executions.copy().values(), self.detached.copy())

    def forget(self, execution: Execution, ended: bool) -> None:
        """Removes an execution that has concluded, so that the next call leads another.

        Args:
            execution: The execution.
            ended: True if its handler has ended, too.
        """
        with self._changed:
            if self._executions.get(execution.call.name) is execution:
                del self._executions[execution.call.name]
            if ended:
                execution.ended = True
                self.detached.discard(execution)
            if self._closed:
                self._changed.notify_all()

    def add_follower(self, execution: Execution) -> None:
        """Adds a call to the followers of the execution."""
        with self._changed:
            execution.followers += 1
            self.detached.discard(execution)

    def remove_follower(self, execution: Execution) -> None:
        """Removes a call from the followers. An execution that is left without followers is detached."""
        with self._changed:
            execution.followers -= 1
            if not execution.followers and not execution.ended:
                self.detached.add(execution)

    @contextmanager
    def waiting(self) -> Iterator[bool]:
        """Takes one of the places for waiting calls, each of which blocks a thread of the server (4.3).

        Yields:
            False if no place is free.
        """
        free = self._waiters is not None and self._waiters.acquire(blocking=False)
        try:
            yield free
        finally:
            if free and self._waiters is not None:
                self._waiters.release()

    def close(self, limit: float) -> int:
        """Takes on no further execution, and drains those under way within ``limit`` seconds.

        Leases are renewed, and runs in other processes polled, until :meth:`end` is called.

        Returns:
            How many executions could not be brought to their end.
        """
        with self._changed:
            self._closed = True
            if self._executions:
                logger.info("waiting for %d operations to end, at most %.0f s", len(self._executions), limit)
            self._changed.wait_for(lambda: not self._executions, limit)
            unfinished = list(self._executions.values())
        for execution in unfinished:
            execution.abandon()
        self._workers.close()
        return len(unfinished)

    def end(self) -> None:
        """Ends the threads of the leases and of the poller, after what they are doing now."""
        ended = self.leases.close()
        self.poller.close()
        self.asker.close()
        ended.result()
