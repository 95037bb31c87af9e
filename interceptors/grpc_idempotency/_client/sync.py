"""The interceptor for channels of ``grpc``."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import grpc

from grpc_idempotency._client.keys import UNCLEAR, ClientPolicy, Clients, known_count, prepare, readable, wants_count
from grpc_idempotency._operation.scope import Scope, current_scope


class ClientInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Gives each call of a channel an idempotency key: ``grpc.intercept_channel(channel, ClientInterceptor())``.

    Each call has one key, which gRPC's own retries keep. In the handler of a keyed call the key is derived from the
    operation, so that it is the same in every run (5.3). Elsewhere it is new. A call that has a key already, in its
    metadata or as ``request_id`` in its request, keeps that one. Put it before interceptors that retry.

    Args:
        policy: The policy of methods that ``methods`` does not name.
        methods: Policies by full method name, ``/package.Service/Method``, or by a glob of that form. An exact name
            is stronger than a glob, an earlier glob than a later one.

    Raises:
        PolicyError: A policy is not a :class:`ClientPolicy`, or a name is not one of a method.
    """

    def __init__(
        self,
        *,
        policy: ClientPolicy = ClientPolicy(),  # noqa: B008  # frozen
        methods: Mapping[str, ClientPolicy] | None = None,
    ) -> None:
        self._clients = Clients(policy, methods)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Adds a key to a unary call. grpc calls this."""
        return self._call(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Adds a key to a server-stream. grpc calls this."""
        return self._call(continuation, client_call_details, request, messages=True)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Adds a key to a client-stream. grpc calls this."""
        return self._call(continuation, client_call_details, request_iterator, streams=True)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Adds a key to a bidirectional stream if its policy says so. grpc calls this."""
        return self._call(continuation, client_call_details, request_iterator, messages=True, bidirectional=True)

    def _call(
        self,
        continuation: Callable[[Any, Any], Any],
        details: Any,
        requests: Any,
        *,
        streams: bool = False,
        messages: bool = False,
        bidirectional: bool = False,
    ) -> Any:
        rules = self._clients.rules(details.method, bidirectional=bidirectional)
        metadata, count, scope = readable(details.metadata), None, current_scope()
        if streams and wants_count(rules, metadata):
            requests, count = _counted(requests, rules.count_up_to)
        _look_back(scope)
        ours, ticket = prepare(rules, metadata, requests, count, scope)
        if ours or scope is not None or metadata is not details.metadata:
            timeout = scope.timeout(details.timeout) if scope is not None else details.timeout
            details = _Details(details, (*(metadata or ()), *ours), timeout)
        if streams:
            requests = iter(requests)
        try:
            call = continuation(details, requests)
        except BaseException:
            if ticket is not None:
                ticket.abandon()
            raise
        if ticket is not None:
            ticket.begun(call, weakly=messages)
        return call


class _Details(grpc.ClientCallDetails):
    """A call's details with other metadata and another timeout. All other attributes are those of the given details."""

    def __init__(self, given: Any, metadata: Any, timeout: float | None) -> None:
        self._given = given
        self.metadata = metadata
        self.timeout = timeout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._given, name)


def _look_back(scope: Scope | None) -> None:
    """Records whether the scope's latest call ended unclearly, if it has ended."""
    last = scope.last if scope is not None else None
    if last is not None and last.call is not None and last.ended and hasattr(last.call, "code"):
        last.unclear = last.call.code() in UNCLEAR


def _counted(messages: Iterable[Any], limit: int) -> tuple[Iterable[Any], int | None]:
    """Returns a stream's messages and their number: ``None`` for an iterator of more than ``limit`` messages."""
    messages, count = known_count(messages)
    if count is not None or not limit:
        return messages, count
    rest: Iterator[Any] = iter(messages)
    ahead = tuple(islice(rest, limit + 1))
    return (ahead, len(ahead)) if len(ahead) <= limit else (chain(ahead, rest), None)
