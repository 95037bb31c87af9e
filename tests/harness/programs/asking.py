"""A server whose handlers ask their contexts everything when told: ``python asking.py KIND DATABASE``.

KIND is ``async``, ``thread`` (``def`` on an aio server) or ``sync``. It prints ``listening on HOST:PORT``, ``began``
when a handler has begun, and ``asked NAME`` for each question that did not crash it.
"""

import asyncio
import runpy
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import IdempotencyInterceptor, SQLiteStore, aio

_service = runpy.run_path(str(Path(__file__).with_name("service.py")))
say, questions, SERVICE = _service["say"], _service["questions"], _service["SERVICE"]
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


async def unary(_request: Any, context: Any) -> StringValue:
    await interrogate(context)
    return StringValue(value="an abort that was swallowed counts")


async def server_stream(_request: Any, context: Any) -> AsyncIterator[StringValue]:
    yield StringValue(value="before")
    await interrogate(context)
    yield StringValue(value="after")


def unary_blocking(_request: Any, context: Any) -> StringValue:
    interrogate_blocking(context)
    return StringValue(value="an abort that was swallowed counts")


def server_stream_blocking(_request: Any, context: Any) -> Iterator[StringValue]:
    yield StringValue(value="before")
    interrogate_blocking(context)
    yield StringValue(value="after")


def let(_request: Any, _context: Any) -> StringValue:
    told.set()
    return StringValue()


async def let_awaited(_request: Any, _context: Any) -> StringValue:
    return let(None, None)


def add_service(kind: str, server: Any) -> None:
    """The same three methods for each kind of server."""
    awaited = kind == "async"
    one, many = (unary, server_stream) if awaited else (unary_blocking, server_stream_blocking)
    codec = (StringValue.FromString, StringValue.SerializeToString)
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(one, *codec),
        "ClientStream": grpc.stream_unary_rpc_method_handler(one, *codec),
        "ServerStream": grpc.unary_stream_rpc_method_handler(many, *codec),
        "Let": grpc.unary_unary_rpc_method_handler(let_awaited if awaited else let, *codec),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


async def serve_aio(kind: str, path: str) -> None:
    interceptor = aio.IdempotencyInterceptor(aio.SQLiteStore(path))
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    add_service(kind, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    say(f"listening on 127.0.0.1:{port}")
    await stop.wait()
    await server.stop(5)


def serve_sync(path: str) -> None:
    interceptor = IdempotencyInterceptor(SQLiteStore(path))
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[interceptor])
    interceptor.attach(server)
    add_service("sync", server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    say(f"listening on 127.0.0.1:{port}")
    stop.wait()
    server.stop(5).wait()


if __name__ == "__main__":
    if sys.argv[1] == "sync":
        serve_sync(sys.argv[2])
    else:
        asyncio.run(serve_aio(*sys.argv[1:]))
