"""The command: starts a server in a new folder, plays the story against it, and always ends the server."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio

from shop.demo.process import ServerFailed, ShopProcess
from shop.demo.proxy import Proxy
from shop.demo.stage import AudienceLeft, Stage, console
from shop.demo.story import Story

SERVER = (sys.executable, "-m", "shop")
_LONGEST = 90.0
"""The most seconds for the whole story, which takes a few."""


def main(server: Sequence[str] = SERVER) -> int:
    """Starts a server with this command, plays the story against it, and returns the exit code."""
    stage = Stage(console())
    try:
        asyncio.run(_play(stage, server))
    except (KeyboardInterrupt, asyncio.CancelledError):
        stage.broken("The demo was interrupted.")
    except AudienceLeft:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
        return 1
    return stage.verdict()


async def _play(stage: Stage, command: Sequence[str]) -> None:
    _end_on_signals()
    with tempfile.TemporaryDirectory(prefix="shop-demo-", ignore_cleanup_errors=True) as folder:
        shop = ShopProcess(command, Path(folder))
        try:
            async with _served(shop) as proxy:
                await asyncio.wait_for(Story(stage, shop, proxy).play(), _LONGEST)
        except ServerFailed as error:
            stage.broken(str(error))
        except grpc.aio.AioRpcError as error:
            stage.broken(f"A call beside the story failed with {error.code().name}: {error.details()}")
        except asyncio.TimeoutError:
            stage.broken("Something that had to happen did not, and the story could not go on.")
        if stage.failures:
            stage.server_log(shop.log_tail())


@asynccontextmanager
async def _served(shop: ShopProcess) -> AsyncIterator[Proxy]:
    try:
        await shop.start()
        async with Proxy(shop.address) as proxy:
            yield proxy
    finally:
        await shop.stop()


def _end_on_signals() -> None:
    """Makes SIGTERM and SIGHUP end the demo as Ctrl-C does, so that its server ends too."""
    task = asyncio.current_task()
    assert task is not None
    for name in ("SIGTERM", "SIGHUP"):
        with contextlib.suppress(AttributeError, NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(getattr(signal, name), task.cancel)
