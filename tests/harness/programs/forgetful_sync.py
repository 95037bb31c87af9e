"""The same on a ``grpc.server``: ``python forgetful_sync.py DATABASE``."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import IdempotencyInterceptor, SQLiteStore


def echo(request: StringValue, _context: object) -> StringValue:
    return request


def main(path: str) -> None:
    server = grpc.server(ThreadPoolExecutor(), interceptors=[IdempotencyInterceptor(SQLiteStore(path))])
    handler = grpc.unary_unary_rpc_method_handler(echo, StringValue.FromString, StringValue.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Do": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(2):
            do: Any = channel.unary_unary("/test.Echo/Do")
            message, call = do.with_call(b"\n\x02hi", metadata=(("idempotency-key", "k"),))
            print(message, dict(call.trailing_metadata())["idempotency-status"], flush=True)
    # and that is all: it forgets to stop and to close


if __name__ == "__main__":
    main(sys.argv[1])
