"""The exchange of one keyed call on asyncio. Nothing else touches the call's live context."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from grpc_idempotency._protocol.effects import Answer, Effect, Follow, Get, Join, Watch
from grpc_idempotency._protocol.rules import answer
from grpc_idempotency._server.admission import Admission, Admitted, NotAdmitted
from grpc_idempotency._server.aio.context import code_of
from grpc_idempotency._server.aio.emit import emissions, emit
from grpc_idempotency._server.aio.executions import Execution, Executions
from grpc_idempotency._server.aio.pass_through import Unkeyed
from grpc_idempotency._server.answered import Reply, call_answered
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.drive import drive_async
from grpc_idempotency._server.target import Target
from grpc_idempotency._wire.codes import GRPC_CODES
from grpc_idempotency._wire.framing import unframe
from grpc_idempotency._wire.reply import MARKS, reply_to
from grpc_idempotency.records import Code, Outcome, Trailers

if TYPE_CHECKING:
    import grpc.aio

    _Context = grpc.aio.ServicerContext[Any, Any]

T = TypeVar("T")
Behaviour = Callable[[Any, "_Context"], Any]


def keyed(target: Target, admission: Admission, executions: Executions, unkeyed: Unkeyed) -> Behaviour:
    """Returns the stand-in for a handler whose calls may be keyed. Its messages are bytes.

    Args:
        target: The handler.
        admission: Admits the calls.
        executions: The executions of the interceptor.
        unkeyed: Answers a call whose message turns out to have no key.
    """
    exchange_of = _Exchange if executions.observers.call_answered is None else _ToldExchange

    async def unary(incoming: Any, context: "_Context") -> bytes | None:
        return await exchange_of(target, admission, executions, unkeyed, context).run(incoming)

    async def streaming(incoming: Any, context: "_Context") -> AsyncGenerator[bytes, None]:
        exchange = exchange_of(target, admission, executions, unkeyed, context)
        async with aclosing(emissions(exchange.run(incoming))) as messages:
            async for message in messages:
                yield message

    return streaming if target.response_streams else unary


class _Exchange:
    """Takes the bytes of a call's request, and sends the bytes of its answer."""

    def __init__(
        self, target: Target, admission: Admission, executions: Executions, unkeyed: Unkeyed, context: "_Context"
    ) -> None:
        self._target = target
        self._admission = admission
        self._executions = executions
        self._unkeyed = unkeyed
        self._context = context
        # The live context must not be read once its call has ended, so all of it is read now.
        self._snapshot = Snapshot(target.method.name, context)
        self._messages: Sequence[Any] = ()
        """The request messages, once they are read."""
        self._sent = 0
        """How many messages of a stream were sent."""
        self._ahead: Execution | None = None
        """The execution that this call leads, until the initial metadata of its handler is sent."""
        self._name: bytes | None = None
        """The operation's name, once it is known."""
        self._reply: Reply | None = None
        """The answer to the call, once it is known."""

    async def run(self, incoming: Any) -> bytes | None:
        """Answers the call."""
        try:
            if self._target.request_streams:
                admitted = await self._take_in(incoming)
            else:
                admitted = self._admission.admit(self._target, self._snapshot, incoming)
        except NotAdmitted as exc:
            self._reply = exc.answer
            return await self._send(reply_to(exc.answer))
        if admitted.kept is not None:
            self._reply = admitted.kept
            assert admitted.kept.reply is not None
            return await self._send(admitted.kept.reply)
        self._messages = admitted.messages
        if admitted.call is None:
            return await self._unkeyed(self._messages[0], self._context, emit)
        self._name, asked_at = admitted.call.name, now()
        self._reply = answered = await drive_async(answer(admitted.call), self._perform)
        if isinstance(answered, Answer) and answered.created is None:
            return await self._send(answered.outcome, MARKS[answered.mark])
        return await self._send(self._admission.replays.reply(answered, asked_at))

    async def _take_in(self, incoming: Any) -> Admitted:
        """Admits a call with a stream of requests."""
        intake = self._admission.stream(self._target, self._snapshot)
        self._name = intake.name
        async for raw in incoming:
            intake.take(raw)
        return Admitted(intake.end(), intake.messages)

    def _perform(self, effect: Effect[Any]) -> Any:
        """Performs an effect of a call's plan."""
        match effect:
            case Join(call):
                return self._executions.join(call, self._target, self._messages, self._snapshot)
            case Follow(joined, until):
                execution = joined.execution
                assert isinstance(execution, Execution)
                self._ahead = execution if joined.leads else None
                return execution.follow(until, self._write if self._target.response_streams else None)
            case Watch(name, fence, until):
                return self._executions.poller.wait(name, fence, until)
            case Get(name):
                return self._executions.store.get(name)
            case _:
                raise AssertionError(f"no call performs {effect!r}")

    # The live context

    async def _send(self, outcome: Outcome, ours: Trailers = ()) -> bytes | None:
        """Sends the messages that have not been sent yet, and the status.

        Args:
            outcome: The answer.
            ours: The interceptor's own trailers.
        """
        if self._target.response_streams and outcome.message is not None:
            for number, message in enumerate(unframe(outcome.message)):
                if number >= self._sent:
                    await self._write(message)
        if self._ahead is not None:
            await self._send_ahead()
        if outcome.status is not Code.OK:
            await self._context.abort(GRPC_CODES[outcome.status], outcome.details, outcome.trailers + ours)
        self._context.set_trailing_metadata(outcome.trailers + ours)
        if outcome.details:
            self._context.set_details(outcome.details)
        return None if self._target.response_streams else outcome.message

    async def _write(self, message: bytes) -> None:
        await self._send_ahead()
        await emit(message)
        self._sent += 1

    async def _send_ahead(self) -> None:
        """Sends the handler's initial metadata and compression before the first message, if this call leads (4.7)."""
        run = None if self._ahead is None else self._ahead.run
        self._ahead = None
        if run is None:
            return
        if run.context.compression is not None:
            self._context.set_compression(run.context.compression)
        if run.context.initial_metadata is not None:
            await self._context.send_initial_metadata(run.context.initial_metadata)


