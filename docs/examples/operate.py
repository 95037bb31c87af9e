"""What an operator does with held operations: sees them, finds out what they did, and says so."""

from datetime import timedelta

from grpc_idempotency import Code, Outcome, Record, State
from grpc_idempotency.aio import SQLiteStore
from shop.orders.v1.orders_pb2 import Order

TTL = timedelta(hours=24)


async def show_held(store: SQLiteStore) -> None:
    for record in await store.list(state=State.HELD):
        print(record.name.hex(), record.method, record.created_at.isoformat(), record.reason)


async def held(store: SQLiteStore, operation: str) -> Record:
    record = await store.get(bytes.fromhex(operation))
    if record is None or record.state is not State.HELD:
        raise LookupError(f"operation {operation} is not held")
    return record


async def it_never_happened(store: SQLiteStore, operation: str) -> bool:
    record = await held(store, operation)
    return await store.resolve(record.name, record.fence, None, TTL)


async def it_happened(store: SQLiteStore, operation: str, order: Order) -> bool:
    record = await held(store, operation)
    outcome = Outcome(status=Code.OK, message=order.SerializeToString())
    return await store.resolve(record.name, record.fence, outcome, TTL)
