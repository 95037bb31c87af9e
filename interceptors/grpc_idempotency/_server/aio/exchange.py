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
    tell = executions.observers.call_answered

    async def untold(incoming: Any, context: "_Context") -> bytes | None:
        return await _Exchange(target, admission, executions, unkeyed, context).run(incoming)

    async def told(incoming: Any, context: "_Context") -> bytes | None:
        assert tell is not None
        began = now()
        exchange = _Exchange(target, admission, executions, unkeyed, context)
        try:
            message = await exchange.run(incoming)
        except (asyncio.CancelledError, GeneratorExit):
            tell(call_answered(exchange, Code.CANCELLED, began))
            raise
        except BaseException:
            tell(call_answered(exchange, exchange.code(Code.UNKNOWN), began))
            raise
        tell(call_answered(exchange, exchange.code(Code.OK) if exchange.reply is None else Code.OK, began))
        return message

    unary = untold if tell is None else told

    async def streaming(incoming: Any, context: "_Context") -> AsyncGenerator[bytes, None]:
        async with aclosing(emissions(unary(incoming, context))) as messages:
            async for message in messages:
                yield message

    return streaming if target.response_streams else unary


class _Exchange:
    """Takes the bytes of a call's request, and sends the bytes of its answer."""

    # Class attributes until they are set: each call makes an exchange.
    name: bytes | None = None
    """The operation's name, once it is known."""
    reply: Reply | None = None
    """The answer to the call, once it is known."""
    execution: Execution | None = None
    """The execution that this call is on, if it is in this process."""
    waited = 0.0
    """The seconds in which the call waited for a run of another call or process, if an observer wants to know."""

    def __init__(
        self, target: Target, admission: Admission, executions: Executions, unkeyed: Unkeyed, context: "_Context"
    ) -> None:
        self.target = target
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

    async def run(self, incoming: Any) -> bytes | None:
        """Answers the call."""
        try:
            if self.target.request_streams:
                admitted = await self._take_in(incoming)
            else:
                admitted = self._admission.admit(self.target, self._snapshot, incoming)
        except NotAdmitted as exc:
            self.reply = exc.answer
            return await self._send(reply_to(exc.answer))
        if admitted.kept is not None:
            self.reply = admitted.kept
            assert admitted.kept.reply is not None
            return await self._send(admitted.kept.reply)
        self._messages = admitted.messages
        if admitted.call is None:
            return await self._unkeyed(self._messages[0], self._context, emit)
        self.name, asked_at = admitted.call.name, now()
        self.reply = answered = await drive_async(answer(admitted.call), self._perform)
        if isinstance(answered, Answer) and answered.created is None:
            return await self._send(answered.outcome, MARKS[answered.mark])
        return await self._send(self._admission.replays.reply(answered, asked_at))

    async def _take_in(self, incoming: Any) -> Admitted:
        """Admits a call with a stream of requests."""
        intake = self._admission.stream(self.target, self._snapshot)
        self.name = intake.name
        async for raw in incoming:
            intake.take(raw)
        return Admitted(intake.end(), intake.messages)

    def _perform(self, effect: Effect[Any]) -> Any:
        """Performs an effect of a call's plan."""
        match effect:
            case Join(call):
                return self._executions.join(call, self.target, self._messages, self._snapshot)
            case Follow(joined, until):
                execution = joined.execution
                assert isinstance(execution, Execution)
                self.execution, self._ahead = execution, execution if joined.leads else None
                followed = execution.follow(until, self._write if self.target.response_streams else None)
                return followed if joined.leads else self._wait(followed)
            case Watch(name, fence, until):
                return self._wait(self._executions.poller.wait(name, fence, until))
            case Get(name):
                return self._executions.store.get(name)
            case _:
                raise AssertionError(f"no call performs {effect!r}")

    def _wait(self, wait: Awaitable[T]) -> Awaitable[T]:
        """Measures a wait for a run of another call or process, if an observer wants to know."""
        return wait if self._executions.observers.call_answered is None else self._timed(wait)

    async def _timed(self, wait: Awaitable[T]) -> T:
        began = now()
        try:
            return await wait
        finally:
            self.waited += now() - began

    # The live context

    def code(self, otherwise: Code) -> Code:
        """Returns the code that was set in the live context; ``otherwise`` if none was, or OK."""
        found: Any = self._context.code()  # None until one is set
        code = Code.OK if found is None else code_of(found)
        return otherwise if code is Code.OK else code

    async def _send(self, outcome: Outcome, ours: Trailers = ()) -> bytes | None:
        """Sends the messages that have not been sent yet, and the status.

        Args:
            outcome: The answer.
            ours: The interceptor's own trailers.
        """
        if self.target.response_streams and outcome.message is not None:
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
        return None if self.target.response_streams else outcome.message

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
