"""Measures replays on another host: two servers with nothing in common but the engine."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack

from bench.cases import KINDS, Kind
from bench.engines import Engine
from bench.measure import Load, Server, Setting
from bench.rows import Row
from bench.setup import Setup

_MOST = 3
"""The target: milliseconds."""


def measure_elsewhere(
    kind: Kind, setting: Setting, engine: Engine, progress: Callable[[], None]
) -> tuple[Row, list[str]]:
    """Makes first calls to one server, and each again to the other one as soon as its reply has come.

    There is one caller. ``progress`` is called for each burst of such pairs of calls.

    Returns:
        The median of the replays' latencies, and the failures.
    """
    name = f"elsewhere-{kind}"
    setup = Setup(
        name=name,
        kind=kind,
        role="ours",
        service="echo",
        database=engine.place(name),
        store=engine.store,
        tuning=setting.tuning,
    )
    faults: list[str] = []
    results = []
    with ExitStack() as ends:
        load = Load(ends, "echo", engine)
        servers = [Server(setup) for _ in range(2)]
        for server in servers:
            ends.callback(server.end)
        for _ in range(setting.pairs):
            result, failed = load.elsewhere(servers[0], servers[1], setting)
            results.append(result)
            faults += failed
            progress()

    def milliseconds(part: str, what: str) -> list[float]:
        return [result[part][what] * 1e3 for result in results]

    p50 = milliseconds("replay", "p50")
    row = Row(
        name=name,
        what=f"replay on another host after the first call ended, {KINDS[kind]}, 1 caller: p50",
        value=statistics.median(p50),
        unit="ms",
        target=_MOST,
        note=f"{min(p50):.2f}-{max(p50):.2f}; p99 {statistics.median(milliseconds('replay', 'p99')):.1f}; first call "
        f"{statistics.median(milliseconds('first', 'p50')):.1f} ms",
    )
    return row, faults
