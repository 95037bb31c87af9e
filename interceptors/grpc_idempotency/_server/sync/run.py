"""Runs a handler in the thread that it is called in."""

import contextvars
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from grpc_idempotency._operation.running import Running, enter
from grpc_idempotency._operation.sync import SyncRunning
from grpc_idempotency._protocol.effects import Ended
from grpc_idempotency._server.run import Run


class SyncRun(Run):
    """A run that blocks, and its buffer that other threads can follow."""

    moved: threading.Condition
    """Guards the buffer; notified when it has got a message, or room for one, and when the run is over."""

    def unwind(self, operation: SyncRunning) -> str | None:
        """Undoes what the operation has finished, in a context of its own."""
        return contextvars.copy_context().run(operation.unwind)

    def to_end(self, operation: Running | None) -> Ended:
        """Runs it to its end, and each of its steps."""
        assert operation is None or isinstance(operation, SyncRunning)
        enter(operation, threading.get_ident())
        try:
            try:
                reply = self._reply()
            finally:
                if operation is not None and operation.end():
                    operation.rest()
            return self.returned(operation, reply)
        except BaseException as exc:  # whatever it is, those who wait must hear of it (4.7)
            return self.raised(operation, exc)
        finally:
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
        """Records a message of the stream; waits while those who follow are too far behind."""
        assert self.buffer is not None
        with self.moved:
            self.record(message)
            self.moved.notify_all()
            while self.buffer.full:
                self.moved.wait()

    def play(
        self, over: Callable[[], bool], until: float | None, begin: Callable[[], object] | None = None
    ) -> Generator[bytes, None, tuple[bool, bool]]:
        """Yields the stream's messages, from the first on, until the run is over.

        ``begin`` begins the run, for the one who has to: only once it is followed, or its first messages might be gone.

        Answers whether that was reached, and whether a message was yielded. Before the first one it is given up when
        the time is up; and at once when the first one is gone already.
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
                    if message is None and over():
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
