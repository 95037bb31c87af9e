"""The exchange of one keyed call on threads. Nothing else touches the call's live context."""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import grpc

from grpc_idempotency._protocol.effects import Answer, Effect, Follow, Followed, Get, Join, Joined, Watch
from grpc_idempotency._protocol.rules import answer
from grpc_idempotency._server.admission import Admission, Admitted, NotAdmitted
from grpc_idempotency._server.answered import Reply, call_answered
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.drive import drive, drive_streaming
from grpc_idempotency._server.sync.context import code_of
from grpc_idempotency._server.sync.executions import Execution, Executions
from grpc_idempotency._server.target import Target
from grpc_idempotency._wire.codes import GRPC_CODES
from grpc_idempotency._wire.framing import unframe
from grpc_idempotency._wire.reply import MARKS, reply_to
from grpc_idempotency.events import CallAnswered
from grpc_idempotency.records import Code, Outcome, Trailers

Behaviour = Callable[[Any, grpc.ServicerContext], Any]


def keyed(target: Target, admission: Admission, executions: Executions, unkeyed: Behaviour) -> Behaviour:
    """Returns the stand-in for a handler whose calls may be keyed. Its messages are bytes.

    Args:
        target: The handler.
        admission: Admits the calls.
        executions: The executions of the interceptor.
        unkeyed: Answers a call whose message turns out to have no key: in the call's own thread, on the live context
            and unbuffered (2.4).
    """
    tell = executions.observers.call_answered
    if tell is not None:
        return _told(target, admission, executions, unkeyed, tell)

    def unary(incoming: Any, context: grpc.ServicerContext) -> bytes:
        return _Exchange(target, admission, executions, unkeyed, context).run(incoming)

    def streaming(incoming: Any, context: grpc.ServicerContext) -> Generator[bytes, None, None]:
        return _StreamingExchange(target, admission, executions, unkeyed, context).run(incoming)

    return streaming if target.response_streams else unary


def _told(
    target: Target,
    admission: Admission,
    executions: Executions,
    unkeyed: Behaviour,
    tell: Callable[[CallAnswered], None],
) -> Behaviour:
    """Returns a stand-in like :func:`keyed`, which also tells each answer to observers."""

    def unary(incoming: Any, context: grpc.ServicerContext) -> bytes:
        began, failed = now(), True
        exchange = _Exchange(target, admission, executions, unkeyed, context)
        try:
            message = exchange.run(incoming)
            failed = False
        finally:
            tell(exchange.answered(began, failed=failed))
        return message

    def streaming(incoming: Any, context: grpc.ServicerContext) -> Generator[bytes, None, None]:
        began, failed = now(), True
        exchange = _StreamingExchange(target, admission, executions, unkeyed, context)
        try:
            yield from exchange.run(incoming)
            failed = False
        finally:
            tell(exchange.answered(began, failed=failed))

    return streaming if target.response_streams else unary


class _Base:
    """Base class of the exchanges with one response message and with a stream."""

    # Class attributes until they are set: each call makes an exchange.
    name: bytes | None = None
    """The operation's name, once it is known."""
    reply: Reply | None = None
    """The answer to the call, once it is known."""
    execution: Execution | None = None
    """The execution that this call is on, if it is in this process."""
    waited = 0.0
    """The seconds in which the call waited for a run of another call or process."""

    def __init__(
        self,
        target: Target,
        admission: Admission,
        executions: Executions,
        unkeyed: Behaviour,
        context: grpc.ServicerContext,
    ) -> None:
        self.target = target
        self._admission = admission
        self._executions = executions
        self._unkeyed = unkeyed
        self._context = context
        self._snapshot = Snapshot(target.method.name, context)
        self._messages: Sequence[Any] = ()
        """The request messages, once they are read."""
        self._ahead: Execution | None = None
        """The execution that this call leads, until the initial metadata of its handler is sent."""

    def _admit(self, incoming: Any) -> Admitted:
        if not self.target.request_streams:
            return self._admission.admit(self.target, self._snapshot, incoming)
        intake = self._admission.stream(self.target, self._snapshot)
        self.name = intake.name
        for raw in incoming:
            intake.take(raw)
        return Admitted(intake.end(), intake.messages)

    def _perform(self, effect: Effect[Any]) -> Any:
        """Performs an effect of a call's plan."""
        match effect:
            case Join(call):
                return self._executions.join(call, self.target, self._messages, self._snapshot)
            case Follow(joined, until):
                return self._conclude(joined, until)
            case Watch(name, fence, until):
                return self._watch(name, fence, until)
            case Get(name):
                return self._executions.store.get(name)
            case _:
                raise AssertionError(f"no call performs {effect!r}")

    def _conclude(self, joined: Joined, until: float | None) -> Any:
        """Waits for the execution to conclude. Implemented for each kind of answer."""
        raise NotImplementedError

    def _watch(self, name: bytes, fence: bytes, until: float) -> bool:
        began = now()
        try:
            with self._executions.waiting() as free:
                return free and self._executions.poller.wait(name, fence, until)
        finally:
            self.waited += now() - began

    def _gone(self) -> bool:
        return not self._context.is_active()

    def answered(self, began: float, *, failed: bool) -> CallAnswered:
        """Returns the event of the answer.

        Args:
            began: When the call came, by the clock for leases.
            failed: True if the call ends with an exception, as after an abort.
        """
        code = Code.OK
        if self._gone():
            self.reply, code = None, Code.CANCELLED
        elif self.reply is None:
            seen: Any = self._context  # its getter of the code is experimental, and not in the stubs
            code = code_of(seen.code())
            if failed and code is Code.OK:
                code = Code.UNKNOWN
        return call_answered(self, code, began)

    # The live context

    def _finish(self, outcome: Outcome, ours: Trailers = ()) -> None:
        """Sends the status, details and trailers.

        Args:
            outcome: The answer.
            ours: The interceptor's own trailers.
        """
        if self._ahead is not None:
            self._send_ahead()
        self._context.set_trailing_metadata(outcome.trailers + ours)
        if outcome.status is not Code.OK:
            self._context.abort(GRPC_CODES[outcome.status], outcome.details)
        if outcome.details:
            self._context.set_details(outcome.details)

    def _send_ahead(self) -> None:
        """Sends the handler's initial metadata and compression before the first message, if this call leads (4.7)."""
        run = None if self._ahead is None else self._ahead.run
        self._ahead = None
        if run is None or self._gone():
            return
        if run.context.compression is not None:
            self._context.set_compression(run.context.compression)
        if run.context.initial_metadata is not None:
            self._context.send_initial_metadata(tuple(run.context.initial_metadata))


