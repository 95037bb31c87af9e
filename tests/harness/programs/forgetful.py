"""Two lines of embedding, one keyed call, and an end without a stop or a close: ``python forgetful.py DATABASE``."""

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import aio


async def echo(request: StringValue, _context: object) -> StringValue:
    return request


async def main(path: str) -> None:
    server = grpc.aio.server(interceptors=[aio.IdempotencyInterceptor(aio.SQLiteStore(path))])
    handler = grpc.unary_unary_rpc_method_handler(echo, StringValue.FromString, StringValue.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Do": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(2):
            do: Any = channel.unary_unary("/test.Echo/Do")
            call = do(b"\n\x02hi", metadata=(("idempotency-key", "k"),))
            message = await call
            print(message, dict(await call.trailing_metadata())["idempotency-status"], flush=True)
    # and that is all: it forgets to stop and to close


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
