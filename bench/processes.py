"""Worker processes: one line of JSON in, one line of JSON out, until the input ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Answering = Callable[[dict[str, Any]], dict[str, Any]]


class Failed(Exception):
    """A worker process failed. It has printed the reason on its standard error."""


class Process:
    """A worker process, as its parent sees it. It ends with the ``with`` block."""

    def __init__(self, module: str, *arguments: str, cpus: set[int] | None) -> None:
        self._name = " ".join((module, *arguments))
        pinned = ",".join(map(str, sorted(cpus or ())))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "BENCH_CPUS": pinned, "GRPC_VERBOSITY": "ERROR"},
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, **order: Any) -> dict[str, Any]:
        """Sends one order, and waits for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(order), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise Failed(f"{self._name} has ended") from None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{self._name} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspends the process until the end of the block."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Closes the worker's input, so that it ends by itself, and kills it after 60 seconds."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # an order may be left that a failed worker did not read
                self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


async def take_orders(answering: Answering) -> None:
    """Runs the worker's side in an event loop: answers each order from the standard input."""
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        print(json.dumps(answering(json.loads(line))), flush=True)


def take_orders_blocking(answering: Answering) -> None:
    """Runs the worker's side without an event loop: answers each order from the standard input."""
    for line in sys.stdin:
        print(json.dumps(answering(json.loads(line))), flush=True)


def stay_on_cpus() -> None:
    """Pins this process, and all threads that it will start, to the given processors."""
    cpus = os.environ.get("BENCH_CPUS")
    if cpus and sys.platform == "linux":
        os.sched_setaffinity(0, map(int, cpus.split(",")))
