"""A server in a process of its own, for tests that kill it.

``python -m …workflow DATABASE EFFECTS KIND [halting] [recovering]``

Its handlers have effects that no transaction holds, lines in a file, and rows. A request names the point at which its
handler stops for good in a server that is ``halting``; it then prints ``at POINT``.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

import grpc_idempotency
from grpc_idempotency import Database, Effects, Policy, SQLiteStore, aio

from ..handlers import full, generic_handler, unary
from ..servers import interceptor_of
from .serving import say, serve_until_told

LEASE: dict[str, Any] = {"lease": timedelta(milliseconds=1500), "renew_every": timedelta(milliseconds=400)}


class Workflow:
    """Steps a, t (a transaction) and c of one run; the request is the name of the point to stop at."""

    def __init__(self, request: StringValue, effects: str, operation: Any, halting: bool) -> None:
        self.what = request.value
        self._effects = effects
        self._operation = operation
        self._halting = halting

    def steps(self) -> list[Callable[[], Any]]:
        step = self._operation.step
        return [
            lambda: step("a", self.does("a"), undo=self.undoes("a")),
            lambda: step("t", self.inserts, undo=self.deletes, transaction=True),
            lambda: step("c", self.does("c"), undo=self.undoes("c")),
        ]

    def writes(self, line: str) -> None:
        file = os.open(self._effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{self.what}|{line}\n".encode())
        os.close(file)

    def halts(self, point: str) -> bool:
        halts = self._halting and self.what.removesuffix(" fails") == point
        if halts:
            say("at", self.what)
        return halts

    def blocks(self, point: str) -> None:
        if self.halts(point):
            time.sleep(600)

    def does(self, name: str) -> Callable[[], Any]:
        def fn() -> str:
            self.writes(name)
            self.blocks(f"in {name}")
            return name.upper()

        return fn

    def undoes(self, name: str) -> Callable[[str], Any]:
        def fn(result: str) -> None:
            self.writes(f"undo {result}")
            self.blocks(f"in undo {name}")

        return fn

    def inserts(self, db: Database) -> str:
        db.execute("INSERT INTO things (value) VALUES (?)", (self.what,))
        self.blocks("in t")
        return "T"

    def deletes(self, db: Database, _result: str) -> None:
        db.execute("DELETE FROM things WHERE value = ?", (self.what,))
        self.blocks("in undo t")


class AsyncWorkflow(Workflow):
    """The same in a loop, which nothing may block."""

    async def pauses(self, point: str) -> None:
        if self.halts(point):
            await asyncio.sleep(600)

    def does(self, name: str) -> Callable[[], Any]:
        async def fn() -> str:
            self.writes(name)
            await self.pauses(f"in {name}")
            return name.upper()

        return fn

    def undoes(self, name: str) -> Callable[[str], Any]:
        async def fn(result: str) -> None:
            self.writes(f"undo {result}")
            await self.pauses(f"in undo {name}")

        return fn


def methods(kind: str, store: Any, effects: str, halting: bool) -> dict[str, Callable[[Any, Any], Any]]:
    """The service: a workflow in three steps, and an insertion in a transaction."""

    def run(request: StringValue, context: Any) -> StringValue:
        workflow = Workflow(request, effects, grpc_idempotency.current_operation(), halting)
        results = []
        for number, step in enumerate(workflow.steps()):
            workflow.blocks(f"before {number}")
            results.append(step())
        workflow.blocks("before 3")
        if workflow.what.endswith(" fails"):
            context.abort(grpc.StatusCode.NOT_FOUND, "it fails")
        return StringValue(value="".join(results))

    async def run_in_loop(request: StringValue, context: Any) -> StringValue:
        workflow = AsyncWorkflow(request, effects, aio.current_operation(), halting)
        results = []
        for number, step in enumerate(workflow.steps()):
            await workflow.pauses(f"before {number}")
            results.append(await step())
        await workflow.pauses("before 3")
        if workflow.what.endswith(" fails"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "it fails")
        return StringValue(value="".join(results))

    def inserting(request: StringValue) -> Callable[[Database], StringValue]:
        def insert(db: Database) -> StringValue:
            db.execute("INSERT INTO things (value) VALUES (?)", (request.value,))
            return StringValue(value=f"inserted {request.value}")

        return insert

    def insert(request: StringValue, _context: Any) -> StringValue:
        Workflow(request, effects, None, halting).blocks(request.value)
        reply: StringValue = store.transaction(inserting(request))
        return reply

    async def insert_in_loop(request: StringValue, _context: Any) -> StringValue:
        await AsyncWorkflow(request, effects, None, halting).pauses(request.value)
        reply: StringValue = await store.transaction(inserting(request))
        return reply

    if kind == "async":
        return {"Run": run_in_loop, "Opaque": run_in_loop, "Insert": insert_in_loop}
    return {"Run": run, "Opaque": run} | ({"Insert": insert} if kind == "sync" else {})


def policies(recover: bool) -> dict[str, Policy]:
    transactional = Policy(effects=Effects.TRANSACTIONAL, recover=recover, **LEASE)
    repeatable = Policy(effects=Effects.REPEATABLE, retry_delay=timedelta(milliseconds=50), recover=recover, **LEASE)
    return {full("Run"): repeatable, full("Opaque"): Policy(**LEASE), full("I*"): transactional}


async def main(path: str, effects: str, kind: str, *flags: str) -> None:
    halting, recover = "halting" in flags, "recovering" in flags
    store = SQLiteStore(path) if kind == "sync" else aio.SQLiteStore(path)
    served = {name: one for name, one in policies(recover).items() if kind != "thread" or not name.endswith("/I*")}
    interceptor = interceptor_of(kind, store, methods=served, drain_limit=timedelta(seconds=5))
    native = {name: unary(run, native=True) for name, run in methods(kind, store, effects, halting).items()}
    await serve_until_told(kind, interceptor, generic_handler(kind, native))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
