"""Misbehaving handlers: mistakes of an embedder's code, sometimes injected into the lab's servers.

The library has to handle them, across kills too, so the checker must find nothing. There are three kinds:

* A transaction's function swallows the error by which the database has rolled back the whole transaction.
* A step of a checkout is cut off by a timeout, and the checkout is refused for good: it has to be undone.
* AddCredit is a plain ``def`` handler, and the task of its operation is cancelled while its thread runs.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from crash.files import Journal
from grpc_idempotency import Database
from grpc_idempotency._operation.running import Running
from grpc_idempotency._server.aio.run import AioRun
from grpc_idempotency.transactions import running_operation
from shop.errors import Reason, Refused
from shop.orders.checkout import Checkout
from shop.orders.v1.orders_pb2 import Order
from shop.users.service import UserService
from shop.users.v1.users_pb2 import AddCreditRequest, User

T = TypeVar("T")

_CUT = ("begin", "begin", "ask", "reserve", "accept")
"""The steps that may be cut off. Not "capture": the checker does not handle returned payments."""
_HANDLERS = 4
"""How much more often handlers misbehave than transactions, as a factor."""
_WORST_RUNS = 2
LONGEST_STEP = 0.01
"""The longest time in seconds after which a step is cut off."""
_RUNS_ON = 0.3
"""How long the handler's thread runs on, in seconds: long enough for a retry to arrive in the meantime."""


class Misuse:
    """Decides what misbehaves, and records it."""

    def __init__(self, journal: Journal, share: float, engine: str) -> None:
        """``share`` is the share of transactions that misbehave. Handlers do so more often, since there are fewer."""
        self._lose = _lose if engine == "sqlite" else _lose_any
        self._journal = journal
        self._share = share
        self._random = random.Random()

    def transacts_badly(self, operation: Running) -> bool:
        """Returns ``True`` if the operation's next transaction misbehaves."""
        return self._happens(operation, self._share)

    def handles_badly(self, operation: Running) -> bool:
        """Returns ``True`` if the operation's handler misbehaves in this run."""
        return self._happens(operation, self._share * _HANDLERS)

    def _happens(self, operation: Running, share: float) -> bool:
        # Later runs behave. Otherwise an operation whose servers are killed too would back off for longer and longer.
        return operation.attempt <= _WORST_RUNS and self._random.random() < share

    def some(self, most: float) -> float:
        """Returns a random number of seconds up to ``most``."""
        return self._random.uniform(0, most)

    def one_of(self, names: tuple[str, ...]) -> str:
        """Returns a random one of the names."""
        return self._random.choice(names)

    def note(self, event: str, operation: Running) -> None:
        """Records what an operation did."""
        self._journal.write(event, name=operation.name.hex(), fence=operation.fence.hex(), pid=os.getpid())

    def swallowing(self, fn: Callable[[Database], T]) -> Callable[[Database], T]:
        """Returns a transaction's function that also loses its transaction, and swallows the error."""
        first = self._random.random() < 0.5

        def careless(db: Database) -> T:
            if first:
                self._lose(db)
                return fn(db)
            reply = fn(db)
            self._lose(db)
            return reply

        return careless


def _lose(db: Database) -> None:
    """Makes SQLite roll back the whole transaction, with its table, and swallows the error."""
    db.execute("CREATE TEMP TABLE crash_lost (id INTEGER PRIMARY KEY ON CONFLICT ROLLBACK)")
    with suppress(db.IntegrityError):
        db.execute("INSERT INTO crash_lost VALUES (1), (1)")


def _lose_any(db: Database) -> None:
    """Makes a statement fail, after which PostgreSQL can only roll the transaction back, and swallows the error."""
    with suppress(db.DataError):
        db.execute("SELECT 1 / 0")


def misbehave(misuse: Misuse) -> None:
    """Injects the second and the third kind into the shop of this process. The lab's store injects the first."""
    _cut_steps(misuse)
    _cancel_def_handlers(misuse)


# Steps that are cut off


class _TimeUp(Exception):
    pass


class _Hasty:
    """An operation with one step that is cut off by a timeout."""

    def __init__(self, operation: Any, misuse: Misuse) -> None:
        self._operation = operation
        self._misuse = misuse
        self._name = misuse.one_of(_CUT)

    async def step(self, name: str, fn: Callable[..., Any], **more: Any) -> Any:
        work = self._operation.step(name, fn, **more)
        if name != self._name:
            return await work
        try:
            return await _within(self._misuse.some(LONGEST_STEP), work)
        except _TimeUp:
            self._misuse.note("cut", self._operation._running)
            raise


async def _within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Awaits ``work`` in the current task, as ``asyncio.timeout`` of Python 3.11 does. Raises :class:`_TimeUp`."""
    task, is_up = asyncio.current_task(), False
    assert task is not None

    def cut() -> None:
        nonlocal is_up
        is_up = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, cut)
    try:
        return await work
    except asyncio.CancelledError:
        if not is_up:
            raise
        raise _TimeUp from None
    finally:
        timer.cancel()


def _cut_steps(misuse: Misuse) -> None:
    run = Checkout.run

    async def hasty(self: Checkout) -> Order:
        operation: Any = running_operation()
        assert operation is not None, "a checkout has a key"
        if not misuse.handles_badly(operation):
            return await run(self)
        inside: Any = self
        inside._operation = _Hasty(self._operation, misuse)
        try:
            return await run(self)
        except _TimeUp:
            raise Refused(Reason.CAPTURE_REFUSED, id=self._order_id, state="given up") from None

    patched: Any = Checkout
    patched.run = hasty


# A ``def`` handler whose task is cancelled


class _Blocking:
    """The store for a ``def`` handler: its thread waits for a coroutine in the loop."""

    def __init__(self, store: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    async def transaction(self, fn: Callable[[Database], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(self._store.transaction(fn), self._loop).result()


def _cancel_def_handlers(misuse: Misuse) -> None:
    tasks: dict[bytes, asyncio.Task[Any]] = {}
    to_end = AioRun.to_end

    async def known(self: AioRun, operation: Running | None) -> Any:
        task = asyncio.current_task()
        if operation is None or self.target.awaited or task is None:
            return await to_end(self, operation)
        tasks[operation.fence] = task
        try:
            return await to_end(self, operation)
        finally:
            del tasks[operation.fence]

    loop = asyncio.get_running_loop()
    add_credit: Any = getattr(UserService.AddCredit, "__wrapped__")  # noqa: B009  # set by functools.wraps

    def plain(self: UserService, request: AddCreditRequest, context: Any) -> User:
        operation: Any = running_operation()
        assert operation is not None, "all calls of the lab have keys"
        misuse.note("entered", operation)
        try:
            if misuse.handles_badly(operation):
                misuse.note("cancelled", operation)
                loop.call_soon_threadsafe(tasks[operation.fence].cancel)
                time.sleep(_RUNS_ON)
            blocking: Any = _Blocking(self._data, loop)
            reply: User = _driven(add_credit(UserService(blocking), request, context))
        except Refused as refused:
            context.set_trailing_metadata((("grpc-status-details-bin", refused.details().SerializeToString()),))
            context.abort(refused.reason.value.status, str(refused))
            raise
        finally:
            misuse.note("left", operation)
        return reply

    run: Any = AioRun
    run.to_end = known
    service: Any = UserService
    service.AddCredit = plain


def _driven(work: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as ended:
        value: T = ended.value
        return value
    raise AssertionError("it waits for the loop")
