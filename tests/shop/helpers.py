"""What the shop's tests share: a shop to call, requests to send, and ways to read a refusal."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc.aio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from google.type.money_pb2 import Money

from shop.config import Config
from shop.database import SQLITE, Data, Database
from shop.orders.v1.orders_pb2 import CreateOrderRequest, OrderItem
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub
from shop.schema import migrate
from shop.server import Shop, serving
from shop.users.v1.users_pb2 import CreateUserRequest, User
from shop.users.v1.users_pb2_grpc import UserServiceStub

if TYPE_CHECKING:  # names for type checkers alone
    from shop.orders.v1.orders_pb2_grpc import OrderServiceAsyncStub
    from shop.users.v1.users_pb2_grpc import UserServiceAsyncStub

T = TypeVar("T")
M = TypeVar("M", bound=Message)
NO_CONTEXT: Any = None
"""For a bare servicer in a call that has nothing to say through its context."""
NO_USERS: Any = None
"""For an order service that nobody checks out at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Generated stubs to one shop."""

    shop: Shop
    channel: grpc.aio.Channel
    orders: "OrderServiceAsyncStub"
    users: "UserServiceAsyncStub"

    async def user(self, email: str = "ada@example.com") -> User:
        return await self.users.CreateUser(create_user(email))


@asynccontextmanager
async def open_shop(file: Path) -> AsyncIterator[Client]:
    """A real server in this process, on a free port, and a client of it."""
    async with open_shop_on(Config(port=0, store=f"sqlite:///{file}")) as client:
        yield client


@asynccontextmanager
async def open_shop_on(config: Config) -> AsyncIterator[Client]:
    """The same with other settings."""
    async with serving(config) as shop, grpc.aio.insecure_channel(shop.address) as channel:
        yield Client(shop=shop, channel=channel, orders=OrderServiceStub(channel), users=UserServiceStub(channel))


class ScratchStore(Data):
    """The shop's rows in memory, for bare servicers: transactions are run where they are awaited."""

    def __init__(self) -> None:
        # Autocommit, so that transactions are as below; the tests' threads take turns.
        self.db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        super().__init__(cast(Any, self), SQLITE, beside=False)
        self.run(migrate)

    async def transaction(self, fn: Callable[[Database], T]) -> T:
        return self.run(fn)

    async def read(self, fn: Callable[[Database], T]) -> T:
        return self.run(fn)

    def run(self, fn: Callable[[Database], T]) -> T:
        db: Any = self.db  # it has what the shop uses
        self.db.execute("BEGIN IMMEDIATE")
        try:
            reply = fn(Database(db, SQLITE))
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")
        return reply

    def close(self) -> None:
        self.db.close()


def usd(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="USD", units=units, nanos=nanos)


def create_order(**fields: object) -> CreateOrderRequest:
    """The order of the story, or one that differs from it in some fields."""
    items = [OrderItem(sku="SKU001", quantity=2), OrderItem(sku="SKU002", quantity=1)]
    story: dict[str, object] = {"customer_id": "cust_123", "items": items, "total_amount": usd(55, 990_000_000)}
    return CreateOrderRequest(**(story | fields))  # type: ignore[arg-type]  # a test's fields are as it says


def create_user(email: str = "ada@example.com", display_name: str = "Ada") -> CreateUserRequest:
    return CreateUserRequest(user=User(display_name=display_name, email=email))


def status_of(error: grpc.aio.AioRpcError) -> Status:
    """The status in the details; it has to say what the call's own status says."""
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    status = Status.FromString(raw)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return status


def detail(status: Status, kind: type[M]) -> M | None:
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def reason(error: grpc.aio.AioRpcError) -> str:
    """Why the shop refused a call."""
    info = detail(status_of(error), ErrorInfo)
    assert info is not None
    assert info.domain == "shop"
    assert all(value in (error.details() or "") for value in info.metadata.values())
    return info.reason


def bad_fields(error: grpc.aio.AioRpcError) -> list[str]:
    """The fields that a BadRequest names."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error) == "INVALID_REQUEST"
    bad = detail(status_of(error), BadRequest)
    assert bad is not None
    assert all(violation.description for violation in bad.field_violations)
    return [violation.field for violation in bad.field_violations]


def retry_seconds(error: grpc.aio.AioRpcError) -> float | None:
    retry = detail(status_of(error), RetryInfo)
    return None if retry is None else retry.retry_delay.ToTimedelta().total_seconds()


def trailer(trailers: object, name: str) -> str | None:
    """A trailer's one value."""
    values = [value for key, value in trailers or () if key == name]  # type: ignore[attr-defined]  # pairs, in truth
    assert len(values) <= 1
    return values[0] if values else None
