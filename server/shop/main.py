"""The command: serves until SIGTERM or SIGINT, then finishes running calls and exits with 0."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace

from shop.config import BadSetting, Config, from_environment
from shop.server import CannotServe, serving
from shop.supervisor import supervise

_BAD_SETTING = 2
_CANNOT_SERVE = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Serves as the environment variables say, and returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    return _run(lambda config: supervise(config) if config.workers > 1 else _serve(config))


def work() -> int:
    """Serves as one of several processes, until standard input ends. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s")
    return _run(lambda config: _serve(replace(config, shares_port=True), until_input_ends=True))


def _run(serve: Callable[[Config], Coroutine[None, None, int]]) -> int:
    try:
        return asyncio.run(serve(from_environment(os.environ)))
    except BadSetting as error:
        return _complain(error, _BAD_SETTING)
    except CannotServe as error:
        return _complain(error, _CANNOT_SERVE)


async def _serve(config: Config, *, until_input_ends: bool = False) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop_soon() -> None:
        stop.set()
        for number in _SIGNALS:  # a second signal ends the process at once
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        if until_input_ends:
            loop.remove_reader(sys.stdin)

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop_soon)
    if until_input_ends:
        loop.add_reader(sys.stdin, stop_soon)  # nothing is ever written to it
    async with serving(config) as shop:
        logging.getLogger("shop").info("serves on %s: %s", shop.address, config.described())
        print(f"listening on {shop.address}", flush=True)
        await stop.wait()
        logging.getLogger("shop").info("stopping: letting what runs end; signal again to stop at once")
    return 0


def _complain(error: Exception, code: int) -> int:
    print(f"shop: {error}", file=sys.stderr)
    return code
