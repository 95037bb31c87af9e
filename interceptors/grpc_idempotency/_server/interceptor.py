"""The part of the server interceptors that both wings share."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NoReturn

import grpc
import grpc.aio

from grpc_idempotency import _checks
from grpc_idempotency._methods.resolve import MOST_METHODS, Method, Methods
from grpc_idempotency._server.admission import Admission
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.counting import Counting
from grpc_idempotency._server.observed import observed
from grpc_idempotency._server.observers import Observers
from grpc_idempotency._server.replays import Replays
from grpc_idempotency._server.target import Target
from grpc_idempotency._wire.codes import GRPC_CODES
from grpc_idempotency._wire.reply import reply_to
from grpc_idempotency.errors import PolicyError
from grpc_idempotency.events import BatchCommitted, Drained, Observer, Swept
from grpc_idempotency.policy import Policy
from grpc_idempotency.principals import PrincipalFunction
from grpc_idempotency.records import Code, Effects, Outcome

logger = logging.getLogger("grpc_idempotency")

SWEEP_PAUSE = 0.05
"""Seconds between two batches of a sweep, so that calls get their turn."""


class InterceptorBase:
    """Base class of the server interceptors: checks the configuration, and decides which calls may be keyed."""

    def __init__(
        self,
        store: Any,
        *,
        policy: Policy,
        methods: Mapping[str, Policy] | None,
        principal: PrincipalFunction,
        secret: bytes | None,
        sweep_every: timedelta | None,
        drain_limit: timedelta,
        replay_cache_bytes: int,
        observers: Sequence[Observer],
        awaited: bool,
    ) -> None:
        self._observers = Observers(observers)
        self._own_store = store
        self._store = observed(store, self._observers, awaited=awaited)
        """The same store, with calls that observers are told of."""
        self._methods = Methods(policy, methods, self._check_policy)
        self._admission = Admission(
            principal,
            secret,
            Replays(_checks.number("replay_cache_bytes", replay_cache_bytes)),
            one_commit=hasattr(store, "complete_unclaimed"),
            trace=self._observers.trace,
        )
        self._sweep_every = None if sweep_every is None else _checks.duration("sweep_every", sweep_every, zero=False)
        self._drain_limit = _checks.duration("drain_limit", drain_limit)
        tell = self._observers.records_counted
        self._counting = None if tell is None or not hasattr(store, "count") else Counting(tell)
        """Counts the store's records, if an observer wants that and the store can."""
        self._stop_observing = self._observe_batches()
        self._was_drained = False

    def _observe_batches(self) -> Callable[[], object]:
        """Tells of the batches of the store's writer, if an observer wants that. Returns the function that ends it."""
        tell = self._observers.batch_committed
        observe = getattr(self._own_store, "observe", None)
        if tell is None or observe is None:
            return lambda: None
        end: Callable[[], object] = observe(lambda size, seconds: tell(BatchCommitted(size=size, seconds=seconds)))
        return end

    def _may_be_keyed(self, method: Method, handler: Any, metadata: Any) -> bool:
        """True if a call may have a key, or needs one. All other calls are passed through."""
        if method.passes:
            return False
        policy = method.policy
        if policy.pass_bidirectional and handler.request_streaming and handler.response_streaming:
            return False
        if policy.required:
            return True
        for name, _ in metadata or ():
            if name in policy.headers:
                return True
        return method.has_request_id and not handler.request_streaming

    def _check(self, served: "Served") -> None:
        """Checks the policies against the server's methods, if all of them are known.

        Raises:
            PolicyError: A policy can't be met.
        """
        if served.all_known:
            self._methods.check(served.names)
        left = sorted(name for name in served.names if self._admission.leaves_to_clients(self._methods[name]))
        if left:
            logger.info(
                "with a secret, requests that carry their key in request_id are not stored; only a retry of its client "
                "finishes such an operation of %s",
                ", ".join(left),
            )

    def _check_policy(self, policy: Policy) -> None:
        if policy.effects is Effects.TRANSACTIONAL and not hasattr(self._own_store, "transaction"):
            raise PolicyError(
                f"Effects.TRANSACTIONAL needs a store with transactions; {type(self._own_store).__name__} has none."
            )

    def _swept(self, deleted: int, freed_bytes: int, began: float) -> None:
        """Tells of the end of a sweep, which began at this time of the clock for leases."""
        self._observers.announce(Swept(deleted=deleted, freed_bytes=freed_bytes, seconds=now() - began))

    def _drained(self, unfinished: int, began: float) -> None:
        """Tells of the end of the first draining, which began at this time of the clock for leases."""
        if self._was_drained:
            return
        self._was_drained = True
        self._observers.announce(Drained(unfinished=unfinished, seconds=now() - began))


