"""What handlers with steps need: their operation, of whatever kind, and a table for rows of their own."""

import inspect
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc_idempotency
from grpc_idempotency import Effects, Policy, aio
from grpc_idempotency._operation.running import current

from ..harness.waiting import ms

REPEATABLE = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), lease=ms(3000), renew_every=ms(1000))


class Here:
    """The operation of a handler of any kind; a ``def`` handler's blocks."""

    def __init__(self, operation: "grpc_idempotency.Operation | aio.Operation") -> None:
        self.operation: Any = operation

    async def step(self, name: str, fn: Callable[..., Any], **options: Any) -> Any:
        result = self.operation.step(name, fn, **options)
        return await result if inspect.isawaitable(result) else result


def here() -> Here:
    """Returns the operation of the handler that runs."""
    running = current()
    assert running is not None
    operation = aio.current_operation() if running.awaited else grpc_idempotency.current_operation()
    assert operation is not None
    return Here(operation)


def make_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE IF NOT EXISTS things (id INTEGER PRIMARY KEY, value TEXT)")


def inserted(path: Path) -> list[str]:
    """Returns what transactions have inserted."""
    with closing(sqlite3.connect(path)) as db:
        return [value for (value,) in db.execute("SELECT value FROM things ORDER BY id")]
