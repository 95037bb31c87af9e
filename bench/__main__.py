"""``python -m bench``: measures what the interceptor costs, and shows it as a table."""

import argparse
import json
import os
import platform
import sqlite3
import sys
from pathlib import Path

import grpc
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench.cases import CASES, SIDES, Case
from bench.load import CALLERS, CONNECTIONS
from bench.measure import Figure, Setting, folder_on_disk, measure, processors
from bench.processes import Failed

_FULL = Setting(pairs=7, seconds=3.0, warm_up=0.5)
_QUICK = Setting(pairs=2, seconds=0.5, warm_up=0.2)
_LOAD_LIMIT = 0.7
"""The share of its processor above which the load may have held a server back."""


def main() -> int:
    """Measures; 1 when calls failed, else 0, whether the aims are met or not."""
    arguments = _arguments()
    setting = _QUICK if arguments.quick else _FULL
    setting = Setting(
        pairs=arguments.pairs or setting.pairs,
        seconds=arguments.seconds or setting.seconds,
        warm_up=setting.warm_up,
    )
    cases = [case for case in CASES if arguments.only in (None, case.name)]
    console = Console()
    try:
        figures = _measure_all(cases, setting, console)
    except Failed as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        return 1
    _show(figures, setting, console)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps([figure.as_json() for figure in figures], indent=1) + "\n")
    return 1 if any(figure.faults for figure in figures) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures servers behind the interceptor, as ratios to the same servers without it.",
    )
    parser.add_argument("--pairs", type=_positive(int), help=f"pairs of bursts per case (default: {_FULL.pairs})")
    parser.add_argument("--seconds", type=_positive(float), help=f"length of a burst (default: {_FULL.seconds:g})")
    parser.add_argument("--only", choices=[case.name for case in CASES], help="one case instead of all")
    parser.add_argument("--quick", action="store_true", help="some 15 seconds in all, for a first impression")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


def _positive(kind: type[int] | type[float]) -> "type[int] | type[float]":
    def parse(text: str) -> int | float:
        value = kind(text)
        if value <= 0:
            raise ValueError
        return value

    parse.__name__ = "positive number"
    return parse  # type: ignore[return-value]  # argparse takes any function; its name is for its messages


def _measure_all(cases: list[Case], setting: Setting, console: Console) -> list[Figure]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with folder_on_disk() as folder, Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(cases) * setting.pairs * len(SIDES))
        figures = []
        for case in cases:
            progress.update(task, description=case.title)
            figures.append(measure(case, setting, Path(folder), lambda: progress.advance(task)))
        return figures


def _show(figures: list[Figure], setting: Setting, console: Console) -> None:
    table = Table(title="Calls per second without the interceptor and with it")
    for heading in ("", "without", "with", "ratio", "min-max", "by CPU", "aim", ""):
        table.add_column(heading, justify="left" if not heading else "right")
    details = Table(title="Without / with: latency, processor time per call, use of a processor")
    for heading in ("", "p50 ms", "p99 ms", "µs/call", "server %", "load %"):
        details.add_column(heading, justify="left" if not heading else "right")
    for figure in figures:
        table.add_row(
            figure.case.title,
            *(f"{figure.median(side, 'throughput'):,.0f}" for side in SIDES),
            f"{figure.ratio:.2f}",
            f"{min(figure.ratios, default=0):.2f}-{max(figure.ratios, default=0):.2f}",
            f"{figure.cpu_ratio:.2f}",
            f"≥ {figure.case.aim:.2f}",
            "[green]met[/green]" if figure.met else "[red]missed[/red]",
        )
        details.add_row(
            figure.case.title,
            *(
                " / ".join(f"{figure.median(side, what) * factor:.{digits}f}" for side in SIDES)
                for what, factor, digits in (
                    ("p50", 1e3, 1),
                    ("p99", 1e3, 1),
                    ("cpu_per_call", 1e6, 0),
                    ("server_cpu", 100, 0),
                    ("load_cpu", 100, 0),
                )
            ),
        )
    for each in (table, details):
        console.print(each)
    console.print(_conditions(setting))
    _warn(figures, console)


def _conditions(setting: Setting) -> str:
    pinned = "servers on one of them, the load on the others" if processors()[0] else "nothing pinned"
    return (
        f"{setting.pairs} pairs of {setting.seconds:g} s each, without and with in turn; {CALLERS} callers on "
        f"{CONNECTIONS} connections; {os.cpu_count()} processors, {pinned}; {platform.python_implementation()} "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, grpcio {grpc.__version__}, "
        f"{platform.system()}. The ratio is the median of the pairs' ratios; by CPU: "
        "of the servers' processor time per call, which others on the machine disturb less."
    )


def _warn(figures: list[Figure], console: Console) -> None:
    for figure in figures:
        for side in SIDES:
            busy = figure.median(side, "load_cpu")
            if busy > _LOAD_LIMIT:
                console.print(
                    f"[yellow]{figure.case.title}, {side}: the load used {busy:.0%} of its processor, and may have "
                    "been the bottleneck.[/yellow]"
                )
        for fault in figure.faults:
            console.print(f"[red]{escape(fault)}[/red]")


if __name__ == "__main__":
    sys.exit(main())
