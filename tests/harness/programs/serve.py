"""``python serve.py KIND [--grace SECONDS] [--fails]``: serves by ``serve``; its handler ends when standard input does.

With ``--fails`` what comes before the stop raises.
"""

import argparse
import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
import grpc.aio

import grpc_idempotency
from grpc_idempotency import aio


def say(words: str) -> None:
    print(words, flush=True)


def do(_request: bytes, _context: Any) -> bytes:
    say("began")
    sys.stdin.read()
    return b"done"


async def do_async(_request: bytes, _context: Any) -> bytes:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(sys.stdin, ended.set)
    say("began")
    await ended.wait()
    loop.remove_reader(sys.stdin)
    return b"done"


def prepared(kind: str) -> Any:
    """A server that says when it is stopped."""
    options = [("grpc.so_reuseport", 0)]
    if kind == "sync":
        interceptor: Any = grpc_idempotency.IdempotencyInterceptor(grpc_idempotency.SQLiteStore("idempotency.db"))
        server: Any = grpc.server(ThreadPoolExecutor(4), interceptors=[interceptor], options=options)
    else:
        interceptor = aio.IdempotencyInterceptor(aio.SQLiteStore("idempotency.db"))
        server = grpc.aio.server(interceptors=[interceptor], options=options)
    interceptor.attach(server)
    handler: Any = grpc.unary_unary_rpc_method_handler(do if kind == "sync" else do_async)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {"Do": handler}),))
    stop = server.stop

    def stopping(grace: float | None) -> Any:
        say("stopping")
        return stop(grace)

    server.stop = stopping
    say(f"serves on 127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    return server


def before_stop(*, fails: bool) -> None:
    say("about to stop")
    if fails:
        raise RuntimeError("before the stop")


async def on_aio(grace: timedelta, *, fails: bool) -> None:
    async def first() -> None:
        before_stop(fails=fails)

    await aio.serve(prepared("async"), grace=grace, before_stop=first)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("--grace", type=float, default=10)
    parser.add_argument("--fails", action="store_true")
    arguments = parser.parse_args()
    grace = timedelta(seconds=arguments.grace)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started it with SIGINT ignored
    if arguments.kind == "sync":
        grpc_idempotency.serve(prepared("sync"), grace=grace, before_stop=partial(before_stop, fails=arguments.fails))
    else:
        asyncio.run(on_aio(grace, fails=arguments.fails))
    say("stopped")
