"""Measures how costs grow: with stored keys, during a sweep, and with the number of calls."""

import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from bench.cases import CALLERS, Kind
from bench.engines import Engine, PostgreSQL
from bench.files import multiply, multiply_rows, swept
from bench.measure import SIDES, Bursts, Load, Server, Setting, Side
from bench.rows import Row
from bench.setup import REPLY_OF_200, Setup

_MIB = 1 << 20
_LOOK_EVERY = 0.02
"""Seconds between two readings of the size of a WAL."""
_CALLS_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of the measurements."""

    keys: int
    few: int
    expired: int
    calls: int
    first_calls: int
    pairs: int
    seconds: float
    warm_up: float = 0.3


class Growth:
    """Runs the measurements one after another.

    Args:
        kind: The kind of server.
        sizes: The sizes of the measurements.
        engine: SQLite, or PostgreSQL for :meth:`stored_keys` alone.
        progress: Called with a text about the progress.
    """

    def __init__(self, kind: Kind, sizes: Sizes, engine: Engine, progress: Progress) -> None:
        self._kind: Kind = kind
        self._sizes = sizes
        self._engine = engine
        self._progress = progress
        self._setting = Setting(pairs=sizes.pairs, seconds=sizes.seconds, warm_up=sizes.warm_up)
        self._places: dict[str, str] = {}
        self.faults: list[str] = []

    def stored_keys(self) -> list[Row]:
        """Compares first calls on databases with many and with few keys, and the memory of both servers after that."""
        sizes = self._sizes
        with ExitStack() as ends:
            load = Load(ends, "echo", self._engine)
            counts: dict[Side, int] = {"reference": sizes.few, "measured": sizes.keys}
            for side, count in counts.items():
                self._fill(load, f"{side}-keys", count)
            servers = {side: self._started(ends, f"{side}-keys") for side in SIDES}
            bursts = Bursts()
            with self._task(f"first calls with {sizes.keys:,} keys", sizes.pairs * 2) as advance:
                for _ in range(sizes.pairs):
                    for side in SIDES:
                        self._burst(bursts, side, servers[side], load)
                        advance(1)
            memory = [servers[side].ask()["rss"] for side in SIDES]
        ratios = bursts.ratios("throughput")
        versus = f"first calls with {sizes.keys:,} stored keys against {sizes.few:,}"
        return [
            Row(
                name="keys-throughput",
                what=versus,
                value=bursts.ratio("throughput"),
                unit="",
                target=0.90,
                at_least=True,
                note=f"{min(ratios):.2f}-{max(ratios):.2f}; by CPU {1 / bursts.ratio('cpu_per_call'):.2f}"
                + _engine_time(bursts),
            ),
            Row(
                name="keys-memory",
                what="more memory with them",
                value=_more(*memory),
                unit="MiB",
                target=32,
            ),
        ]

    def sweep(self) -> list[Row]:
        """Compares first calls during a sweep of expired operations with first calls without a sweep.

        The sweeping server is suspended while the other one is measured.
        """
        sizes = self._sizes
        with ExitStack() as ends:
            load = Load(ends, "echo", self._engine)
            self._fill(load, "resting", 1)
            self._fill(load, "sweeping", sizes.expired, ttl=0.001)
            resting, sweeping = self._started(ends, "resting"), self._started(ends, "sweeping", sweep_every=0.001)
            bursts = Bursts()
            database = Path(sweeping.setup.database)
            wal, gone = Path(f"{database}-wal"), 0
            with largest(wal) as size, self._task(f"sweep of {sizes.expired:,}", sizes.expired) as advance:
                while gone < sizes.expired:
                    with sweeping.process.suspended():
                        self._burst(bursts, "reference", resting, load)
                    self._burst(bursts, "measured", sweeping, load)
                    before, gone = gone, swept(database, sizes.expired)
                    advance(gone - before)
        ratios = bursts.ratios("p99")
        # The sweep ended during the last pair.
        during = ratios[:-1] or ratios
        return [
            Row(
                name="sweep-p99",
                what=f"p99 while {sizes.expired:,} operations are swept against none",
                value=statistics.median(during),
                unit="",
                target=2,
                note=f"{min(during):.2f}-{max(during):.2f} in {len(during)} pairs; p99 "
                f"{bursts.median('reference', 'p99') * 1e3:.1f} / {bursts.median('measured', 'p99') * 1e3:.1f} ms",
            ),
            Row(name="sweep-wal", what="largest WAL meanwhile", value=size[0] / _MIB, unit="MiB", target=64),
        ]

    def many_calls(self) -> list[Row]:
        """Compares memory after many and after fewer keyed calls, and measures the size of the file for each key."""
        sizes = self._sizes
        with ExitStack() as ends:
            load = Load(ends, "echo", self._engine)
            server = self._server("calls")
            with self._ending(server), self._task(f"{sizes.calls:,} calls", sizes.calls) as advance:
                self._make(load, server, sizes.first_calls, advance)
                before = server.ask()["rss"]
                self._make(load, server, sizes.calls - sizes.first_calls, advance)
                after = server.ask()["rss"]
            size = Path(server.setup.database).stat().st_size
        return [
            Row(
                name="bytes-per-key",
                what=f"size of the file for each of {sizes.calls:,} keys, with a reply of 200 bytes",
                value=size / sizes.calls,
                unit="bytes",
                target=450,
            ),
            Row(
                name="calls-memory",
                what=f"more memory after {sizes.calls:,} keyed calls than after {sizes.first_calls:,}",
                value=_more(before, after),
                unit="MiB",
                target=16,
                note=f"{(after or 0) / _MIB:.0f} MiB in all",
            ),
        ]

    def _server(self, name: str, *, ttl: float | None = None, sweep_every: float | None = None) -> Server:
        return Server(
            Setup(
                name=name,
                kind=self._kind,
                role="ours",
                service="echo",
                database=self._place(name),
                store=self._engine.store,
                reply_length=REPLY_OF_200,
                ttl=ttl,
                sweep_every=sweep_every,
            )
        )

    def _place(self, name: str) -> str:
        if name not in self._places:
            self._places[name] = self._engine.place(name)
        return self._places[name]

    @staticmethod
    @contextmanager
    def _ending(server: Server) -> Iterator[None]:
        try:
            yield
        finally:
            server.end()

    def _started(self, ends: ExitStack, name: str, *, sweep_every: float | None = None) -> Server:
        server = self._server(name, sweep_every=sweep_every)
        ends.callback(server.end)
        return server

    def _fill(self, load: Load, name: str, count: int, *, ttl: float | None = None) -> None:
        """Makes a database with ``count`` operations: one by a call, the others as copies of it."""
        server = self._server(name, ttl=ttl)
        with self._ending(server):
            self.faults += load.make(server, 1, callers=1)
        with self._task(f"{count:,} keys", count) as advance:
            if isinstance(self._engine, PostgreSQL):
                multiply_rows(server.setup.database, count, advance)
            else:
                multiply(Path(server.setup.database), count, advance)

    def _make(self, load: Load, server: Server, count: int, advance: Callable[[int], None]) -> None:
        while count:
            part = min(count, _CALLS_AT_ONCE)
            self.faults += load.make(server, part)
            count -= part
            advance(part)

    def _burst(self, bursts: Bursts, side: Side, server: Server, load: Load) -> None:
        burst, faults = load.burst(server, "unique", CALLERS[-1], self._setting, status="executed")
        bursts.of[side].append(burst)
        self.faults += faults

    @contextmanager
    def _task(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        task = self._progress.add_task(what, total=total)
        yield lambda count: self._progress.advance(task, count)
        self._progress.remove_task(task)


@contextmanager
def largest(file: Path) -> Iterator[list[int]]:
    """Watches the size of a file until the end of the block. The list has one value: the largest size seen."""
    size = [0]
    done = threading.Event()

    def watch() -> None:
        ended = False
        while not ended:
            ended = done.wait(_LOOK_EVERY)  # and once more at the end
            if file.exists():
                size[0] = max(size[0], file.stat().st_size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield size
    finally:
        done.set()
        watcher.join()


def _engine_time(bursts: Bursts) -> str:
    """Returns the processor time of a database server as text, if there is one."""
    values = [bursts.median(side, "engine_cpu_per_call") * 1e6 for side in SIDES]
    return f"; engine {values[0]:.0f} / {values[1]:.0f} µs" if all(values) else ""


def _more(before: int | None, after: int | None) -> float | None:
    return None if before is None or after is None else (after - before) / _MIB
