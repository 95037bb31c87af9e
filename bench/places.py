"""The places of a measurement: processors for servers and for the load, and a folder on a real disk."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_IN_MEMORY = ("tmpfs", "ramfs")


class Processors(NamedTuple):
    """The processors of each part; ``None`` if processes can't be pinned."""

    servers: set[int] | None
    load: set[int] | None
    engine: set[int] | None
    """Those of a database server, if there is one."""

    @property
    def shared(self) -> bool:
        """True if a database server and the load share their processors."""
        return self.engine is not None and self.load == self.engine


def processors(*, engine: bool = False) -> Processors:
    """Returns one processor for the servers, and others for the load.

    Args:
        engine: True if there is a database server. It gets a processor of its own if there are three.
    """
    cpus = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    if len(cpus) < 2:
        return Processors(None, None, None)
    first, *others = cpus
    own = 1 if engine and len(others) > 1 else 0
    return Processors({first}, set(others[own:]), set(others[:own] or others))


@contextmanager
def on_processors(cpus: set[int] | None) -> Iterator[None]:
    """Pins all processes that this thread starts in the block."""
    if cpus is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def folder_on_disk() -> "tempfile.TemporaryDirectory[str]":
    """Makes a temporary folder on a real disk: a commit to memory would cost nothing."""
    places = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]  # noqa: S108 - only as the parent of a random name
    place = next((place for place in places if place.is_dir() and _file_system(place) not in _IN_MEMORY), places[-1])
    return tempfile.TemporaryDirectory(prefix="grpc-idempotency-bench-", dir=place)


def _file_system(folder: Path) -> str:
    """Returns the kind of file system of a folder, if the system can tell."""
    holding = {mount: kind for mount, kind in _mounts() if folder.resolve().is_relative_to(mount)}
    return holding[max(holding, key=len)] if holding else ""


def _mounts() -> Iterator[tuple[str, str]]:
    table = Path("/proc/self/mounts")
    for line in table.read_text(encoding="utf-8").splitlines() if table.exists() else ():
        _, mount, kind, *_ = line.split(" ")
        yield mount, kind
