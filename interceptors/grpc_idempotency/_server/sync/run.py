"""A run of a handler on threads, in the calling thread."""

import contextvars
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from grpc_idempotency._operation.running import Running, enter
from grpc_idempotency._operation.sync import SyncRunning
from grpc_idempotency._protocol.effects import Ended
from grpc_idempotency._server.run import Run
from grpc_idempotency._server.sync.context import ThreadContext


class SyncRun(Run):
    """A run that blocks, with a stream buffer that other threads can follow."""

    context: ThreadContext
    moved: threading.Condition
    """Guards the buffer; notified when the buffer gets a message or room for one, and when the run has ended."""

    def unwind(self, operation: SyncRunning) -> str | None:
        """Undoes the finished steps, in a copy of the current context."""
        return contextvars.copy_context().run(operation.unwind)

    def to_end(self, operation: Running | None) -> Ended:
        """Runs the handler to its end, and waits for the steps that it left running."""
        assert operation is None or isinstance(operation, SyncRunning)
        enter(operation, threading.get_ident())
        try:
            try:
                reply = self._reply()
            finally:
                if operation is not None and operation.end():
                    operation.rest()
            return self.returned(operation, reply)
        except BaseException as exc:  # any exception has to be answered to the waiting calls (4.7)
            return self.raised(operation, exc)
        finally:
            self.context.answered()
            self.end()

    def _reply(self) -> Any:
        target = self.target
        request = iter(self.requests) if target.request_streams else self.requests[0]
        reply = target.behaviour(request, self.context)
        if self.buffer is None:
            return reply
        self.record_all(reply, self._emit)
        return None

    def _emit(self, message: Any) -> None:
        """Records a message of the stream. Waits while the followers are too far behind."""
        assert self.buffer is not None
        with self.moved:
            self.record(message)
            self.moved.notify_all()
            while self.buffer.full:
                self.moved.wait()

    def play(
        self, ended: Callable[[], bool], until: float | None, begin: Callable[[], object] | None = None
    ) -> Generator[bytes, None, tuple[bool, bool]]:
        """Yields the messages of the stream, from the first one on, until the run has ended.

        It gives up at once if the first message is gone already, and before the first message when the time is up.

        Args:
            ended: Returns True if the run has ended, or the caller has gone.
            until: When to give up before the first message, in seconds of ``time.monotonic``; ``None``: never.
            begin: Starts the run, for the call that leads. It is called once the buffer has this follower, since the
                first messages could be gone otherwise.

        Returns:
            Two booleans: the first is True if the end was reached, the second if a message was yielded.
        """
        follower, begun = object(), False
        assert self.buffer is not None
        with self.moved:
            if not self.buffer.join(follower):
                return False, False
        try:
            if begin is not None:
                begin()
            while True:
                with self.moved:
                    message = self.buffer.read(follower)
                    if message is None and ended():
                        return True, begun
                    if message is None and not self._wait(None if begun else until):
                        return False, begun
                    self.moved.notify_all()
                if message is not None:
                    begun = True
                    yield message
        finally:
            with self.moved:
                self.buffer.leave(follower)
                self.moved.notify_all()

    def _wait(self, until: float | None) -> bool:
        return self.moved.wait(None if until is None else max(0.0, until - time.monotonic()))
