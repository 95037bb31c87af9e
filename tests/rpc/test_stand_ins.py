"""What stands in for a handler is made once, and never outlives the handler it was made for."""

from typing import Any

import grpc

from grpc_idempotency import Policy
from grpc_idempotency._methods.resolve import MOST_METHODS, Method, Methods
from grpc_idempotency._server.interceptor import StandIns
from grpc_idempotency._server.target import Target


def handler(reply: bytes) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(lambda _request, _context: reply)


def method(name: str) -> Method:
    return Method(name=name, policy=Policy(), passes=False, has_request_id=False)


def behaviour(stand_in: "grpc.RpcMethodHandler[Any, Any]") -> Any:
    return stand_in.unary_unary


class Made:
    """Makes stand-ins, and counts them."""

    def __init__(self) -> None:
        self.count = 0
        self.all = StandIns(self._make, typed=True)

    def _make(self, target: Target) -> Any:
        self.count += 1
        return lambda request, context: b"in its place: " + target.behaviour(request, context)


def test_one_is_made_for_many_calls() -> None:
    """A handler that serves many calls of a method has one stand-in."""
    made, one = Made(), handler(b"one")
    first, again = made.all.of(one, method("/s/A")), made.all.of(one, method("/s/A"))
    assert first is again
    assert made.count == 1
    assert behaviour(first)(b"", None) == b"in its place: one"


def test_another_handler_of_the_method_gets_its_own() -> None:
    """An interceptor between ours and the service may make a new handler for each call."""
    made = Made()
    replies = [behaviour(made.all.of(handler(reply), method("/s/A")))(b"", None) for reply in (b"one", b"two", b"one")]
    assert replies == [b"in its place: one", b"in its place: two", b"in its place: one"]


def test_one_handler_of_two_methods_has_two() -> None:
    """A handler that serves two methods has a stand-in for each."""
    made, one = Made(), handler(b"one")
    assert made.all.of(one, method("/s/A")) is not made.all.of(one, method("/s/B"))


def test_a_server_of_any_name_does_not_grow() -> None:
    """A server that answers to any method's name keeps a bounded number of stand-ins and methods."""
    made, one, methods = Made(), handler(b"one"), Methods(Policy(), {}, lambda _policy: None)
    for number in range(2 * MOST_METHODS + 10):
        made.all.of(one, methods[f"/s/M{number}"])
    assert len(made.all._made) <= MOST_METHODS
    assert len(methods) <= MOST_METHODS
    assert methods["/s/M3"].name == "/s/M3"
