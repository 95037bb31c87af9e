"""Handlers' rows in a database that is not the store's, as a store without transactions needs it.

Rows and outcome can't share a commit there. So the rows of a function are committed with a mark of the operation and
its step, and with the function's result: a later run finds the mark, and gets the result. This makes a handler
repeatable. A run whose operation has another owner commits nothing: the record is read while the file is locked for
writing.
"""

import asyncio
import pickle
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, cast

from crash.audit import Audit
from grpc_idempotency import Database, FenceRefused, StoreUnavailable
from grpc_idempotency._operation.aio import _uncut
from grpc_idempotency.records import Step
from grpc_idempotency.transactions import running_operation
from shop.errors import Reason, Refused

T = TypeVar("T")
_PATIENCE = 30.0
_MARKS = "CREATE TABLE IF NOT EXISTS crash_marks (operation, step, result, PRIMARY KEY (operation, step))"


class Beside(Audit):
    """A layer over a store: ``transaction`` and ``read``, on an SQLite file that all servers of a service share."""

    file: Path
    _turn: asyncio.Lock | None = None

    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]:
        # As in the library, the caller's operation is read when this is called, and not when it is awaited.
        return _uncut(self._transact_beside(running_operation(), fn, step))

    async def read(self, fn: Callable[[Database], T]) -> T:
        def run() -> T:
            with closing(self._connected()) as db:
                return fn(cast(Database, db))

        return await asyncio.to_thread(run)

    async def _transact_beside(self, operation: Any, fn: Callable[[Database], T], step: Any) -> T:
        self._turn = self._turn or asyncio.Lock()
        loop, name = asyncio.get_running_loop(), "" if step is None else step._name
        async with self._turn:
            reply = await asyncio.to_thread(self._commit, loop, operation, name, fn)
        if operation is not None and step is None:
            self.point.reach("after-commit")
        elif step is not None:
            await self._insist(operation, step(reply))
        return reply

    async def _insist(self, operation: Any, step: Step) -> None:
        """Records a step whose rows are committed, however often that fails: it could not be undone otherwise."""
        kept: bool | None = None
        while kept is None:
            try:
                kept = await self.record_step(operation.name, operation.fence, step)
                if not kept:  # it may have been kept although an earlier attempt failed
                    kept = step.name in [one.name for one in await self.steps(operation.name)]
            except StoreUnavailable:
                kept = None
                await asyncio.sleep(0.05)
        if not kept:
            raise FenceRefused("the operation has another owner by now")

    def _commit(self, loop: asyncio.AbstractEventLoop, operation: Any, step: str, fn: Callable[[Database], T]) -> T:
        with closing(self._connected()) as db:
            db.execute("BEGIN IMMEDIATE")
            mark = (b"" if operation is None else operation.name, step)
            if operation is not None:
                self._check(loop, operation)
                sql = "SELECT result FROM crash_marks WHERE operation = ? AND step = ?"
                for (result,) in db.execute(sql, mark).fetchall():
                    known: T = pickle.loads(result)  # noqa: S301  # it is the lab's own
                    return known
            reply = fn(cast(Database, db))
            if operation is not None:
                db.execute("INSERT INTO crash_marks VALUES (?, ?, ?)", (*mark, pickle.dumps(reply)))
                self.point.reach("in-transaction")
            db.execute("COMMIT")
            return reply

    def _check(self, loop: asyncio.AbstractEventLoop, operation: Any) -> None:
        """Raises if the operation has another owner, or if nobody knows that: nothing has happened yet."""
        try:
            record = asyncio.run_coroutine_threadsafe(self.get(operation.name), loop).result()
        except StoreUnavailable:
            raise Refused(Reason.STOPPING) from None
        if record is None or record.fence != operation.fence:
            self._note("refused", operation.name, operation.fence)
            raise FenceRefused("the operation has another owner by now")

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.file, timeout=_PATIENCE, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")  # servers are killed, and not their machine
        db.execute(_MARKS)
        return db