class _Exchange(_Base):
    """A call with one response message."""

    def run(self, incoming: Any) -> bytes:
        """Answers the call."""
        ours: Trailers = ()
        try:
            admitted = self._admit(incoming)
        except NotAdmitted as exc:
            self.reply = exc.answer
            outcome = reply_to(exc.answer)
        else:
            self._messages = admitted.messages
            if admitted.kept is not None:
                self.reply = admitted.kept
                assert admitted.kept.reply is not None
                outcome = admitted.kept.reply
            elif admitted.call is None:
                reply: bytes = self._unkeyed(self._messages[0], self._context)
                return reply
            else:
                self.name, asked_at = admitted.call.name, now()
                self.reply = answered = drive(answer(admitted.call), self._perform)
                if isinstance(answered, Answer) and answered.created is None:
                    outcome, ours = answered.outcome, MARKS[answered.mark]
                else:
                    outcome = self._admission.replays.reply(answered, asked_at)
        self._finish(outcome, ours)
        assert outcome.message is not None
        return outcome.message

    def _conclude(self, joined: Joined, until: float | None) -> Followed:
        execution = joined.execution
        assert isinstance(execution, Execution)
        self.execution, began = execution, now()
        if joined.leads:
            self._ahead = execution
        else:
            self._executions.add_follower(execution)
        try:
            self._context.add_callback(execution.stir)
            if joined.leads:
                execution.start()
                return execution.follow(None, self._gone)
            execution.begun(until, self._gone)
            if execution.concluded():
                return execution.follow(until, self._gone)
            with self._executions.waiting() as free:
                return execution.follow(until, self._gone) if free else Followed(None)
        finally:
            self._executions.remove_follower(execution)
            if not joined.leads:
                self.waited += now() - began


class _StreamingExchange(_Base):
    """A call with a stream of response messages."""

    _sent = 0

    def run(self, incoming: Any) -> Generator[bytes, None, None]:
        """Answers the call."""
        try:
            admitted = self._admit(incoming)
        except NotAdmitted as exc:
            self.reply = exc.answer
            self._finish(reply_to(exc.answer))
            return
        if admitted.kept is not None:
            self.reply = admitted.kept
            assert admitted.kept.reply is not None
            yield from self._rest(admitted.kept.reply)
            return
        self._messages = admitted.messages
        if admitted.call is None:
            yield from self._unkeyed(self._messages[0], self._context)
            return
        self.name, asked_at = admitted.call.name, now()
        self.reply = answered = yield from drive_streaming(answer(admitted.call), self._perform)
        yield from self._rest(self._admission.replays.reply(answered, asked_at))

    def _conclude(self, joined: Joined, until: float | None) -> Generator[bytes, None, Followed]:
        execution = joined.execution
        assert isinstance(execution, Execution)
        self.execution, began = execution, now()
        if joined.leads:
            self._ahead = execution
        else:
            self._executions.add_follower(execution)
        try:
            if joined.leads:
                return (yield from self._play(execution, until, leads=True))
            self._context.add_callback(execution.stir)
            execution.begun(until, self._gone)
            if execution.concluded():
                return (yield from self._play(execution, until, leads=False))
            with self._executions.waiting() as free:
                return (yield from self._play(execution, until, leads=False)) if free else Followed(None)
        finally:
            self._executions.remove_follower(execution)
            if not joined.leads:
                self.waited += now() - began

    def _play(self, execution: Execution, until: float | None, *, leads: bool) -> Generator[bytes, None, Followed]:
        self._context.add_callback(execution.stir)
        messages = execution.play(until, self._gone, leads)
        try:
            while True:
                message = next(messages)
                self._send_ahead()
                self._sent += 1
                yield message
        except StopIteration as done:
            concluded: Followed = done.value
            return concluded

    def _rest(self, outcome: Outcome) -> Generator[bytes, None, None]:
        """Yields the messages that have not been sent yet, and sends the status."""
        self._send_ahead()
        for number, message in enumerate(unframe(outcome.message or b"")):
            if number >= self._sent:
                yield message
        self._finish(outcome)
