"""The interceptor for ``grpc.aio.server``: admits calls, runs the protocol for the keyed ones, sends what it says."""

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from grpc_idempotency._admission import Admission
from grpc_idempotency._aio_attach import Attachment
from grpc_idempotency._aio_flights import Flight, Flights
from grpc_idempotency._aio_run import Run
from grpc_idempotency._context import GRPC_CODES, INTERNAL_ERROR, Snapshot, code_of
from grpc_idempotency._drive import drive_async
from grpc_idempotency._effects import Answer, Board, CutShort, Effect, Get, Land, Mark, Watch
from grpc_idempotency._methods import Method, Methods
from grpc_idempotency._protocol import answer
from grpc_idempotency._refusals import Reason, Refusal
from grpc_idempotency._wire import REFUSED, STATUS, carries_key, reply_to
from grpc_idempotency.errors import PolicyError
from grpc_idempotency.policy import Policy
from grpc_idempotency.principals import PrincipalFunction, mtls_or_shared
from grpc_idempotency.records import Code, Effects, Outcome
from grpc_idempotency.store import AsyncStore

logger = logging.getLogger("grpc_idempotency")

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]
    _Context = grpc.aio.ServicerContext[Any, Any]
_Behaviour = Callable[[Any, Any], Any]
_SWEEP_PAUSE = 0.05  # seconds between two batches of a sweep, so that calls get their turn


class IdempotencyInterceptor(grpc.aio.ServerInterceptor):
    """Makes the unary methods of a ``grpc.aio.server`` safe to retry.

    Put it behind (after) the interceptors that authenticate: a replay must be authorised too. Interceptors before it
    see bytes in place of messages.

    Args:
        store: Where records are kept. Opened at the first keyed call, or at the server's start with :meth:`attach`.
        policy: What holds for methods that ``methods`` does not name.
        methods: Policies by full method name, ``/package.Service/Method``, or by a glob of that form. An exact name
            is stronger than a glob, an earlier glob than a later one.
        principal: Names the principal that a call's key belongs to (3.1).
        secret: Makes the stored names and fingerprints HMACs under this secret, so that who reads the store can't
            guess keys. Every process on the store needs the same one.
        sweep_every: How often expired records are deleted; ``None``: not by this process.
        drain_limit: How long :meth:`close` waits for operations that nobody waits for any more.
        max_detached: How many such operations there may be before no further ones are taken on.
    """

    def __init__(
        self,
        store: AsyncStore,
        *,
        policy: Policy = Policy(),  # noqa: B008  # frozen
        methods: Mapping[str, Policy] | None = None,
        principal: PrincipalFunction = mtls_or_shared,
        secret: bytes | None = None,
        sweep_every: timedelta | None = timedelta(minutes=5),
        drain_limit: timedelta = timedelta(seconds=30),
        max_detached: int = 10_000,
    ) -> None:
        if not isinstance(getattr(store, "claim", None), Callable):  # type: ignore[arg-type]  # a class, to isinstance
            raise PolicyError(f"{store!r} is no store of grpc_idempotency.aio.")
        self._store = store
        self._methods = Methods(policy, methods or {})
        for each in (policy, *(methods or {}).values()):
            if each.effects is Effects.TRANSACTIONAL and not hasattr(store, "transaction"):
                raise PolicyError(
                    f"Effects.TRANSACTIONAL needs a store with transactions; {type(store).__name__} has none."
                )
        self._admission = Admission(principal, secret)
        self._flights = Flights(store, max_detached=max_detached)
        self._sweep_every = sweep_every
        self._sweeper: asyncio.Task[None] | None = None
        self._drain_limit = drain_limit

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """For grpc: wraps the handler of a call. Does no I/O."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = self._methods[handler_call_details.method]
        keyed = not method.passes and carries_key(handler_call_details.invocation_metadata, method.policy.headers)
        behaviour = handler.unary_unary
        if behaviour is None:
            return _refusing_stream(handler, method) if keyed else handler
        if keyed or (not method.passes and (method.has_request_id or method.policy.required)):
            return grpc.unary_unary_rpc_method_handler(self._keyed(handler, behaviour, method))
        return grpc.unary_unary_rpc_method_handler(
            _discreet(behaviour), handler.request_deserializer, handler.response_serializer
        )

    # Keyed calls

    def _keyed(self, handler: "_Handler", behaviour: "_Behaviour", method: Method) -> "_Behaviour":
        async def keyed(raw: bytes, context: "_Context") -> bytes:
            # A context must not be asked anything once its call is over, so it is asked everything now.
            snapshot = Snapshot(method.name, context)
            try:
                request = handler.request_deserializer(raw) if handler.request_deserializer else raw
            except Exception:
                logger.exception("a request to %s could not be deserialized", method.name)
                trailers = ((STATUS, REFUSED),)
                return await _send(context, Outcome(status=Code.INTERNAL, details=_NO_REQUEST, trailers=trailers))
            admitted = self._admission.admit(method, snapshot, raw, request)
            if isinstance(admitted, Refusal):
                return await _send(context, reply_to(admitted))
            run = Run(method, behaviour, handler.response_serializer, request, snapshot)
            if admitted is None:
                return await _unkeyed(run, context)
            self._start_sweeping()
            answered = await drive_async(answer(admitted), _Follower(self._flights, run).perform)
            if isinstance(answered, Answer) and answered.mark in _OWN_RUN:
                await _send_ahead(context, run)
            return await _send(context, reply_to(answered))

        return keyed

    # Life

    def attach(self, server: grpc.aio.Server) -> None:
        """Ties this interceptor to the server it serves. Call it before services are added.

        At ``server.start()`` the policies are checked against the server's methods and the store is opened; after
        ``server.stop()`` operations under way are drained and the store is closed, and ``wait_for_termination`` waits
        for that.
        """
        Attachment(server, at_start=self._check_and_open, at_stop=self.close)

    async def _check_and_open(self, names: set[str] | None) -> None:
        unmatched = self._methods.unmatched(names) if names is not None else []
        if unmatched:
            raise PolicyError(f"There is a policy for {', '.join(unmatched)}, but the server has no such method.")
        await self.open()

    def _start_sweeping(self) -> None:
        if self._sweeper is None and self._sweep_every is not None:
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep(self._sweep_every.total_seconds()))

    async def _sweep(self, every: float) -> None:
        while True:
            await asyncio.sleep(every * random.uniform(0.5, 1.0))  # noqa: S311  # so that processes take turns
            try:
                await self._sweep_once()
            except Exception:
                logger.warning("a sweep failed; the next one will try again", exc_info=True)

    async def _sweep_once(self) -> None:
        deleted = freed = 0
        more = True
        while more:
            swept = await self._store.sweep()
            deleted, freed, more = deleted + swept.deleted, freed + swept.freed_bytes, swept.more
            await asyncio.sleep(_SWEEP_PAUSE)
        if deleted:
            logger.info("swept %d expired records, gave back %d bytes", deleted, freed)

    async def open(self) -> None:
        """Opens the store, so that one that can't be used is found at start and not by the first call."""
        await self._store.open()

    async def close(self) -> None:
        """Lets operations under way end, within the drain limit, then closes the store. For after ``server.stop``.

        What can't end in time is left to whoever comes next, as that of a dead server is (4.4, 4.5).
        """
        unfinished = await self._flights.close(self._drain_limit.total_seconds())
        if unfinished:
            logger.error("%d operations did not end within the drain limit of %s", unfinished, self._drain_limit)
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._store.close()


