"""The calls of a store for ``grpc.aio``.

The contracts in ``grpc_idempotency.store`` and ``grpc_idempotency.transactions`` say what each call does.
"""

import abc
import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from grpc_idempotency.errors import TransactionMisuse
from grpc_idempotency.records import Claim, Note, Outcome, Record, Renewal, Standing, State, Step, Swept
from grpc_idempotency.stores._calls.nesting import MISUSE, inside, refuse_inside
from grpc_idempotency.stores._calls.parts import Parts, counting, listing, sweeping
from grpc_idempotency.stores._calls.requests import (
    ClaimRequest,
    CompleteRequest,
    Engine,
    FindRequest,
    ForgetRequest,
    GetRequest,
    HoldRequest,
    MethodsRequest,
    NotesRequest,
    PendingRequest,
    ReleaseLapsedRequest,
    ReleaseRequest,
    RenewRequest,
    Request,
    ResolveRequest,
    StandingRequest,
    StepRequest,
    StepsRequest,
    TransactionRequest,
    UnclaimedRequest,
    UndoRequest,
    WaitRequest,
)
from grpc_idempotency.stores._calls.transactions import is_unknown, transacting
from grpc_idempotency.transactions import Database, bind_operation, running_operation

T = TypeVar("T")


class AsyncCalls(abc.ABC):
    """The calls of a store, which are awaited.

    A call that is a single request returns the request's future, so that no coroutine has to be resumed.
    """

    _opened: tuple[Engine, Any] | None = None
    """The engine, and the store's tables in it, while the store is open."""

    @abc.abstractmethod
    async def open(self) -> None:
        """Makes the store ready, and sets ``_opened``."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Finishes the calls that have begun, and releases all resources."""

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Awaitable[Record | None]:
        """Claims the operation if it is absent, or lapsed under the fence ``over``."""
        return self._ask(ClaimRequest(claim, over))

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> Awaitable[Renewal]:
        """Sets the lease of a running or undoing record to end ``lease`` from now."""
        return self._ask(RenewRequest(name, fence, lease))

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> Awaitable[datetime | None]:
        """Stores the outcome of a running, undoing or held record."""
        return self._ask(CompleteRequest(name, fence, outcome, ttl))

    def release(self, name: bytes, fence: bytes, *, lapsed_only: bool = False) -> Awaitable[bool]:
        """Deletes a running, undoing or held record."""
        return self._ask((ReleaseLapsedRequest if lapsed_only else ReleaseRequest)(name, fence))

    def wait(self, name: bytes, fence: bytes, delay: timedelta, failed_runs: int, failed_undos: int) -> Awaitable[bool]:
        """Makes a running or undoing record waiting."""
        return self._ask(WaitRequest(name, fence, delay, failed_runs, failed_undos))

    def undo(self, name: bytes, fence: bytes, failure: Outcome) -> Awaitable[bool]:
        """Makes a running record undoing, and stores the failure with it."""
        return self._ask(UndoRequest(name, fence, failure))

    def record_step(self, name: bytes, fence: bytes, step: Step) -> Awaitable[bool]:
        """Stores a finished step of a running, undoing or held record."""
        return self._ask(StepRequest(name, fence, step))

    def steps(self, name: bytes) -> Awaitable[Sequence[Step]]:
        """Reads the finished steps of an operation, in the order in which they were recorded."""
        return self._ask(StepsRequest(name))

    def pending(self, methods: Collection[str], limit: int = 100) -> Awaitable[Sequence[Record]]:
        """Reads lapsed records of these methods that can be dealt with without their clients."""
        return self._ask(PendingRequest(tuple(methods), limit))

    def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> Awaitable[bool]:
        """Makes a running or undoing record held."""
        return self._ask(HoldRequest(name, fence, reason, lapsed_only))

    def get(self, name: bytes) -> Awaitable[Record | None]:
        """Reads a record. Returns ``None`` if it is absent."""
        return self._ask(GetRequest(name))

    def standing(self, names: Collection[bytes]) -> Awaitable[Mapping[bytes, Standing]]:
        """Reads the standings of many operations at once, by name. Absent operations are missing."""
        return self._ask(StandingRequest(tuple(names)))

    async def sweep(self, limit: int = 500) -> Swept:
        """Deletes expired records."""
        return await self._ask_all(sweeping(limit))

    # -- for operators

    async def list(
        self,
        *,
        state: State | None = None,
        method: str | None = None,
        after: Record | None = None,
        limit: int = 100,
        newest_first: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        stuck: bool = False,
    ) -> Sequence[Record]:
        """Reads records in the order of their first claims."""
        chosen = {"state": state, "method": method, "since": since, "until": until}
        return await self._ask_all(listing(after, limit, newest_first=newest_first, stuck=stuck, **chosen))

    def find(self, prefix: str, limit: int = 2) -> Awaitable[Sequence[Record]]:
        """Reads records whose names begin with these hexadecimal digits."""
        return self._ask(FindRequest.of(prefix, limit))

    async def count(self, *, completed: bool = True) -> Mapping[tuple[str, State], int]:
        """Counts the records of each method and state."""
        return await self._ask_all(counting(completed))

    def methods(self) -> Awaitable[Collection[str]]:
        """Reads the names of the methods that have records."""
        return self._ask(MethodsRequest())

    def notes(self, name: bytes) -> Awaitable[Sequence[Note]]:
        """Reads what operators did to an operation, the oldest note first."""
        return self._ask(NotesRequest(name))

    def resolve(
        self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta, note: Note | None = None
    ) -> Awaitable[bool]:
        """Resolves a held record as an operator decided."""
        return self._ask(ResolveRequest(name, fence, outcome, ttl, note))

    def forget(self, name: bytes, fence: bytes, note: Note | None = None) -> Awaitable[bool]:
        """Deletes a record whose lease does not hold."""
        return self._ask(ForgetRequest(name, fence, note))

    # -- within

    def _ask(self, request: Request[T], opened: tuple[Engine, Any] | None = None) -> Awaitable[T]:
        """Submits a request. Opens the store first if necessary.

        The request goes to the store's engine, unless ``opened`` names another one.
        """
        view = inside.get()
        if view is not None and not view.ended:
            raise TransactionMisuse(MISUSE)
        if opened is None:
            opened = self._opened
            if opened is None or opened[0].failure is not None:
                return self._ask_later(request)
        try:
            request.loop = loop = asyncio.get_running_loop()
        except RuntimeError:  # called in a thread without an event loop, and awaited in a loop later
            return self._ask_later(request)
        engine, request.tables = opened
        future: asyncio.Future[T] = loop.create_future()
        request.waiter = future
        engine.submit(request)
        return future

    async def _ask_later(self, request: Request[T]) -> T:
        """Opens the store if necessary, and submits a request, once it is awaited."""
        try:
            await self.open()
        except BaseException as error:
            request.error = error
            request.end()
            raise
        return await self._ask(request)

    async def _ask_all(self, parts: Parts[T]) -> T:
        try:
            request = next(parts)
            while True:
                request = parts.send(await self._ask(request))
        except StopIteration as done:
            value: T = done.value
            return value


