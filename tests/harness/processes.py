"""Servers in processes of their own, for tests that stop and kill them."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Process:
    """A server process of one of the harness's programs, and the lines that it prints."""

    def __init__(self, *args: str, program: str = "service") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", f"tests.harness.programs.{program}", *args],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.seen: list[str] = []
        self.target = ""

    async def line(self, beginning: str, within: float = 20) -> str:
        """Waits for a line that begins like this, and returns the rest of it."""
        return await asyncio.wait_for(asyncio.to_thread(self._find, beginning), within)

    def _find(self, beginning: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.seen.append(line.rstrip("\n"))
            if line.startswith(beginning):
                return line.removeprefix(beginning).strip()
        raise AssertionError(f"no line {beginning!r} came:\n" + "\n".join(self.seen))

    async def ready(self) -> str:
        """Waits until the server is ready, and returns its address."""
        self.target = await self.line("listening on ")
        return self.target

    def kill(self) -> None:
        """Kills the process, as ``kill -9`` does."""
        self._process.kill()
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    async def ended(self, within: float = 20) -> int:
        """Waits for the end, and returns the exit code; asserts that no warning and no traceback was printed."""
        await asyncio.wait_for(asyncio.to_thread(self._rest), within)
        assert not [line for line in self.seen if "Warning" in line or "Traceback" in line], self.seen
        return self._process.wait()

    def _rest(self) -> None:
        assert self._process.stdout is not None
        self.seen += self._process.stdout.read().splitlines()

    def discard(self) -> None:
        """Kills the process if it still runs."""
        self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
