"""The servicers by themselves, on grpc_testing: no interceptor, no network, a store that is a few lines."""

from collections.abc import Iterator

import grpc
import grpc_testing
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from tests.shop.facade import Facade, Loop
from tests.shop.helpers import NO_USERS, ScratchStore, create_order, create_user, usd

from shop.orders.changes import Changes
from shop.orders.service import OrderService
from shop.orders.v1 import orders_pb2
from shop.users.service import UserService
from shop.users.v1 import users_pb2

ORDERS = orders_pb2.DESCRIPTOR.services_by_name["OrderService"]
USERS = users_pb2.DESCRIPTOR.services_by_name["UserService"]


class Bench:
    def __init__(self, server: grpc_testing.Server) -> None:
        self._server = server

    def call(self, service: object, name: str, request: object) -> tuple[object, grpc.StatusCode, list[object]]:
        """The reply, the status and the details of one unary call."""
        method = service.methods_by_name[name]  # type: ignore[attr-defined]  # a ServiceDescriptor
        rpc = self._server.invoke_unary_unary(method, (), request, None)
        reply, trailers, code, _ = rpc.termination()
        raw = dict(trailers).get("grpc-status-details-bin")
        return reply, code, list(Status.FromString(raw).details) if raw else []

    def stream(self, name: str, request: object) -> tuple[object, grpc.StatusCode]:
        """The first reply and the status of a stream that ends by itself."""
        rpc = self._server.invoke_unary_stream(ORDERS.methods_by_name[name], (), request, None)
        first = rpc.take_response()
        return first, rpc.termination()[1]

    def send(self, name: str, requests: list[object]) -> tuple[object, grpc.StatusCode]:
        rpc = self._server.invoke_stream_unary(ORDERS.methods_by_name[name], (), None)
        for request in requests:
            rpc.send_request(request)
        rpc.requests_closed()
        reply, _, code, _ = rpc.termination()
        return reply, code


@pytest.fixture
def bench(scratch: ScratchStore) -> Iterator[Bench]:
    loop = Loop()
    servicers = {
        ORDERS: Facade(OrderService(scratch, Changes(), users=NO_USERS), loop),
        USERS: Facade(UserService(scratch), loop),
    }
    yield Bench(grpc_testing.server_from_dictionary(servicers, grpc_testing.strict_real_time()))
    loop.close()


def test_an_order_is_created_and_read_back(bench: Bench) -> None:
    """A handler needs no interceptor: without one it does its work once per call."""
    order, code, _ = bench.call(ORDERS, "CreateOrder", create_order())
    assert code is grpc.StatusCode.OK
    assert isinstance(order, orders_pb2.Order)
    assert bench.call(ORDERS, "GetOrder", orders_pb2.GetOrderRequest(id=order.id))[0] == order
    again, _, _ = bench.call(ORDERS, "CreateOrder", create_order())
    assert isinstance(again, orders_pb2.Order)
    assert again.id != order.id


def test_a_refusal_is_a_status_with_details(bench: Bench) -> None:
    """A handler tells a refusal itself, by status, message and ErrorInfo."""
    _, code, details = bench.call(ORDERS, "GetOrder", orders_pb2.GetOrderRequest(id="order-none"))
    assert code is grpc.StatusCode.NOT_FOUND
    info = ErrorInfo()
    assert details[0].Unpack(info)  # type: ignore[attr-defined]  # an Any
    assert (info.domain, info.reason, dict(info.metadata)) == ("shop", "ORDER_NOT_FOUND", {"id": "order-none"})


def test_a_refused_transaction_leaves_nothing(bench: Bench, scratch: ScratchStore) -> None:
    """A domain error raised in a transaction rolls its rows back."""
    user, _, _ = bench.call(USERS, "CreateUser", create_user())
    assert isinstance(user, users_pb2.User)
    bench.call(USERS, "AddCredit", users_pb2.AddCreditRequest(user_id=user.id, amount=usd(5)))
    too_much = users_pb2.ReserveCreditRequest(user_id=user.id, amount=usd(6))
    assert bench.call(USERS, "ReserveCredit", too_much)[1] is grpc.StatusCode.FAILED_PRECONDITION
    assert scratch.db.execute("SELECT count(*) FROM shop_reservations").fetchone() == (0,)
    now, _, _ = bench.call(USERS, "GetUser", users_pb2.GetUserRequest(id=user.id))
    assert isinstance(now, users_pb2.User)
    assert now.balance == usd(5)


def test_streams_work_on_the_bare_servicer(bench: Bench) -> None:
    """WatchOrder and ImportOrders need no interceptor either."""
    order, _, _ = bench.call(ORDERS, "CreateOrder", create_order())
    assert isinstance(order, orders_pb2.Order)
    cancelled, _, _ = bench.call(ORDERS, "CancelOrder", orders_pb2.CancelOrderRequest(id=order.id))
    assert bench.stream("WatchOrder", orders_pb2.WatchOrderRequest(id=order.id)) == (cancelled, grpc.StatusCode.OK)
    reply, code = bench.send("ImportOrders", [create_order(), create_order()])
    assert (reply, code) == (orders_pb2.ImportOrdersResponse(count=2), grpc.StatusCode.OK)
