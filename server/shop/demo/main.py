"""The command: starts the hosts in a new folder, plays the story against them, and always ends them."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import grpc.aio

from shop.demo.places import PLACES, NoPlace, Place
from shop.demo.process import ServerFailed, ShopProcess
from shop.demo.proxy import Proxy
from shop.demo.scene import Scene
from shop.demo.stage import AudienceLeft, Stage, console
from shop.demo.story import Story

SERVER = (sys.executable, "-m", "shop")
_LEASE = "2"
"""Seconds until another process may go on with what a killed one had begun."""
_LONGEST = 90.0
"""The most seconds for the whole story, which takes a few."""


def main(server: Sequence[str] = SERVER, *, store: str = "sqlite") -> int:
    """Plays the story against hosts that this command starts, and returns the exit code.

    Args:
        server: Starts a host.
        store: Where the hosts keep operations and rows: a name of ``PLACES``.
    """
    stage = Stage(console())
    try:
        asyncio.run(_play(stage, server, PLACES[store]))
    except (KeyboardInterrupt, asyncio.CancelledError):
        stage.broken("The demo was interrupted.")
    except AudienceLeft:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
        return 1
    return stage.verdict()


async def _play(
    stage: Stage, command: Sequence[str], opened: Callable[[Path], AbstractAsyncContextManager[Place]]
) -> None:
    _end_on_signals()
    with tempfile.TemporaryDirectory(prefix="shop-demo-", ignore_cleanup_errors=True) as name:
        folder, hosts = Path(name), list[ShopProcess]()
        try:
            async with opened(folder) as place:
                names = ["server"] if place.hosts == 1 else [f"host {letter}" for letter in "AB"]
                async with Proxy() as inner:
                    settings = {**place.settings, "SHOP_USERS": inner.address, "SHOP_LEASE": _LEASE}
                    hosts += [ShopProcess(name, command, settings, folder) for name in names]
                    async with _served(hosts) as proxy:
                        inner.target = proxy.target
                        story = Story(Scene(stage, place, hosts, proxy, inner, folder))
                        await asyncio.wait_for(story.play(), _LONGEST)
        except (NoPlace, ServerFailed) as error:
            stage.broken(str(error))
        except grpc.aio.AioRpcError as error:
            stage.broken(f"A call beside the story failed with {error.code().name}: {error.details()}")
        except asyncio.TimeoutError:
            stage.broken("Something that had to happen did not, and the story could not go on.")
        if stage.failures:
            stage.server_log("\n".join(filter(None, (host.log_tail() for host in hosts))))


@asynccontextmanager
async def _served(hosts: Sequence[ShopProcess]) -> AsyncIterator[Proxy]:
    try:
        for host in hosts:
            await host.start()
        async with Proxy(hosts[0].address) as proxy:
            yield proxy
    finally:
        for host in hosts:
            await host.stop()


def _end_on_signals() -> None:
    """Makes SIGTERM and SIGHUP end the demo as Ctrl-C does, so that its server ends too."""
    task = asyncio.current_task()
    assert task is not None
    for name in ("SIGTERM", "SIGHUP"):
        with contextlib.suppress(AttributeError, NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(getattr(signal, name), task.cancel)