def method_handler(
    like: "grpc.RpcMethodHandler[Any, Any]", behaviour: Callable[[Any, Any], Any], *, typed: bool
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Returns a handler of the same cardinality with another behaviour.

    Args:
        like: The handler whose cardinality it has.
        behaviour: The function behind it.
        typed: True for the serializers of ``like``; otherwise its messages are bytes.
    """
    make: Callable[..., grpc.RpcMethodHandler[Any, Any]] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(like.request_streaming), bool(like.response_streaming)]
    if typed:
        return make(behaviour, like.request_deserializer, like.response_serializer)
    return make(behaviour)


class StandIns:
    """The handlers that gRPC gets in place of the embedder's. One is made again only if a method's handler changes."""

    def __init__(self, make: Callable[[Target], Callable[[Any, Any], Any]], *, typed: bool) -> None:
        """Prepares to make stand-ins.

        Args:
            make: Makes the behaviour of a stand-in.
            typed: The same as for :func:`method_handler`.
        """
        self._make = make
        self._typed = typed
        self._made: dict[str, tuple[object, grpc.RpcMethodHandler[Any, Any]]] = {}

    def of(self, handler: "grpc.RpcMethodHandler[Any, Any]", method: Method) -> "grpc.RpcMethodHandler[Any, Any]":
        """Returns the stand-in of this handler."""
        known, made = self._made.get(method.name, (None, handler))
        if known is not handler:
            if len(self._made) >= MOST_METHODS:
                self._made.clear()
            made = method_handler(handler, self._make(Target.of(handler, method)), typed=self._typed)
            self._made[method.name] = handler, made
        return made


class Served:
    """The handlers of a server, and the names of its methods if the handlers list them."""

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []
        self.names: set[str] = set()
        """The full names of the methods."""
        self.all_known = True
        """True if ``names`` has all methods of the server."""

    def add(self, handlers: Iterable[Any]) -> None:
        """Adds handlers."""
        for handler in handlers:
            # Handlers made by generated code list their methods here. Other kinds of handlers have no such list.
            methods = getattr(handler, "_method_handlers", None)
            self.handlers.append(handler)
            self.names.update(methods or ())
            self.all_known = self.all_known and methods is not None


def unmet(error: PolicyError) -> Outcome:
    """Returns the answer to every call of a method whose policy can't be met: it must not run under another policy."""
    logger.error("a call was refused: %s", error)
    details = "This method can't be called: its idempotency policy can't be met. The server's log says why."
    return reply_to(Outcome(status=Code.INTERNAL, details=details))


def check_kind(server: Any, *, awaited: bool) -> None:
    """Checks that the interceptor can be attached to this server.

    Args:
        server: The object given to ``attach``.
        awaited: True for the interceptor of ``grpc.aio``.

    Raises:
        PolicyError: It is a server of the other kind, or no server.
    """
    wrong = grpc.Server if awaited else grpc.aio.Server
    if isinstance(server, wrong) or not callable(getattr(server, "start", None)):
        kind, other = _KINDS if awaited else reversed(_KINDS)
        raise PolicyError(
            f"{kind}.IdempotencyInterceptor can't be attached to {type(server).__module__}.{type(server).__name__}: "
            f"it serves {_SERVERS[kind]} alone. For {_SERVERS[other]} use {other}.IdempotencyInterceptor."
        )


def misplaced(handler: "grpc.RpcMethodHandler[Any, Any]") -> "grpc.RpcMethodHandler[Any, Any]":
    """Returns a handler that refuses all calls, for a ``grpc.server`` that was given the interceptor of ``grpc.aio``.

    Otherwise gRPC would use the coroutine as the handler, and never answer a client.
    """
    logger.error("a call was refused: %s", _MISPLACED)
    return method_handler(handler, _refuse, typed=False)


def _refuse(_incoming: Any, context: grpc.ServicerContext) -> NoReturn:
    outcome = reply_to(Outcome(status=Code.INTERNAL, details=_MISPLACED))
    context.set_trailing_metadata(outcome.trailers)
    context.abort(GRPC_CODES[outcome.status], outcome.details)


_KINDS = ("grpc_idempotency.aio", "grpc_idempotency")
_SERVERS = {"grpc_idempotency.aio": "grpc.aio.server", "grpc_idempotency": "grpc.server"}
_MISPLACED = (
    "This grpc.server was given grpc_idempotency.aio.IdempotencyInterceptor, which serves grpc.aio.server alone. "
    "Give it grpc_idempotency.IdempotencyInterceptor. No handler has run."
)
