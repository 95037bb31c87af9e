"""Plays a program as a handler: ``async def`` and ``def``, of one message and of a stream."""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import OutcomeUnknown, aio, current_operation

from .grammar import Case, Op
from .ledger import Ledger

ODD: dict[str, Any] = {
    "list": (("x-odd", ["a"]),),
    "dict": (("x-odd", {"a": 1}),),
    "none": (("x-odd", None),),
    "int": (("x-odd", 3),),
    "surrogate": (("x-odd", "\ud800"),),
    "upper case": (("X-Odd", "a"),),
    "empty name": (("", "a"),),
    "newline": (("x-odd", "a\nb"),),
    "non-ascii": (("x-odd", "é"),),
    "str bin": (("x-odd-bin", "a"),),
}
DETAILS: dict[str, Any] = {"none": None, "int": 7, "surrogate": "a\ud800b", "newline": "a\nb", "fine": "fine"}
BREAKING = {
    "conflict": "INSERT INTO payments VALUES ('there')",
    "trigger": "INSERT INTO capped VALUES (1)",
    "full": "INSERT INTO attachments VALUES (zeroblob(30000000))",
}


class Own(BaseException):
    """What a handler of ours raises that is no Exception."""


def error(name: str) -> BaseException:
    """Returns what a program raises by this name."""
    errors: dict[str, BaseException] = {
        "BaseException": Own("secret"),
        "bare Exception": Exception(""),
        "CancelledError": asyncio.CancelledError(),
        "TimeoutError": asyncio.TimeoutError("secret"),
        "GeneratorExit": GeneratorExit(),
        "StopIteration": StopIteration("secret"),
        "StopAsyncIteration": StopAsyncIteration("secret"),
        "ValueError": ValueError("secret"),
        "KeyError": KeyError("secret"),
        "AssertionError": AssertionError("secret"),
        "OutcomeUnknown": OutcomeUnknown("secret"),
        "from OutcomeUnknown": LookupError("secret"),
    }
    if name == "from OutcomeUnknown":
        errors[name].__cause__ = OutcomeUnknown("secret \ud800 \0")
    return errors[name]


class Run:
    """One run of a case's handler: what both kinds have in common."""

    def __init__(self, case: Case, ledger: Ledger, store: Any, context: Any) -> None:
        self.case = case
        self.ledger = ledger
        self.store = store
        self.context = context
        self.number = 0

    def fn(self, what: str, how: str) -> Callable[[Any], Any]:
        """Returns a transaction's function that writes two rows and does something between them."""
        key, number = self.case.key, self.number

        def rows(db: Any) -> Any:
            sql = "INSERT INTO effects (key, what, run) VALUES (?, ?, ?)"
            db.execute(sql, (key, what, number))
            if how == "raises":
                raise ValueError("secret")
            if how == "base":
                raise Own("secret")
            if how in BREAKING:
                with suppress(Exception):
                    db.execute(BREAKING[how])
            with suppress(*(() if how not in BREAKING else (Exception,))):
                db.execute(sql, (key, what, number))
            return None if how == "returns None" else self.reply(f"{what} {number}")

        return rows

    def reply(self, value: str) -> Any:
        message = StringValue(value=f"{self.case.key} {value}")
        return [message] if self.case.streams else message

    def row(self, db: Any, what: str, within: str = "") -> Any:
        sql = "INSERT INTO effects (key, what, run) VALUES (?, ?, ?)"
        db.execute(sql, (self.case.key, what, self.number))
        return self.stepped(what, within)

    def stepped(self, name: str, within: str) -> Any:
        if within == "raises":
            raise ValueError(name)
        return object() if within == "unencodable" else name

    def plain(self, op: Op) -> bool:
        """Does what is the same in both kinds; returns whether it was that."""
        context = self.context
        argument: Any = op.arguments[0] if op.arguments else None
        match op.what:
            case "effect":
                self.ledger.effect(self.case.key, self.number)
            case "block":
                time.sleep(argument)
            case "metadata":
                context.set_trailing_metadata(ODD[argument])
            case "details":
                context.set_details(DETAILS[argument])
            case "code":
                code: Any = {"none": None, "text": "NOT_FOUND"}.get(argument)
                context.set_code(code if argument in ("none", "text") else grpc.StatusCode[argument])
            case "raise":
                raise error(argument)
            case _:
                return False
        return True


