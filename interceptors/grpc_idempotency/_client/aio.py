"""The interceptors for channels of ``grpc.aio``."""

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import grpc.aio

from grpc_idempotency._client.answers import status_in
from grpc_idempotency._client.keys import UNCLEAR, ClientPolicy, Clients, known_count, prepare, readable, wants_count
from grpc_idempotency._operation.scope import Scope, current_scope

_Continuation = Callable[[Any, Any], Awaitable[Any]]


def client_interceptors(
    *,
    policy: ClientPolicy = ClientPolicy(),  # noqa: B008  # frozen
    methods: Mapping[str, ClientPolicy] | None = None,
) -> list[grpc.aio.ClientInterceptor]:
    """Makes interceptors that give each call of a channel a key.

    Use them as ``grpc.aio.insecure_channel(target, interceptors=client_interceptors())``, before interceptors that
    retry. They do the same as :class:`grpc_idempotency.ClientInterceptor`.

    Args:
        policy: The policy of methods that ``methods`` does not name.
        methods: Policies by full method name, ``/package.Service/Method``, or by a glob of that form. An exact name
            is stronger than a glob, an earlier glob than a later one.

    Returns:
        Four interceptors, one for each cardinality, since grpc.aio registers an interceptor for only one.

    Raises:
        PolicyError: A policy is not a :class:`grpc_idempotency.ClientPolicy`, or a name is not one of a method.
    """
    clients = Clients(policy, methods)
    return [_UnaryUnary(clients), _UnaryStream(clients), _StreamUnary(clients), _StreamStream(clients)]


async def status_of(call: grpc.aio.Call) -> str | None:
    """Waits for the end of a call, and returns how it was answered (2.2).

    :func:`grpc_idempotency.status_of` takes the errors of both kinds of channel.

    Args:
        call: A call of ``grpc.aio``.

    Returns:
        ``executed``, ``replayed``, ``attached``, ``refused`` or ``unprotected``. ``None`` if the server treated the
        call as un-keyed, or no answer came.
    """
    return status_in(await call.trailing_metadata())


class _Interceptor:
    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def _call(
        self,
        continuation: _Continuation,
        details: Any,
        requests: Any,
        *,
        streams: bool = False,
        bidirectional: bool = False,
    ) -> Any:
        rules = self._clients.rules(details.method, bidirectional=bidirectional)
        metadata, count, scope = readable(details.metadata), None, current_scope()
        if streams and wants_count(rules, metadata):
            requests, count = await _counted(requests, rules.count_up_to)
        await _look_back(scope)
        ours, ticket = prepare(rules, metadata, requests, count, scope)
        if ours or scope is not None or metadata is not details.metadata:
            timeout = scope.timeout(details.timeout) if scope is not None else details.timeout
            details = _with(details, grpc.aio.Metadata(*(metadata or ()), *ours), timeout)
        try:
            call = await continuation(details, requests)
        except BaseException:
            if ticket is not None:
                ticket.abandon()
            raise
        if ticket is not None:
            ticket.begun(call)
        return call


class _UnaryUnary(_Interceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._call(continuation, client_call_details, request)


class _UnaryStream(_Interceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._call(continuation, client_call_details, request)


class _StreamUnary(_Interceptor, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._call(continuation, client_call_details, request_iterator, streams=True)


class _StreamStream(_Interceptor, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._call(continuation, client_call_details, request_iterator, bidirectional=True)


def _with(details: Any, metadata: grpc.aio.Metadata, timeout: float | None) -> grpc.aio.ClientCallDetails:
    return grpc.aio.ClientCallDetails(
        method=details.method,
        timeout=timeout,
        metadata=metadata,
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )


async def _look_back(scope: Scope | None) -> None:
    """Records whether the scope's latest call ended unclearly. It asks ended calls only, so it never waits."""
    last = scope.last if scope is not None else None
    if last is not None and last.call is not None and last.ended and hasattr(last.call, "code"):
        last.unclear = await last.call.code() in UNCLEAR


async def _counted(messages: Any, limit: int) -> tuple[Any, int | None]:
    """Returns a stream's messages and their number: ``None`` for an iterator of more than ``limit`` messages."""
    messages, count = known_count(messages)
    if count is not None or not limit or _written_later(messages):
        return messages, count
    rest = aiter(messages) if isinstance(messages, AsyncIterable) else _as_async(messages)
    ahead: list[Any] = []
    async for message in rest:
        ahead.append(message)
        if len(ahead) > limit:
            return _chained(ahead, rest), None
    return tuple(ahead), len(ahead)


def _written_later(messages: Any) -> bool:
    """Returns whether the caller will ``write`` the messages: grpc.aio then passes a generator of its own.

    Nothing can be read from it beforehand, since ``write`` waits until the interceptors have begun the call.
    """
    frame = messages.ag_frame if inspect.isasyncgen(messages) else None
    return frame is not None and str(frame.f_globals.get("__name__")).startswith("grpc.aio")


async def _as_async(messages: Iterable[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def _chained(ahead: list[Any], rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    for message in ahead:
        yield message
    async for message in rest:
        yield message