class _ToldExchange(_Exchange):
    """An exchange whose answer is told to observers."""

    _waited = 0.0
    """The seconds in which the call waited for a run of another call or process."""
    _trace = b""
    """The trace context of the call that leads the execution which this call is on."""

    async def run(self, incoming: Any) -> bytes | None:
        """Answers the call, and tells that."""
        began = now()
        try:
            message = await super().run(incoming)
        except (asyncio.CancelledError, GeneratorExit):
            self._tell(Code.CANCELLED, began)
            raise
        except BaseException:
            self._tell(self._code(Code.UNKNOWN), began)
            raise
        self._tell(self._code(Code.OK), began)
        return message

    def _code(self, otherwise: Code) -> Code:
        """Returns the code that was set in the live context; ``otherwise`` if none was, or OK."""
        found: Any = self._context.code()  # None until one is set
        code = Code.OK if found is None else code_of(found)
        return otherwise if code is Code.OK else code

    def _tell(self, code: Code, began: float) -> None:
        tell = self._executions.observers.call_answered
        assert tell is not None
        method, seconds = self._target.method.name, now() - began
        tell(
            call_answered(
                method, self._name, self._reply, code, seconds=seconds, waited=self._waited, trace=self._trace
            )
        )

    def _perform(self, effect: Effect[Any]) -> Any:
        reply = super()._perform(effect)
        match effect:
            case Follow(joined):
                assert isinstance(joined.execution, Execution)
                self._trace = joined.execution.call.trace
                return reply if joined.leads else self._timed(reply)
            case Watch():
                return self._timed(reply)
            case _:
                return reply

    async def _timed(self, wait: Awaitable[T]) -> T:
        began = now()
        try:
            return await wait
        finally:
            self._waited += now() - began
