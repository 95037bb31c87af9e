"""Measures a store by itself: pairs of a claim and a completion, without gRPC."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from bench.cases import CALLERS, Case
from bench.engines import Engine
from bench.measure import SIDES, Burst, Bursts, Figure, Setting, Side, figure_of, per_call, setup_of
from bench.places import processors
from bench.processes import Process
from bench.rows import Row
from bench.setup import REPLY_OF_200

_MOST_ENGINE_TIME = 80
"""The target: microseconds of the engine's processor time for a claim and a completion, with the most callers."""

_PREPARED = 16 * CALLERS[-1]
"""The pairs before the first burst. After a dozen executions on a connection, PostgreSQL plans a statement no more."""


def measure_alone(case: Case, setting: Setting, engine: Engine, progress: Callable[[], None]) -> list[Figure]:
    """Runs all pairs of bursts, like :func:`bench.measure.measure`. A call is a claim and a completion."""
    with ExitStack() as ends:
        workers: dict[Side, Process] = {}
        failed: list[str] = []
        for side in SIDES:
            setup = replace(setup_of(case, side, setting, engine), reply_length=REPLY_OF_200)
            workers[side] = ends.enter_context(Process("bench.pairs", setup.as_argument(), cpus=processors().servers))
            failed += _faults(workers[side].ask(do="make", count=_PREPARED))
        figures = []
        for callers in setting.callers:
            bursts = Bursts()
            bursts.faults += failed
            for _ in range(setting.pairs):
                for side in SIDES:
                    burst, faults = _burst(workers[side], callers, setting, engine)
                    bursts.of[side].append(burst)
                    bursts.faults += [f"{case.name}-{side}: {fault}" for fault in faults]
                    progress()
            figures.append(figure_of(case, callers, setting, engine, bursts))
            failed = []
        return figures


def _burst(worker: Process, callers: int, setting: Setting, engine: Engine) -> tuple[Burst, list[str]]:
    before = worker.ask(do="tell")
    engine_before, began = engine.cpu(), time.perf_counter()
    result = worker.ask(do="measure", callers=callers, warm_up=setting.warm_up, seconds=setting.seconds)
    took, engine_after = time.perf_counter() - began, engine.cpu()
    after = worker.ask(do="tell")
    calls, cpu = max(1, result["calls"]), after["cpu"] - before["cpu"]
    faults = _faults(result)
    completed = after["effects"] - before["effects"]
    if completed != result["calls"] or not completed:
        faults.append(f"{result['calls']} pairs completed {completed} operations")
    burst = Burst(
        throughput=result["throughput"],
        p50=result["p50"],
        p99=result["p99"],
        server_cpu=cpu / took,
        load_cpu=0.0,
        cpu_per_call=cpu / calls,
        engine_cpu_per_call=per_call(calls, engine_before, engine_after),
    )
    return burst, faults


def _faults(result: dict[str, Any]) -> list[str]:
    return [f"{count} pairs failed with {why}" for why, count in result["failed"].items()]


def engine_rows(figures: Sequence[Figure]) -> list[Row]:
    """Returns the engine's processor time for each pair, beside its target."""
    return [
        Row(
            name=f"{figure.case}-engine",
            what=f"{figure.title}, {figure.server}, {figure.callers} callers: the engine's processor time",
            value=_microseconds(figure.measured),
            unit="µs",
            target=_MOST_ENGINE_TIME,
            note=f"a statement per call: {_microseconds(figure.reference) or 0:.0f} µs",
        )
        for figure in figures
        if figure.versus == "pool" and figure.callers == CALLERS[-1]
    ]


def _microseconds(values: dict[str, float]) -> float | None:
    seconds = values.get("engine_cpu_per_call")
    return None if seconds is None else seconds * 1e6
