"""Several processes that serve one port: starts them, replaces those that die, and stops them together.

Each worker is a new process, and no fork: gRPC does not survive a fork of a process that has used it. All of them
listen on the same port, and the system gives each connection to one of them (``SO_REUSEPORT``). A worker stops when its
standard input ends, so that none outlives the supervisor, however that ends.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence

from shop.config import Config
from shop.server import CannotServe

WORKER = (sys.executable, "-m", "shop.worker")
_log = logging.getLogger("shop.supervisor")
_READY = b"listening on "
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 10.0
_STEADY = 60.0
"""After how many seconds of life the death of a worker is the first one again."""


async def supervise(config: Config, command: Sequence[str] = WORKER) -> int:
    """Serves a shop in ``config.workers`` processes until SIGTERM or SIGINT.

    Args:
        config: The shop's settings. The workers read theirs from the environment variables of this process.
        command: Starts a worker. It says on a line that begins with "listening on" that it serves.

    Returns:
        The exit code: 0 if all workers have ended well. If the first worker can't start, it is that worker's.

    Raises:
        CannotServe: The port is taken.
    """
    with _reserved(config.host, config.port) as port:
        address = f"{config.host}:{port}"
        environment = dict(os.environ) | {"SHOP_LISTEN": address, "SHOP_WORKERS": ""}
        workers = [Worker(command, environment) for _ in range(config.workers)]
        with _stopping(workers):
            return await _run(workers, address)


async def _run(workers: Sequence["Worker"], address: str) -> int:
    # The first one alone creates the tables, and says what is wrong with the settings.
    if not await workers[0].start():
        return workers[0].code or 1
    await asyncio.gather(_announce(workers, address), *(worker.keep() for worker in workers))
    return 0 if all(worker.code in (0, None) for worker in workers) else 1


async def _announce(workers: Sequence["Worker"], address: str) -> None:
    for worker in workers:
        await worker.ready.wait()
    if not workers[0].stopping.is_set():
        print(f"listening on {address}", flush=True)


class Worker:
    """One of the processes, and its successors."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.ready = asyncio.Event()
        """Set once a process has served, or is not to serve any more."""
        self.stopping = asyncio.Event()
        self.code: int | None = None
        """How the last process has ended; ``None`` if none has."""
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._began = 0.0

    async def keep(self) -> None:
        """Starts a process if there is none yet, and another one when it ends, until it is to stop."""
        delay = _FIRST_DELAY
        while not self.stopping.is_set():
            if self._process is None:
                await self.start()
            pid = await self._ended()
            if self.stopping.is_set():
                return
            if time.monotonic() - self._began > _STEADY:
                delay = _FIRST_DELAY
            _log.warning("worker %d has ended with %s: another one starts in %.1f s", pid, self.code, delay)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), delay)
            delay = min(delay * 2, _LONGEST_DELAY)
            self._process = None
        if self._process is not None:
            await self._ended()

    async def start(self) -> bool:
        """Starts a process. Returns ``True`` once it serves, or ``False`` if it has ended before."""
        self._began = time.monotonic()
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # the Ctrl-C of a terminal is for the supervisor alone
        )
        assert process.stdout is not None
        if self.stopping.is_set():
            self._release()
        async for line in process.stdout:
            if line.startswith(_READY):
                _log.info("worker %d serves", process.pid)
                self.ready.set()
                return True
        await self._ended()
        return False

    def stop(self) -> None:
        """Makes the process end what runs, and then itself. A second call kills it."""
        if self.stopping.is_set():
            self._kill()
        self.stopping.set()
        self.ready.set()
        self._release()

    def _release(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _ended(self) -> int:
        """Waits for the end of the process, and returns its id."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        await process.stdout.read()
        self.code = await process.wait()
        return process.pid


@contextlib.contextmanager
def _stopping(workers: Sequence[Worker]) -> Iterator[None]:
    """Stops the workers on SIGTERM and SIGINT."""

    def stop() -> None:
        _log.info("stopping: letting what runs end; signal again to stop at once")
        for worker in workers:
            worker.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _reserved(host: str, port: int) -> Iterator[int]:
    """Reserves a port for the workers: no other user can take it, and no other server does by mistake.

    Yields:
        The port.
    """
    try:
        family, kind, _, _, where = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        if port:
            # Any server that shares its ports could share this one, too. So it has to be free for one that does not.
            with socket.socket(family, kind) as alone:
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind(where)
        reserving = socket.socket(family, kind)
    except OSError as error:
        raise _taken(host, port) from error
    with reserving:  # it never listens, so it gets no connection
        try:
            reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserving.bind(where)
        except OSError as error:
            raise _taken(host, port) from error
        yield reserving.getsockname()[1]


def _taken(host: str, port: int) -> CannotServe:
    return CannotServe(f"Can't listen on {host}:{port}: it is taken, or no address of this machine.")
