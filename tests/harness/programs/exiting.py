"""A server whose handlers raise what ends a process: ``python exiting.py KIND DATABASE``.

KIND is ``async``, ``thread`` (``def`` on an aio server) or ``sync``. It prints ``listening on HOST:PORT``, and
``ended by NAME`` when its loop was ended by such an exception.
"""

import asyncio
import runpy
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import IdempotencyInterceptor, SQLiteStore, aio

_service = runpy.run_path(str(Path(__file__).with_name("service.py")))
say, SERVICE = _service["say"], _service["SERVICE"]
ENDS: dict[str, BaseException] = {
    "SystemExit": SystemExit("password=hunter2"),
    "KeyboardInterrupt": KeyboardInterrupt(),
}


def end(request: StringValue, _context: Any) -> StringValue:
    if request.value in ENDS:
        raise ENDS[request.value]
    return request


async def end_awaited(request: StringValue, context: Any) -> StringValue:
    return end(request, context)


def add_service(kind: str, server: Any) -> None:
    handler = grpc.unary_unary_rpc_method_handler(
        end_awaited if kind == "async" else end, StringValue.FromString, StringValue.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Unary": handler}),))


async def serve_aio(kind: str, path: str) -> None:
    server = grpc.aio.server(interceptors=[aio.IdempotencyInterceptor(aio.SQLiteStore(path))])
    add_service(kind, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    say(f"listening on 127.0.0.1:{port}")
    await stop.wait()
    await server.stop(None)


def serve_sync(path: str) -> None:
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[IdempotencyInterceptor(SQLiteStore(path))])
    add_service("sync", server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    say(f"listening on 127.0.0.1:{port}")
    stop.wait()
    server.stop(None).wait()


if __name__ == "__main__":
    try:
        if sys.argv[1] == "sync":
            serve_sync(sys.argv[2])
        else:
            asyncio.run(serve_aio(*sys.argv[1:]))
    except (SystemExit, KeyboardInterrupt) as error:
        say("ended by", type(error).__name__)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
