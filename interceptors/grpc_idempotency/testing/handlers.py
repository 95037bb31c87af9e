"""Handlers of keyed calls, and the table with their rows, for the suite of transactions."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from grpc_idempotency._operation.aio import AsyncRunning
from grpc_idempotency._operation.running import enter
from grpc_idempotency.records import Claim, Code, Outcome, Step
from grpc_idempotency.testing.harness import AsyncTransactionHarness, unwrapped
from grpc_idempotency.testing.makers import TTL, a_step
from grpc_idempotency.transactions import AsyncTransactionalStore, Database, RunningOperation


def outcome_of(reply: object) -> Outcome:
    """Makes the outcome of a handler that replies with a text.

    Args:
        reply: The text.

    Returns:
        The outcome: ``OK``, with the text as its message.
    """
    return Outcome(status=Code.OK, message=str(reply).encode())


@asynccontextmanager
async def keyed(
    store: object,
    claim: Claim,
    make_outcome: Callable[[object], Outcome] = outcome_of,
    *,
    unclaimed: bool = False,
    unwinds: bool = False,
) -> AsyncIterator[RunningOperation]:
    """Makes the calling task the handler of an operation within the block, as an interceptor does.

    At the end of the block it waits for the transactions that the handler has left behind.

    Args:
        store: The store that holds the operation's record.
        claim: The operation's claim.
        make_outcome: Makes the outcome of a reply. A reply is a text.
        unclaimed: True if the claim has not been written.
        unwinds: True if the run only registers how its steps are undone.

    Yields:
        The operation, as the store sees it.
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
        make_outcome=make_outcome,
        accepts=lambda value: isinstance(value, str),
    )
    enter(running, asyncio.current_task())
    try:
        yield running
    finally:
        enter(None)
        await running.rest()


def step_of(name: str) -> Callable[[object], Step]:
    """Makes what a transaction that stores a step is given as ``step``.

    Args:
        name: The step's name.

    Returns:
        A function that makes the step from the transaction's result.
    """
    return lambda result: a_step(name, result=str(result).encode())


class Orders:
    """An embedder's table in the store's database: orders whose only column is ``id``.

    Args:
        placeholder: The engine's notation of a parameter in a statement, such as ``?`` or ``%s``.
    """

    def __init__(self, placeholder: str) -> None:
        self.insertion: str = f"INSERT INTO orders VALUES ({placeholder})"  # noqa: S608  # it is a parameter's mark
        """The statement that inserts an order."""

    def insert(self, *names: str) -> Callable[[Database], str]:
        """Makes a transaction's function that inserts orders.

        Args:
            *names: The orders' ids, at least one.

        Returns:
            The function, which returns the first id.
        """

        def fn(db: Database) -> str:
            for name in names:
                db.execute(self.insertion, (name,))
            return names[0]

        return fn

    async def names(self, store: AsyncTransactionalStore) -> list[str]:
        """Reads the ids of all orders.

        Args:
            store: A store on the table's database.

        Returns:
            The ids, sorted.
        """
        rows = await store.read(lambda db: db.execute("SELECT id FROM orders ORDER BY id").fetchall())
        return [name for (name,) in rows]


def executing(sql: str) -> Callable[[Database], None]:
    """Returns a transaction's function that runs one statement."""

    def fn(db: Database) -> None:
        db.execute(sql)

    return fn


async def opened(harness: AsyncTransactionHarness) -> tuple[AsyncTransactionalStore, Orders]:
    """Makes a store, and creates the table of orders in its database.

    Args:
        harness: Makes the store.

    Returns:
        The store and the table.
    """
    store = await harness.store()
    await store.transaction(executing("CREATE TABLE orders (id VARCHAR(100) PRIMARY KEY)"))
    return store, Orders(harness.placeholder)
