"""Measures a case: both servers at once, load on one and then the other, again and again."""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases import SIDES, Case, Side
from bench.processes import Process

_IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How long to measure."""

    pairs: int
    seconds: float
    """Of each burst of calls; a pair has two."""
    warm_up: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """One server under load for a while."""

    throughput: float
    """Calls per second."""
    p50: float
    """Seconds."""
    p99: float
    server_cpu: float
    """The share of one processor that the server used."""
    load_cpu: float
    """The share of one processor that the load used."""
    cpu_per_call: float
    """The server's processor time per call, in seconds."""


class Figure:
    """What came out for one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.bursts: dict[Side, list[Burst]] = {side: [] for side in SIDES}
        self.faults: list[str] = []

    @property
    def ratios(self) -> list[float]:
        """Throughput with the interceptor to that without, for each pair."""
        pairs = zip(self.bursts["guarded"], self.bursts["bare"], strict=True)
        return [guarded.throughput / bare.throughput for guarded, bare in pairs if bare.throughput]

    @property
    def ratio(self) -> float:
        """The median over the pairs."""
        return statistics.median(self.ratios) if self.ratios else 0.0

    @property
    def cpu_ratio(self) -> float:
        """The same by the servers' processor time per call: what the throughput would tell on a quiet machine."""
        pairs = zip(self.bursts["guarded"], self.bursts["bare"], strict=True)
        ratios = [bare.cpu_per_call / guarded.cpu_per_call for guarded, bare in pairs if guarded.cpu_per_call]
        return statistics.median(ratios) if ratios else 0.0

    @property
    def met(self) -> bool:
        """Whether the aim was met, as rounded in the table."""
        return round(self.ratio, 2) >= self.case.aim

    def median(self, side: Side, what: str) -> float:
        """The median of one value over the bursts of a side."""
        values: list[float] = [getattr(burst, what) for burst in self.bursts[side]]
        return statistics.median(values)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        names = tuple(Burst.__dataclass_fields__)
        return {
            "case": self.case.name,
            "aim": self.case.aim,
            "ratio": self.ratio,
            "ratios": self.ratios,
            "cpu_ratio": self.cpu_ratio,
            "met": self.met,
            "faults": self.faults,
            **{side: {name: self.median(side, name) for name in names} for side in SIDES if self.bursts[side]},
        }


def measure(case: Case, setting: Setting, folder: Path, progress: Callable[[], None]) -> Figure:
    """Runs all pairs of a case; ``progress`` is told of each burst."""
    servers_cpus, load_cpus = processors()
    figure = Figure(case)
    with ExitStack() as ends:

        def started(module: str, *arguments: str, cpus: set[int] | None) -> Process:
            process = Process(module, *arguments, cpus=cpus)
            ends.callback(process.end)
            return process

        databases = {side: str(folder / f"{case.name}-{side}.db") for side in SIDES}
        servers = {side: started("bench.server", case.name, side, databases[side], cpus=servers_cpus) for side in SIDES}
        load = started("bench.load", cpus=load_cpus)
        if case.keys == "stored":
            for side in SIDES:
                _store(figure, side, servers[side], load)
        for _ in range(setting.pairs):
            for side in SIDES:
                figure.bursts[side].append(_burst(figure, side, servers[side], load, setting))
                progress()
    return figure


def _store(figure: Figure, side: Side, server: Process, load: Process) -> None:
    before = server.ask()
    result = load.ask(do="store", case=figure.case.name, port=before["port"])
    effects = server.ask()["effects"] - before["effects"]
    _check(figure, side, result, effects=effects, expected=result["calls"], status="executed")


def _burst(figure: Figure, side: Side, server: Process, load: Process, setting: Setting) -> Burst:
    case = figure.case
    replays = side == "guarded" and case.keys == "stored"
    before, began = server.ask(), time.perf_counter()
    result = load.ask(
        do="measure",
        case=case.name,
        port=before["port"],
        warm_up=setting.warm_up,
        seconds=setting.seconds,
        exact=replays,
    )
    took, after = time.perf_counter() - began, server.ask()
    expected = 0 if replays else result["calls"]
    _check(figure, side, result, effects=after["effects"] - before["effects"], expected=expected, status=case.status)
    cpu = after["cpu"] - before["cpu"]
    return Burst(
        throughput=result["throughput"],
        p50=result["p50"],
        p99=result["p99"],
        server_cpu=cpu / took,
        load_cpu=result["cpu"],
        cpu_per_call=cpu / max(1, result["calls"]),
    )


def _check(
    figure: Figure, side: Side, result: dict[str, Any], *, effects: int, expected: int, status: str | None
) -> None:
    """Notes what went wrong: calls that failed, replies that are marked otherwise, effects that are not there."""
    where = f"{figure.case.name}, {side}"
    figure.faults += [f"{where}: {count} calls failed with {why}" for why, count in result["failed"].items()]
    mark = (side == "guarded" and status) or ""
    others = {name: count for name, count in result["statuses"].items() if name != mark}
    if others:
        figure.faults.append(f"{where}: replies marked {others} where {mark!r} was due")
    if not result["calls"]:
        figure.faults.append(f"{where}: no call was made")
    if effects != expected:
        figure.faults.append(f"{where}: {result['calls']} calls took effect {effects} times instead of {expected}")


def processors() -> tuple[set[int] | None, set[int] | None]:
    """Those for the servers, one of them, and those for the load; ``None`` where processes can't be pinned."""
    if sys.platform != "linux":
        return None, None
    cpus = sorted(os.sched_getaffinity(0))
    return ({cpus[0]}, set(cpus[1:])) if len(cpus) > 1 else (None, None)


def folder_on_disk() -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder on a real disk: a commit that reaches only memory would cost nothing."""
    places = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]  # noqa: S108 - only to put a random name in
    place = next((place for place in places if place.is_dir() and _file_system(place) not in _IN_MEMORY), places[-1])
    return tempfile.TemporaryDirectory(prefix="grpc-idempotency-bench-", dir=place)


def _file_system(folder: Path) -> str:
    """The kind of file system that holds a folder, where the system tells."""
    holding = {mount: kind for mount, kind in _mounts() if folder.resolve().is_relative_to(mount)}
    return holding[max(holding, key=len)] if holding else ""


def _mounts() -> Iterator[tuple[str, str]]:
    table = Path("/proc/self/mounts")
    for line in table.read_text(encoding="utf-8").splitlines() if table.exists() else ():
        _, mount, kind, *_ = line.split(" ")
        yield mount, kind
