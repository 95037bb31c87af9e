"""A server whose handlers raise what ends a process: ``python -m …exiting KIND DATABASE``.

KIND is ``async``, ``thread`` (``def`` on an aio server) or ``sync``. It prints ``listening on HOST:PORT``, and
``ended by NAME`` when its loop was ended by such an exception.
"""

import asyncio
import signal
import sys

from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import SQLiteStore, aio

from ..handlers import generic_handler, unary
from ..servers import interceptor_of
from .serving import say, serve_until_told

ENDS: dict[str, BaseException] = {
    "SystemExit": SystemExit("password=hunter2"),
    "KeyboardInterrupt": KeyboardInterrupt(),
}


def end(request: StringValue, _context: object) -> StringValue:
    if request.value in ENDS:
        raise ENDS[request.value]
    return request


async def end_awaited(request: StringValue, context: object) -> StringValue:
    return end(request, context)


async def main(kind: str, path: str) -> None:
    interceptor = interceptor_of(kind, SQLiteStore(path) if kind == "sync" else aio.SQLiteStore(path))
    method = unary(end_awaited if kind == "async" else end, native=True)
    await serve_until_told(kind, interceptor, generic_handler(kind, {"Unary": method}), attach=False, grace=None)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except (SystemExit, KeyboardInterrupt) as error:
        say("ended by", type(error).__name__)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
