"""A host of the shop: a separate process, which can be killed and started again."""

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_READY = "listening on "
_START = 60.0
"""The most seconds for a start. After a fresh set-up, Python compiles all modules first."""
_STOP = 15.0


class ServerFailed(Exception):
    """The server did not start, or ended by itself. The message is for people."""


class ShopProcess:
    """A shop with the settings of a place; one process at a time.

    Args:
        name: What the story calls it.
        command: Starts it.
        settings: Its environment variables.
        folder: The folder of its log.
    """

    def __init__(self, name: str, command: Sequence[str], settings: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.address = ""
        """HOST:PORT of the running process; a new one after each start."""
        self._command = command
        self._settings = settings
        self._log = folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[bytes] | None = None

    async def start(self) -> None:
        """Starts it, and waits until it prints that it is ready."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        try:
            self.address = await asyncio.wait_for(_ready(self._process.stdout), _START)
        except asyncio.TimeoutError:
            raise ServerFailed(f"The server did not say '{_READY}…' within {_START:.0f} s.") from None
        self._drain = asyncio.create_task(self._process.stdout.read())

    async def kill(self) -> int:
        """Kills it as kill -9 does, waits until it is gone, and returns its process id."""
        process = self._process
        assert process is not None
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await self._gone(process)
        return process.pid

    async def stop(self) -> None:
        """Terminates it, and kills it if that does not help. Does nothing if none is running."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(self._gone(process), _STOP)
        finally:
            if process.returncode is None:
                await self.kill()

    def log_tail(self, lines: int = 20) -> str:
        """Returns the last lines that its processes logged."""
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("SHOP_")}
        return own | {"SHOP_LISTEN": "127.0.0.1:0"} | dict(self._settings)

    async def _gone(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        if self._drain is not None:
            await self._drain


async def _ready(output: asyncio.StreamReader) -> str:
    async for line in output:
        text = line.decode(errors="replace").strip()
        if text.startswith(_READY):
            return text.removeprefix(_READY)
    raise ServerFailed("The server ended before it was ready.")