class AsyncTransactionalCalls(AsyncCalls):
    """The calls of a store whose database can also hold the handler's rows."""

    @property
    @abc.abstractmethod
    def identity(self) -> str | None:
        """The id of the store's operations in their database; ``None`` before the store was opened first."""

    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]:
        """Runs the plain function ``fn(db)`` in one transaction, with a keyed call's outcome or a step in it (5.1).

        The operation is that of the caller; the returned coroutine may be awaited in another task.
        """
        if self._opened is None and is_unknown(self):
            context, operation = contextvars.copy_context(), running_operation()
            if operation is not None:
                bind_operation(context, operation)
            return self._transact_later(context, fn, step)
        return self._transact(transacting(self, fn, step))

    async def read(self, fn: Callable[[Database], T]) -> T:
        """Returns the result of the plain function ``fn(db)``, which only reads; it is never a keyed call's reply.

        The function sees the database as it was at one instant.
        """
        value: T = await self._ask(TransactionRequest(fn, reads=True))
        return value

    async def _transact_later(
        self, context: contextvars.Context, fn: Callable[[Database], Any], step: Callable[[Any], Step] | None
    ) -> Any:
        """Opens the store before the transaction's operation is decided. ``context`` is that of the caller."""
        await self.open()
        return await self._transact(context.run(transacting, self, fn, step))

    async def _transact(self, request: TransactionRequest) -> Any:
        refuse_inside()  # from here on, every result of the request calls its end()
        request.begin()
        return await self._ask(request)


class AsyncOneCommitCalls(AsyncTransactionalCalls):
    """The calls of a store that can write an operation's record first in the commit of its transaction."""

    def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> Awaitable[datetime | Record]:
        """Stores a completed record of an operation that was never claimed."""
        return self._ask(UnclaimedRequest(claim, outcome, ttl))
