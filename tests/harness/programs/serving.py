"""What the programs have in common: they serve until they are told to stop, and print what happens."""

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..servers import Server


def say(*words: str) -> None:
    print(*words, flush=True)


async def serve_until_told(
    kind: str,
    interceptor: Any,
    *handlers: Any,
    attach: bool = True,
    port: int = 0,
    grace: float | None = 5,
    on_stop: Callable[[], object] = lambda: None,
) -> None:
    """Serves until SIGTERM comes; prints ``listening on HOST:PORT`` when it is ready.

    ``on_stop`` is called before the server is stopped.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.set_default_executor(ThreadPoolExecutor(32))  # for handlers that block
    server = Server(kind, [interceptor], workers=32)
    if attach:
        interceptor.attach(server.real)
    server.add(*handlers)
    target = await server.start(port=port)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    say(f"listening on {target}")
    await stop.wait()
    on_stop()
    await server.stop(grace)
