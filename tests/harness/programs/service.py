"""A server in a process of its own, for tests that kill it: ``python -m …service DATABASE EFFECTS [PORT]``.

It prints ``listening on HOST:PORT`` when it is ready, and ``began NAME`` when a handler has begun.
"""

import asyncio
import os
import sys
import time
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Database, Effects, Policy
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore, current_operation

from ..handlers import Handler, Method, full, generic_handler, unary
from .questions import questions
from .serving import say, serve_until_told

# Short, so that a test can wait for a dead server's lease; an opaque handler must not lose its own on a busy machine.
OPAQUE = Policy(lease=timedelta(milliseconds=2000), renew_every=timedelta(milliseconds=400))
TRANSACTIONAL = Policy(
    effects=Effects.TRANSACTIONAL,
    recover=True,
    lease=timedelta(milliseconds=600),
    renew_every=timedelta(milliseconds=150),
)


class Handlers:
    def __init__(self, store: SQLiteStore, effects: str) -> None:
        self._store = store
        self._effects = effects
        self._stopping = asyncio.Event()
        self._asked = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def append(self, request: StringValue, _context: Any) -> StringValue:
        """An effect that is in no transaction: a line in a file."""
        line = os.open(self._effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(line, f"{request.value}\n".encode())
        os.close(line)
        say("began", request.value)
        if request.value.startswith("hang"):
            await asyncio.sleep(600)
        await asyncio.sleep(0.02)
        return StringValue(value=f"appended {request.value} in {os.getpid()}")

    async def insert(self, request: StringValue, _context: Any) -> StringValue:
        """A row in a transaction."""
        say("began", request.value)
        operation = current_operation()
        await asyncio.sleep(600 if request.value.startswith("hang") and operation and operation.attempt == 1 else 0.005)

        def fn(db: Database) -> StringValue:
            row = db.execute("INSERT INTO things (value) VALUES (?) RETURNING id", (request.value,)).fetchone()
            assert row is not None
            return StringValue(value=f"row {row[0]}")

        reply = await self._store.transaction(fn)
        await asyncio.sleep(0.005)
        return reply

    async def linger(self, request: StringValue, _context: Any) -> StringValue:
        """Ends only when the server is being stopped, and a little after that."""
        say("began", request.value)
        await self._stopping.wait()
        await asyncio.sleep(0.2)
        return StringValue(value=f"lingered {request.value}")

    # A handler that asks its context everything when its call is long over

    async def let(self, _request: StringValue, _context: Any) -> StringValue:
        """Lets the asking handlers ask."""
        self._asked.set()
        return StringValue()

    async def ask(self, request: StringValue, context: Any) -> StringValue:
        say("began", request.value)
        await self._asked.wait()
        for name, args in questions(grpc.aio.ServicerContext):
            try:
                result = getattr(context, name)(*args)
                if asyncio.iscoroutine(result):
                    await result
            except Exception as error:
                say("raised", name, type(error).__name__)
            say("asked", name)
        return StringValue(value="an abort that was swallowed counts")

    def ask_on_thread(self, request: StringValue, context: Any) -> StringValue:
        say("began", request.value)
        while not self._asked.is_set():
            time.sleep(0.01)
        for name, args in questions(grpc.ServicerContext):
            try:
                getattr(context, name)(*args)
            except Exception as error:
                say("raised", name, type(error).__name__)
            say("asked", name)
        return StringValue(value="an abort that was swallowed counts")


async def main(path: str, effects: str, port: str = "0") -> None:
    store = SQLiteStore(path)
    await store.transaction(
        lambda db: db.execute("CREATE TABLE IF NOT EXISTS things (id INTEGER PRIMARY KEY, value TEXT)")
    )
    handlers = Handlers(store, effects)
    interceptor = IdempotencyInterceptor(
        store, policy=OPAQUE, methods={full("Insert"): TRANSACTIONAL}, drain_limit=timedelta(seconds=15)
    )
    methods: dict[str, Handler | Method] = {
        "Append": handlers.append,
        "Insert": handlers.insert,
        "Linger": handlers.linger,
        "Let": handlers.let,
        "Ask": handlers.ask,
        "AskOnThread": unary(handlers.ask_on_thread, native=True),
    }
    generic = generic_handler("async", methods)
    await serve_until_told("async", interceptor, generic, port=int(port), on_stop=handlers.stop)
    say("stopped")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
