"""Pays for an order with the shop in two processes: users at one address, orders at another."""

import sys
import uuid

import grpc
from google.type.money_pb2 import Money

from grpc_idempotency import ClientInterceptor
from shop.orders.v1.orders_pb2 import CheckoutRequest, CreateOrderRequest, Order, OrderItem
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub
from shop.users.v1.users_pb2 import AddCreditRequest, CreateUserRequest, GetUserRequest, User
from shop.users.v1.users_pb2_grpc import UserServiceStub


def dollars(units: int) -> Money:
    return Money(currency_code="USD", units=units)


def main(users_at: str, orders_at: str) -> None:
    keyed = ClientInterceptor()
    with grpc.insecure_channel(users_at) as to_users, grpc.insecure_channel(orders_at) as to_orders:
        users = UserServiceStub(grpc.intercept_channel(to_users, keyed))
        orders = OrderServiceStub(grpc.intercept_channel(to_orders, keyed))

        ada = users.CreateUser(CreateUserRequest(user=User(display_name="Ada", email="ada@example.com")), timeout=10)
        users.AddCredit(AddCreditRequest(user_id=ada.id, amount=dollars(100)), timeout=10)
        request = CreateOrderRequest(
            customer_id=ada.id, items=[OrderItem(sku="SKU001", quantity=1)], total_amount=dollars(60)
        )
        order = orders.CreateOrder(request, timeout=10)

        checkout = CheckoutRequest(order_id=order.id, request_id=str(uuid.uuid4()))
        for _ in range(2):  # a retry pays nothing
            order = orders.Checkout(checkout, timeout=20)
            balance = users.GetUser(GetUserRequest(id=ada.id), timeout=10).balance.units
            print(order.id, Order.State.Name(order.state), "balance", balance)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: checkout.py USERS_ADDRESS ORDERS_ADDRESS, each as HOST:PORT")
    try:
        main(*sys.argv[1:])
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
