"""What tests of recovery need: what killed servers leave, and a handler that never ends."""

import asyncio
import secrets
import time
from datetime import timedelta
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, SQLiteStore, State
from grpc_idempotency.records import Claim, Fingerprint, StoredRequest

from ..harness.handlers import SERVICE
from ..harness.replies import text
from ..harness.servers import Service
from ..harness.waiting import Gate, ms, until
from .operations import here

LEASE: dict[str, Any] = {"lease": ms(600), "renew_every": ms(150)}
TRANSACTIONAL = Policy(effects=Effects.TRANSACTIONAL, **LEASE)
SHORT = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), **LEASE)


class Stops:
    """A handler whose first run never ends, as that of a killed server; the others answer how they were begun."""

    def __init__(self) -> None:
        self.began = Gate()
        self.go = Gate()
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, request: StringValue, context: Any) -> StringValue:
        operation = here().operation
        self.seen.append(
            {
                "principal": operation.principal,
                "attempt": operation.attempt,
                "metadata": context.invocation_metadata(),
                "entries": tuple((entry.key, entry.value) for entry in context.invocation_metadata()),
                "time": context.time_remaining(),
                "peer": context.peer(),
                "request": request.value,
            }
        )
        if len(self.seen) == 1:
            self.began.open()
            await self.go.wait()
        return text(f"run {len(self.seen)}")


def dead(
    store: SQLiteStore,
    method: str = "Do",
    *,
    runs: int = 1,
    messages: tuple[bytes, ...] = (b"",),
    effects: Effects = Effects.REPEATABLE,
    stored: bool = True,
    trace: bytes = b"",
) -> bytes:
    """Leaves what servers leave that were killed in so many runs of one operation; answers its name."""
    name, over = secrets.token_bytes(16), None
    for _ in range(runs):
        claim = Claim(
            name=name,
            method=f"/{SERVICE}/{method}",
            fence=secrets.token_bytes(16),
            fingerprint=Fingerprint(raw=b"r" * 32, canonical=b"c" * 32),
            effects=effects,
            lease=timedelta(microseconds=1),
            request=StoredRequest(principal=b"ada", metadata=(), messages=messages) if stored else None,
            trace=trace,
        )
        while store.claim(claim, over=over) is not None:
            time.sleep(0.001)  # the lease has to run out first
        over = claim.fence
    return name


async def completed(store: SQLiteStore, name: bytes) -> bool:
    record = await asyncio.to_thread(store.get, name)
    return record is not None and record.state is State.COMPLETED


async def held(store: SQLiteStore, name: bytes) -> bool:
    record = await asyncio.to_thread(store.get, name)
    return record is not None and record.state is State.HELD


async def some_rounds(service: Service) -> None:
    """Until the server has looked for operations a few times more."""
    looked, count = service.store.pending, 0

    def counted(*args: Any) -> Any:
        nonlocal count
        count += 1
        return looked(*args)

    service.store.pending = counted

    async def enough() -> bool:
        return count > 3

    await until(enough)
    service.store.pending = looked
