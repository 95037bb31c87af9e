"""What is measured: four cases, each a pair of servers under the same load."""

from dataclasses import dataclass
from typing import Literal

from google.protobuf.wrappers_pb2 import StringValue
from google.type.money_pb2 import Money

from shop.orders.v1.orders_pb2 import CreateOrderRequest, OrderItem

Side = Literal["bare", "guarded"]
SIDES: tuple[Side, Side] = ("bare", "guarded")
ECHO = "/bench.Echo/Say"
ORDER = "/bench.Orders/CreateOrder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Two servers that differ in one thing, and the calls that both get."""

    name: str
    title: str
    method: str
    request: bytes
    keys: Literal["none", "unique", "stored"]
    """Whether calls have a key, and whether its outcome is stored before the measurement."""
    status: str | None
    """The ``idempotency-status`` that every reply of the guarded side must have."""
    aim: float
    """The throughput with the interceptor, as a ratio to that without."""


_ECHO = StringValue(value="a request of some forty characters, as is usual").SerializeToString()
_ORDER = CreateOrderRequest(
    customer_id="cust_123",
    items=[OrderItem(sku=f"SKU00{n}", quantity=n) for n in (1, 2, 3)],
    total_amount=Money(currency_code="USD", units=55, nanos=990_000_000),
).SerializeToString()

CASES = (
    Case(
        name="unkeyed",
        title="no key",
        method=ECHO,
        request=_ECHO,
        keys="none",
        status=None,
        aim=0.98,
    ),
    Case(
        name="first",
        title="first call",
        method=ECHO,
        request=_ECHO,
        keys="unique",
        status="executed",
        aim=0.80,
    ),
    Case(
        name="replay",
        title="replay",
        method=ECHO,
        request=_ECHO,
        keys="stored",
        status="replayed",
        aim=1.0,
    ),
    Case(
        name="order",
        title="CreateOrder",
        method=ORDER,
        request=_ORDER,
        keys="unique",
        status="executed",
        aim=1.3,
    ),
)
