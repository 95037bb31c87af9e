"""Handlers of keyed calls, and the table of their rows, for the suite of transactions."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from grpc_idempotency._operation.aio import AsyncRunning
from grpc_idempotency._operation.running import enter
from grpc_idempotency.records import Claim, Code, Outcome, Step
from grpc_idempotency.store import AsyncTransactionalStore, Database, RunningOperation
from grpc_idempotency.testing.harness import AsyncTransactionHarness, unwrapped
from grpc_idempotency.testing.makers import TTL, a_step


def sealed(reply: object) -> Outcome:
    """The outcome of a handler that replies with a text."""
    return Outcome(status=Code.OK, message=str(reply).encode())


@asynccontextmanager
async def keyed(
    store: object,
    claim: Claim,
    seal: Callable[[object], Outcome] = sealed,
    *,
    unclaimed: bool = False,
    unwinds: bool = False,
) -> AsyncIterator[RunningOperation]:
    """Makes the calling task the handler of an operation in its block, as an interceptor does.

    At its end it waits for the transactions that the handler has left behind.

    Args:
        store: The store that holds the operation's record.
        claim: The operation's claim.
        seal: Makes the outcome of a reply. A reply is a text.
        unclaimed: Whether the claim has not been written.
        unwinds: Whether the run only makes known how its steps are undone.
    """
    running = AsyncRunning(
        name=claim.name,
        method=claim.method,
        fence=claim.fence,
        attempt=1,
        principal=b"",
        store=unwrapped(store),
        claim=claim if unclaimed else None,
        ttl=TTL,
        unwinds=unwinds,
        loop=asyncio.get_running_loop(),
        seal=seal,
        answers=lambda value: isinstance(value, str),
    )
    enter(running, asyncio.current_task())
    try:
        yield running
    finally:
        enter(None)
        await running.rest()


def step_of(name: str) -> Callable[[object], Step]:
    """What makes the step of this name of a transaction's result."""
    return lambda result: a_step(name, result=str(result).encode())


class Orders:
    """An embedder's table in the store's database: orders with nothing but an ``id``."""

    def __init__(self, placeholder: str) -> None:
        self.insertion: str = f"INSERT INTO orders VALUES ({placeholder})"  # noqa: S608  # it is a parameter's mark
        """The statement that inserts an order."""

    def insert(self, *names: str) -> Callable[[Database], str]:
        """The function of a transaction that inserts orders, and answers the first one's id."""

        def fn(db: Database) -> str:
            for name in names:
                db.execute(self.insertion, (name,))
            return names[0]

        return fn

    async def names(self, store: AsyncTransactionalStore) -> list[str]:
        """The ids of all orders, sorted."""
        rows = await store.read(lambda db: db.execute("SELECT id FROM orders ORDER BY id").fetchall())
        return [name for (name,) in rows]


def executing(sql: str) -> Callable[[Database], None]:
    """The function of a transaction that runs one statement."""

    def fn(db: Database) -> None:
        db.execute(sql)

    return fn


async def opened(harness: AsyncTransactionHarness) -> tuple[AsyncTransactionalStore, Orders]:
    """A store, and the table of orders, which it has made in its database."""
    store = await harness.store()
    await store.transaction(executing("CREATE TABLE orders (id VARCHAR(100) PRIMARY KEY)"))
    return store, Orders(harness.placeholder)
