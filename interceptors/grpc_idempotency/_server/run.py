"""One run of the handler of a keyed call, apart from its call: the part that both wings share."""

import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

from grpc_idempotency._operation.running import Running
from grpc_idempotency._operation.steps import Unwinding
from grpc_idempotency._protocol.effects import Answered, Ended, InDoubt, Raised, RolledBack
from grpc_idempotency._protocol.rules import retained
from grpc_idempotency._server.buffer import StreamBuffer
from grpc_idempotency._server.context import Recorder
from grpc_idempotency._server.doubt import doubt_of
from grpc_idempotency._server.target import Target, not_bytes
from grpc_idempotency._wire.framing import frame
from grpc_idempotency._wire.trailers import cap
from grpc_idempotency.errors import StoreUnavailable, Unstorable
from grpc_idempotency.records import Code, Effects, Outcome

logger = logging.getLogger("grpc_idempotency")


class TooLarge(Exception):
    """The messages that are held back until the transaction's commit are larger than may be buffered."""


class Run:
    """One run of a handler, on a recording context.

    Args:
        target: The handler.
        requests: The request messages, as the handler sees them.
        context: The recording context that the handler gets.
    """

    # Class attributes until they are set: each call that leads makes a run.
    buffer: StreamBuffer | None = None
    """The messages of a stream."""
    _sealed: tuple[object, Outcome] | None = None
    """The reply of a transaction, and the outcome made of it."""
    _late: tuple[bytes, ...] = ()
    """Messages of the stream that came after an outcome was made."""
    _unserializable: Exception | None = None
    """The error that the serializer of the response raised."""

    def __init__(self, target: Target, requests: Sequence[Any], context: Recorder) -> None:
        self.target = target
        self.requests = requests
        self.context = context
        self.held_back = target.method.policy.effects is Effects.TRANSACTIONAL
        """True if nothing of a stream may leave before the handler's end (4.8)."""
        if target.response_streams:
            self.buffer = StreamBuffer(target.method.policy.max_response_bytes)

    def make_outcome(self, reply: object) -> Outcome:
        """Returns the outcome that a transaction stores if this is its reply (5.1).

        If the method answers with a stream, the reply is the sequence of its messages.
        """
        self._admit_late()
        outcome = self._outcome(reply)
        self._sealed = (reply, outcome)
        return retained(outcome, self.target.method.policy)

    def accepts(self, value: object) -> bool:
        """True if a value that a transaction's function returned could be the reply, by its type."""
        messages = [value] if self.buffer is None else value
        if not isinstance(messages, list | tuple) or not messages or None in messages:
            return False
        try:
            for message in messages:
                self.target.write(message)
        except Exception:  # the serializer's error for a value that it can't serialize
            return False
        return True

    def record_all(self, messages: Any, emit: Callable[[Any], object]) -> None:
        """Emits the messages of a ``def`` handler, one by one."""
        try:
            for message in messages:
                emit(message)
        finally:
            if isinstance(messages, Generator):
                messages.close()  # so that it cleans up in its own thread, and not where it would be collected

    def record(self, message: Any) -> None:
        """Records one more message of the stream.

        Once a transaction has made its outcome of the messages so far, further messages wait for the handler's end: if
        the transaction has committed, they are no part of the reply, and must not be sent (4.7).

        Raises:
            TooLarge: The messages must be held back, and are larger than may be buffered.
        """
        assert self.buffer is not None
        self.context.sending()
        data = self._write(message)
        if self._sealed is not None:
            self._late += (data,)
            return
        self.buffer.append(data)
        if self._overflowed:
            raise TooLarge

    def _admit_late(self) -> None:
        """Adds the late messages to the stream, since the transaction before them was rolled back."""
        self._sealed = None
        late, self._late = self._late, ()
        for data in late:
            assert self.buffer is not None
            self.buffer.append(data)

    @property
    def _overflowed(self) -> bool:
        """True if messages that had to be held back are lost.

        It stays true even if the handler has caught :class:`TooLarge` and goes on.
        """
        return self.held_back and self.buffer is not None and not self.buffer.retained

    def returned(self, operation: Running | None, reply: object) -> Ended:
        """Returns how the run ended, if the handler returned this reply."""
        if operation is not None and operation.committed is not None:
            return self.committed(operation, reply)
        if operation is not None and operation.unconfirmed is not None:
            return RolledBack(operation.unconfirmed)  # unless the record shows that its transaction has committed (5.6)
        if self._sealed is not None:
            self._admit_late()
        if operation is not None and operation.has_steps and (forgotten := operation.steps.forgotten()):
            logger.error(
                "the handler of %s has left out steps it once finished: %s", self.target.method.name, forgotten
            )
        try:
            return Answered(self._outcome(() if self.buffer is not None else reply))
        except Exception as exc:
            return self.raised(operation, exc)

    def raised(self, operation: Running | None, error: BaseException) -> Ended:
        """Returns how the run ended, if the handler raised or aborted."""
        if operation is not None and operation.committed is not None:
            return self.committed(operation, error)
        self._admit_late()
        if isinstance(error, TooLarge) or self._overflowed:
            return Answered(Outcome(status=Code.RESOURCE_EXHAUSTED, details=_TOO_LARGE))
        crashed = self.held_back and not self.context.aborted  # then the messages that were held back do not count
        message = None if crashed else self._streamed()
        outcome = self._capped(self.context.failure(message, unserializable=error is self._unserializable))
        doubt = doubt_of(error)
        if doubt is not None:
            # Even after an abort, whose status may assert that nothing happened.
            logger.error(
                "the handler of %s can't know whether it took effect: %s",
                self.target.method.name,
                doubt,
                exc_info=error,
            )
            return InDoubt(outcome, doubt)
        if self.context.aborted:
            return Answered(outcome)
        if isinstance(error, Unwinding):
            return Raised(outcome)
        logger.error("the handler of %s raised", self.target.method.name, exc_info=error)
        if isinstance(error, StoreUnavailable) and not isinstance(error, Unstorable):
            return RolledBack(outcome, own=operation is not None and operation.uncommitted is error)
        return Raised(outcome)

    def committed(self, operation: Running, reply: object) -> Answered:
        """Returns how the run ended, if its transaction committed: that outcome counts, and no later reply or error."""
        assert self._sealed is not None
        sealed, outcome = self._sealed
        if reply is not sealed and self.buffer is None:
            logger.warning(
                "%s answered otherwise than its transaction committed; what was committed counts",
                self.target.method.name,
            )
        return Answered(outcome, True, operation.completed_at)

    def end(self) -> None:
        """Notes that the handler has ended, and calls its callbacks."""
        self.context.ended = True
        callbacks, self.context.callbacks = self.context.callbacks, ()
        for callback in callbacks:
            try:
                callback()
            except Exception:
                logger.exception("a callback of the handler of %s raised", self.target.method.name)

    def _outcome(self, reply: Any) -> Outcome:
        if self.buffer is not None:
            return self._capped(self.context.answer(self._streamed(list(reply)), streams=True))
        context = self.context
        if context.silent:
            return Outcome(status=Code.OK, message=self._write(reply))
        return self._capped(context.answer(self._write(reply) if context.succeeds else None))

    def _write(self, message: Any) -> bytes:
        target = self.target
        try:
            data = message if target.serialize is None else target.serialize(message)
            if type(data) is not bytes:
                raise not_bytes(target.method, data)
        except Exception as exc:
            self._unserializable = exc
            raise
        return data

    def _streamed(self, more: Sequence[Any] = ()) -> bytes | None:
        """Returns all messages of the stream, framed; ``None`` if they exceed the limit, or there is no stream."""
        if self.buffer is None:
            return None
        if self._overflowed:
            raise TooLarge
        whole = self.buffer.whole()
        if whole is None or not more:
            return whole
        whole += frame(map(self._write, more))
        if self.held_back and len(whole) > self.target.method.policy.max_response_bytes:
            raise TooLarge
        return whole

    def _capped(self, outcome: Outcome) -> Outcome:
        limit = self.target.method.policy.max_trailer_bytes
        if self.buffer is not None and not self.held_back and not self.buffer.retained:
            outcome = replace(outcome, retained=False)
        outcome, dropped = cap(outcome, limit)
        if dropped:
            logger.warning(
                "the status message and trailing metadata of %s exceed %d bytes; %d bytes of them were dropped",
                self.target.method.name,
                limit,
                dropped,
            )
        return outcome


_TOO_LARGE = (
    "The stream's messages have to be held back until the handler's transaction is committed, and they are larger than "
    "may be buffered. Nothing was kept."
)
