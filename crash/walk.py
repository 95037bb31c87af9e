"""Kills a server at each point of a checkout, starts it again, and waits for recovery without any client."""

import asyncio
import uuid
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from google.type.money_pb2 import Money

from crash.engines import SERVICES, SQLite
from crash.files import HISTORY, Journal
from crash.lab import LEASE, SETTLED_WITHIN, Server, reserve_ports
from crash.report import Tell
from crash.server import TRANSACTIONAL, Job
from grpc_idempotency.aio import client_interceptors
from shop.orders.v1.orders_pb2 import CheckoutRequest, CreateOrderRequest, Order, OrderItem
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub
from shop.users.v1.users_pb2 import AddCreditRequest, CreateUserRequest, User
from shop.users.v1.users_pb2_grpc import UserServiceStub

_AT_ONCE = 4
_CREDIT, _TOTAL = 10, 7


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place at which a server is killed."""

    server: str
    point: str
    nth: int = 1
    pays: bool = True
    """True if the customer has enough credit. Otherwise the checkout has to be undone."""
    claims: bool = True
    """True if the user service claims operations."""

    def __str__(self) -> str:
        claims = "" if self.claims else " without a claim"
        return f"{self.server} {self.point} {self.nth}{claims}, {'all' if self.pays else 'nothing'}"


PLACES = (
    # The steps are begin, ask, reserve, accept and capture. The reply's own transaction comes last.
    Place(server="orders", point="after-claim"),
    *(Place(server="orders", point="in-step", nth=nth) for nth in range(1, 6)),
    *(Place(server="orders", point="between-steps", nth=nth) for nth in range(1, 6)),
    Place(server="orders", point="in-transaction"),
    Place(server="orders", point="after-commit"),
    # The user service is called to reserve and to capture.
    *(
        Place(server="users", point=point, nth=nth, claims=claims)
        for claims, begun in ((True, "after-claim"), (False, "after-look"))
        for point in (begun, "in-transaction", "after-commit")
        for nth in (1, 2)
    ),
    # Without credit the steps are begin and ask. Both are undone, then the failure is stored.
    *(Place(server="orders", point="in-undo", nth=nth, pays=False) for nth in (1, 2)),
    *(Place(server="orders", point="after-undo", nth=nth, pays=False) for nth in (1, 2)),
    Place(server="orders", point="before-completion", pays=False),
    Place(server="orders", point="after-completion", pays=False),
    *(
        Place(server="users", point=point, pays=False, claims=claims)
        for claims, begun in ((True, "after-claim"), (False, "after-look"))
        for point in (begun, "before-completion", "after-completion")
    ),
)


async def walk(folder: Path, tell: Tell) -> list[str]:
    """Kills a server at each place, and returns the findings."""
    turns = asyncio.Semaphore(_AT_ONCE)
    done = 0

    async def go(number: int, place: Place) -> str | None:
        nonlocal done
        async with turns:
            own = folder / str(number)
            own.mkdir()
            try:
                found = await _kill_at(place, own)
            except Exception as exc:  # the other places go on
                found = f"the lab failed: {exc!r}"
        done += 1
        tell("walking", done)
        return found and f"{place}: {found}"

    found = await asyncio.gather(*(go(number, place) for number, place in enumerate(PLACES)))
    return [one for one in found if one]


async def _kill_at(place: Place, folder: Path) -> str | None:
    journal, engine = Journal(folder / HISTORY), SQLite(folder)
    # No client calls again, so the checkout needs recovery.
    claims = {"users": TRANSACTIONAL["users"] if place.claims else (), "orders": TRANSACTIONAL["orders"]}
    async with AsyncExitStack() as stack:
        orders, users = reserve_ports(stack.enter_context(ExitStack()), 2)
        servers = {
            name: Server(name, _job(folder, engine, name, port, users), journal)
            for name, port in zip(SERVICES, (users, orders), strict=True)
        }
        for server in servers.values():
            await server.open()
            stack.push_async_callback(server.close)
            await server.start(claims=claims[server.name])
        order = await _prepare(orders, users, _CREDIT if place.pays else 1)
        victim = servers[place.server]
        await victim.kill()
        await victim.start(place.point, place.nth, claims=claims[victim.name])
        await _check_out_once(orders, order)
        if not await victim.died(10):
            return "the point was not reached"
        await victim.start(claims=claims[victim.name])
        until = asyncio.get_running_loop().time() + SETTLED_WITHIN
        while engine.under_way():  # another process does this work
            if asyncio.get_running_loop().time() > until:
                return f"it is stuck: {_state(engine)}"
            await asyncio.sleep(0.1)
        wanted = _STATES[place.pays]
        return None if _state(engine) == wanted else f"it ended in {_state(engine)}, not in {wanted}"


_STATES = {
    True: (Order.STATE_CONFIRMED, [2], _CREDIT - _TOTAL),
    False: (Order.STATE_PENDING, [], 1),
}
"""The expected state of the order, states of all reservations, and balance, by whether the customer can pay."""


def _state(engine: SQLite) -> tuple[int, list[int], int]:
    ((state,),) = engine.rows("orders", "SELECT state FROM shop_orders")
    reservations = [row[0] for row in engine.rows("users", "SELECT state FROM shop_reservations")]
    ((balance,),) = engine.rows("users", "SELECT balance_units FROM shop_users")
    return state, reservations, balance


def _job(folder: Path, engine: SQLite, name: str, port: int, users: int) -> Job:
    return Job(
        folder=str(folder),
        services=[name],
        engine=engine.name,
        store=engine.store(name),
        file=str(engine.file(name)),
        port=port,
        users=f"127.0.0.1:{users}",
        lease=LEASE,
    )


async def _prepare(orders: int, users: int, credit: int) -> Order:
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{users}", interceptors=client_interceptors()) as to_users,
        grpc.aio.insecure_channel(f"127.0.0.1:{orders}", interceptors=client_interceptors()) as to_orders,
    ):
        wallets = UserServiceStub(to_users)
        user = await wallets.CreateUser(CreateUserRequest(user=User(display_name="Ada", email="ada@example.com")))
        await wallets.AddCredit(AddCreditRequest(user_id=user.id, amount=_usd(credit)))
        items = [OrderItem(sku="SKU001", quantity=1)]
        return await OrderServiceStub(to_orders).CreateOrder(
            CreateOrderRequest(customer_id=user.id, items=items, total_amount=_usd(_TOTAL))
        )


async def _check_out_once(orders: int, order: Order) -> None:
    """Makes a call, and ignores its result."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{orders}") as channel:
        request = CheckoutRequest(order_id=order.id, request_id=str(uuid.uuid4()))
        with suppress(grpc.aio.AioRpcError):
            await OrderServiceStub(channel).Checkout(request, timeout=1)


def _usd(units: int) -> Money:
    return Money(currency_code="USD", units=units)
