"""The shop without the interceptor: ``python bare_shop.py HOST:PORT FILE``."""

import asyncio
import signal
import sys
from typing import Any

import grpc.aio

from shop import server
from shop.config import from_environment


def bare(_config: Any, _store: Any, _services: Any) -> grpc.aio.Server:
    return grpc.aio.server(options=[("grpc.so_reuseport", 0)])


async def main(address: str, file: str) -> None:
    server._server = bare  # type: ignore[assignment]  # a server of the same kind
    async with server.serving(from_environment({"SHOP_LISTEN": address, "SHOP_STORE": f"sqlite:///{file}"})) as shop:
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGTERM, lambda: asyncio.ensure_future(shop.server.stop(0))
        )
        await shop.server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
