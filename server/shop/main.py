"""The command: serves until SIGTERM or SIGINT, then finishes running calls and exits with 0."""

import asyncio
import logging
import os
import signal
import sys

from shop.config import BadSetting, Config, from_environment
from shop.server import CannotServe, serving

_BAD_SETTING = 2
_CANNOT_SERVE = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Serves as the environment variables say, and returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(_serve(from_environment(os.environ)))
    except BadSetting as error:
        return _complain(error, _BAD_SETTING)
    except CannotServe as error:
        return _complain(error, _CANNOT_SERVE)
    return 0


async def _serve(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop_soon() -> None:
        stop.set()
        for number in _SIGNALS:  # a second signal ends the process at once
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop_soon)
    async with serving(config) as shop:
        print(f"listening on {shop.address}", flush=True)
        await stop.wait()
        logging.getLogger("shop").info("stopping: letting what runs end; signal again to stop at once")


def _complain(error: Exception, code: int) -> int:
    print(f"shop: {error}", file=sys.stderr)
    return code