_NO_REQUEST = "Exception deserializing request!"
_OWN_RUN = (Mark.EXECUTED, Mark.UNPROTECTED)


class _Follower:
    """What the plan of a call may ask for."""

    def __init__(self, flights: Flights, run: Run) -> None:
        self._flights = flights
        self._run = run

    async def perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case Board(call):
                return self._flights.board(call, self._run)
            case Land(boarded, until):
                assert isinstance(boarded.flight, Flight)
                return await boarded.flight.follow(until)
            case Watch(name, fence, until):
                return await self._flights.watch(name, fence, until)
            case Get(name):
                return await self._flights.store.get(name)
            case _:
                raise AssertionError(f"no call performs {effect!r}")


# Sending


async def _send_ahead(context: "_Context", run: Run) -> None:
    """What the handler wanted sent before its message; the first call's alone (4.7)."""
    if run.context.compression is not None:
        context.set_compression(run.context.compression)
    if run.context.initial_metadata is not None:
        await context.send_initial_metadata(run.context.initial_metadata)


async def _send(context: "_Context", outcome: Outcome) -> bytes:
    if outcome.status is not Code.OK:
        await context.abort(GRPC_CODES[outcome.status], outcome.details, outcome.trailers)
    assert outcome.message is not None
    context.set_trailing_metadata(outcome.trailers)
    if outcome.details:
        context.set_details(outcome.details)
    return outcome.message


def _refusing_stream(handler: "_Handler", method: Method) -> "_Handler":
    refusal = reply_to(Refusal(reason=Reason.STREAMING_UNSUPPORTED, variables={"method": method.name}))

    async def refuse(_request: Any, context: "_Context") -> None:
        await _send(context, refusal)

    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(refuse)
    if handler.stream_unary is not None:
        return grpc.stream_unary_rpc_method_handler(refuse)
    return grpc.stream_stream_rpc_method_handler(refuse)


# Un-keyed calls


async def _unkeyed(run: Run, context: "_Context") -> bytes:
    """A call that turned out to have no key only when its message was read: it ends with its call, as ever."""
    ended = await run.to_end(None)
    assert not isinstance(ended, CutShort)
    await _send_ahead(context, run)
    return await _send(context, ended.outcome)


def _discreet(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The handler as it is, but for the text of its exceptions, which goes to the log and not to the client (4.7)."""
    if inspect.iscoroutinefunction(behaviour):

        async def discreet(request: Any, context: "_Context") -> Any:
            try:
                return await behaviour(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception:
                logger.exception("a handler raised")
                await context.abort(_code_after(context), INTERNAL_ERROR)

        return discreet

    def discreet_on_thread(request: Any, context: Any) -> Any:
        try:
            return behaviour(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception:
            logger.exception("a handler raised")
            context.abort(grpc.StatusCode.UNKNOWN, INTERNAL_ERROR)

    return discreet_on_thread


def _code_after(context: "_Context") -> grpc.StatusCode:
    """As gRPC does it: a handler may set a code and then raise."""
    code: Any = context.code()  # a number, or nothing yet, whatever its type says
    return GRPC_CODES[code_of(code)] if code else grpc.StatusCode.UNKNOWN