def swallowed(op: Op) -> tuple[type[BaseException], ...]:
    """Returns what an operation's errors are swallowed as."""
    if op.swallow == "Exception":
        return (Exception,)
    return (BaseException,) if op.swallow else ()


class AsyncRun(Run):
    """An ``async def`` handler."""

    async def unary(self) -> Any:
        self.number = self.ledger.enter(self.case)
        try:
            for op in self.case.program[:-1]:
                await self.do(op)
            return await self.end(self.case.program[-1])
        finally:
            self.ledger.leave(self.case)

    async def stream(self) -> AsyncIterator[Any]:
        self.number = self.ledger.enter(self.case)
        try:
            for number, op in enumerate(self.case.program[:-1]):
                if op.what == "emit":
                    yield StringValue(value=f"{self.case.key} message {number}")
                else:
                    await self.do(op)
            for message in await self.end(self.case.program[-1]) or ():
                yield message
        finally:
            self.ledger.leave(self.case)

    async def do(self, op: Op) -> Any:
        with suppress(*swallowed(op)):
            return None if self.plain(op) else await self._do(op)

    async def _do(self, op: Op) -> Any:
        match op.what, op.arguments:
            case "sleep", (seconds,):
                await asyncio.sleep(seconds)
            case "overrun", (seconds,):
                await asyncio.sleep(seconds)
            case "read", _:
                await self.store.read(lambda db: db.execute("SELECT count(*) FROM effects").fetchone())
            case "nested", _:
                await self.store.read(lambda db: asyncio.run(self.store.read(lambda _: None)))
            case "abort", (code,):
                await self.context.abort(grpc.StatusCode[code], "aborted")
            case "cancel self", _:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            case "ignore cancellation", (seconds,):
                await ignoring(seconds)
            case "timeout", (seconds, inner):
                await asyncio.wait_for(self.all(inner), seconds)
            case "spawn task", (inner,):
                self.ledger.spawned(asyncio.ensure_future(self.all(inner)))
            case "spawn thread", (inner,):
                loop = asyncio.get_running_loop()
                self.ledger.thread(lambda: asyncio.run_coroutine_threadsafe(self.all(inner), loop).result(5))
            case "step", _:
                await self.step(op)
            case "gather", (steps,):
                await asyncio.gather(*(self.do(step) for step in steps))
            case "transact", (what, how):
                return await self.store.transaction(self.fn(what, how))
            case _:
                raise AssertionError(op)
        return None

    async def all(self, ops: tuple[Op, ...]) -> None:
        for op in ops:
            await self.do(op)

    async def step(self, op: Op) -> Any:
        operation = aio.current_operation()
        if operation is None:  # in a task of its own, as within wait_for: nothing to do
            return None
        name, transacts, undoable, within = op.arguments

        async def fn() -> Any:
            if within == "sleeps":
                await asyncio.sleep(0.03)
            return self.stepped(name, within)

        if transacts:
            undo = (lambda db, _: self.row(db, f"undo:{name}")) if undoable else None
            return await operation.step(
                name, lambda db: self.row(db, f"step:{name}", within), undo=undo, transaction=True
            )
        return await operation.step(name, fn, undo=(lambda _: None) if undoable else None)

    async def end(self, op: Op) -> Any:
        match op.what, op.arguments:
            case "transact", (_, how):
                return await self.store.transaction(self.fn("reply", how))
            case "transact in timeout", (seconds,):
                with suppress(*swallowed(op)):
                    return await asyncio.wait_for(self.store.transaction(self.fn("reply", "fine")), seconds)
                return self.reply("gave up")
            case "transact twice", _:
                await self.store.transaction(self.fn("reply", "fine"))
                return await self.store.transaction(self.fn("reply", "fine"))
            case "reply", _:
                return self.reply(f"run {self.number}")
            case "reply none", _:
                return None
            case "reply odd", _:
                return 5
            case _:
                await self.do(op)
                return self.reply(f"run {self.number}")


