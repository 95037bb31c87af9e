"""A server whose handlers ask their contexts everything when told: ``python -m …asking KIND DATABASE``.

KIND is ``async``, ``thread`` (``def`` on an aio server) or ``sync``. It prints ``listening on HOST:PORT``, ``began``
when a handler has begun, and ``asked NAME`` for each question that did not crash it.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import SQLiteStore, aio

from ..handlers import client_stream, generic_handler, server_stream, unary
from ..servers import interceptor_of
from .questions import questions
from .serving import say, serve_until_told

told = threading.Event()


async def interrogate(context: Any) -> None:
    say("began")
    await asyncio.to_thread(told.wait)
    for name, args in questions(grpc.aio.ServicerContext):
        try:
            result = getattr(context, name)(*args)
            if asyncio.iscoroutine(result):
                await result
        except Exception as error:
            say("raised", name, type(error).__name__)
        say("asked", name)


def interrogate_blocking(context: Any) -> None:
    say("began")
    told.wait()
    for name, args in questions(grpc.ServicerContext):
        try:
            getattr(context, name)(*args)
        except Exception as error:
            say("raised", name, type(error).__name__)
        say("asked", name)


async def one_awaited(_request: Any, context: Any) -> StringValue:
    await interrogate(context)
    return StringValue(value="an abort that was swallowed counts")


async def many_awaited(_request: Any, context: Any) -> AsyncIterator[StringValue]:
    yield StringValue(value="before")
    await interrogate(context)
    yield StringValue(value="after")


def one_blocking(_request: Any, context: Any) -> StringValue:
    interrogate_blocking(context)
    return StringValue(value="an abort that was swallowed counts")


def many_blocking(_request: Any, context: Any) -> Iterator[StringValue]:
    yield StringValue(value="before")
    interrogate_blocking(context)
    yield StringValue(value="after")


def let(_request: Any, _context: Any) -> StringValue:
    told.set()
    return StringValue()


async def let_awaited(_request: Any, _context: Any) -> StringValue:
    return let(None, None)


async def main(kind: str, path: str) -> None:
    interceptor = interceptor_of(kind, SQLiteStore(path) if kind == "sync" else aio.SQLiteStore(path))
    awaited = kind == "async"
    one, many = (one_awaited, many_awaited) if awaited else (one_blocking, many_blocking)
    methods = {
        "Unary": unary(one, native=True),
        "ClientStream": client_stream(one, native=True),
        "ServerStream": server_stream(many, native=True),
        "Let": unary(let_awaited if awaited else let, native=True),
    }
    await serve_until_told(kind, interceptor, generic_handler(kind, methods))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
