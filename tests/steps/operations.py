"""What handlers with steps need: their operation, of any kind, what they did, and a table for rows of their own."""

import inspect
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc

import grpc_idempotency
from grpc_idempotency import Database, Effects, Policy, aio
from grpc_idempotency.errors import StepMisuse
from grpc_idempotency.transactions import running_operation

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
    running: Any = running_operation()
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


def insert(value: str, *, then: Exception | None = None) -> Any:
    def fn(db: Database) -> str:
        db.execute("INSERT INTO things (value) VALUES (?)", (value,))
        if then is not None:
            raise then
        return f"row {value}"

    return fn


class Log:
    """What the handlers of a test did, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def does(self, what: str, result: Any = None) -> Any:
        """A step's function, or an undo."""

        def fn(*_: Any) -> Any:
            self.done.append(what)
            return result

        return fn


class Flaky:
    """Fails a few times, in a way that may pass."""

    def __init__(self, times: int = 1, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.runs = 0
        self._times = times
        self._code = code

    async def __call__(self, context: Any) -> None:
        self.runs += 1
        if self.runs <= self._times:
            await context.abort(self._code, "not just now")


class Told:
    """Keeps the StepMisuse that a handler met."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    async def hears(self, step: Any) -> None:
        try:
            await step
        except StepMisuse as exc:
            self.errors.append(str(exc))