class ThreadRun(Run):
    """A ``def`` handler; on grpc.aio its store's calls are awaited in the server's loop."""

    def __init__(
        self, case: Case, ledger: Ledger, store: Any, context: Any, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(case, ledger, store, context)
        self._loop = loop

    def wait(self, called: Any, timeout: float | None = None) -> Any:
        """Waits for what a store's call answers."""
        if self._loop is None:
            return called
        # A handler that is left running when its loop ends would wait for ever.
        return asyncio.run_coroutine_threadsafe(called, self._loop).result(timeout or 10)

    def unary(self) -> Any:
        self.number = self.ledger.enter(self.case)
        try:
            for op in self.case.program[:-1]:
                self.do(op)
            return self.end(self.case.program[-1])
        finally:
            self.ledger.leave(self.case)

    def stream(self) -> Iterator[Any]:
        self.number = self.ledger.enter(self.case)
        try:
            for number, op in enumerate(self.case.program[:-1]):
                if op.what == "emit":
                    yield StringValue(value=f"{self.case.key} message {number}")
                else:
                    self.do(op)
            yield from self.end(self.case.program[-1]) or ()
        finally:
            self.ledger.leave(self.case)

    def do(self, op: Op) -> Any:
        with suppress(*swallowed(op)):
            return None if self.plain(op) else self._do(op)

    def _do(self, op: Op) -> Any:
        match op.what, op.arguments:
            case (("sleep" | "overrun" | "ignore cancellation"), (seconds,)):
                time.sleep(seconds)
            case "read", _:
                self.wait(self.store.read(lambda db: db.execute("SELECT count(*) FROM effects").fetchone()))
            case "nested", _:
                self.wait(self.store.read(lambda _: self.wait(self.store.read(lambda _: None), 5)), 10)
            case "abort", (code,):
                self.context.abort(grpc.StatusCode[code], "aborted")
            case "cancel self", _:
                raise concurrent.futures.CancelledError
            case "timeout", (_, inner):
                self.all(inner)
            case "spawn task", (inner,):
                self.ledger.thread(lambda: self.all(inner))
            case "spawn thread", (inner,):
                self.ledger.thread(lambda: self.all(inner))
            case "step", _:
                self.step(op)
            case "gather", (steps,):
                operation = current_operation()
                threads = [threading.Thread(target=self._quietly, args=(step, operation)) for step in steps]
                for thread in threads:
                    thread.start()
                for thread in threads[: len(steps) // 2]:
                    thread.join()
            case "transact", (what, how):
                return self.wait(self.store.transaction(self.fn(what, how)))
            case _:
                raise AssertionError(op)
        return None

    def _quietly(self, op: Op, operation: Any) -> None:
        with suppress(BaseException):
            self.step(op, operation)

    def all(self, ops: tuple[Op, ...]) -> None:
        for op in ops:
            self.do(op)

    def step(self, op: Op, operation: Any = None) -> Any:
        operation = operation or current_operation()
        if operation is None:
            return None
        name, transacts, undoable, within = op.arguments
        if transacts:
            undo = (lambda db, _: self.row(db, f"undo:{name}")) if undoable else None
            return operation.step(name, lambda db: self.row(db, f"step:{name}", within), undo=undo, transaction=True)
        return operation.step(name, lambda: self.stepped(name, within), undo=(lambda _: None) if undoable else None)

    def stepped(self, name: str, within: str) -> Any:
        if within == "sleeps":
            time.sleep(0.02)
        return super().stepped(name, within)

    def end(self, op: Op) -> Any:
        match op.what, op.arguments:
            case (("transact" | "transact in timeout"), (*_, how)):
                return self.wait(self.store.transaction(self.fn("reply", how if isinstance(how, str) else "fine")))
            case "transact twice", _:
                self.wait(self.store.transaction(self.fn("reply", "fine")))
                return self.wait(self.store.transaction(self.fn("reply", "fine")))
            case "reply", _:
                return self.reply(f"run {self.number}")
            case "reply none", _:
                return None
            case "reply odd", _:
                return 5
            case _:
                self.do(op)
                return self.reply(f"run {self.number}")


async def ignoring(seconds: float) -> None:
    """Sleeps, whoever cancels it."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(left)
