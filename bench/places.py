"""The places of a measurement: processors for servers and for the load, and a folder on a real disk."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_IN_MEMORY = ("tmpfs", "ramfs")


def processors() -> tuple[set[int] | None, set[int] | None]:
    """Returns the servers' one processor and those for the load; ``None`` if processes can't be pinned."""
    if sys.platform != "linux":
        return None, None
    cpus = sorted(os.sched_getaffinity(0))
    return ({cpus[0]}, set(cpus[1:])) if len(cpus) > 1 else (None, None)


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
