"""Prints figures: as tables for a terminal, as tables in Markdown, and as JSON."""

import json
import os
import platform
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.cases import KINDS, ROLES
from bench.load import CONNECTIONS
from bench.measure import SIDES, Figure, Setting
from bench.places import processors

_LOAD_LIMIT = 0.7
"""The share of its processor above which the load may have limited a server."""
_CASE, _FULL_CASE = ("case", "n"), ("case", "server", "callers", "against")
_RATIOS = ("calls/s", "ours", "ratio", "min-max", "by CPU", "target", "")
_DETAILS = ("p50 ms", "p99 ms", "server µs/call", "load %")


def _case(figure: Figure) -> tuple[str, ...]:
    return figure.case, str(figure.callers)


def _full_case(figure: Figure) -> tuple[str, ...]:
    return figure.title, KINDS[figure.kind], str(figure.callers), ROLES[figure.versus]


def _ratios(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Returns the cells for throughput, its ratio to the reference, and the target."""
    return [
        (
            *(f"{side['throughput']:,.0f}" for side in (figure.reference, figure.measured)),
            f"{figure.ratio:.2f}",
            f"{min(figure.ratios, default=0):.2f}-{max(figure.ratios, default=0):.2f}",
            f"{figure.cpu_ratio:.2f}",
            "" if figure.target is None else f"≥ {figure.target:.2f}",
            {None: "", True: "met", False: "missed"}[figure.met],
        )
        for figure in figures
    ]


def _details(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Returns the cells for latencies and processor time, reference / ours."""
    columns = (("p50", 1e3, 1), ("p99", 1e3, 1), ("cpu_per_call", 1e6, 0), ("load_cpu", 100, 0))
    return [
        tuple(
            " / ".join(f"{side[name] * factor:.{digits}f}" for side in (figure.reference, figure.measured))
            for name, factor, digits in columns
        )
        for figure in figures
    ]


def show(figures: Sequence[Figure], told: dict[str, Any], console: Console) -> None:
    """Prints both tables, their conditions, and warnings."""
    titles = ("Calls per second of the reference and ours", "Reference / ours: latency and processor time")
    for title, headings, lines in zip(titles, (_RATIOS, _DETAILS), (_ratios(figures), _details(figures)), strict=True):
        table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        for heading in (*_CASE, *headings):
            table.add_column(heading, justify="left" if heading in ("case", "") else "right", no_wrap=True)
        for figure, line in zip(figures, lines, strict=True):
            table.add_row(*_case(figure), *(coloured(cell) for cell in line))
        console.print(table)
    targets = [figure.met for figure in figures if figure.met is not None]
    if targets:
        console.print(f"{sum(targets)} of {len(targets)} targets met.")
    console.print(sentence(told))
    _warn(figures, console)


def coloured(cell: str) -> str:
    """Returns a cell for the terminal."""
    return {"met": "[green]met[/green]", "missed": "[red]missed[/red]"}.get(cell, cell)


def _warn(figures: Sequence[Figure], console: Console) -> None:
    for figure in figures:
        for side, values in zip(SIDES, (figure.reference, figure.measured), strict=True):
            if values["load_cpu"] > _LOAD_LIMIT:
                console.print(
                    f"[yellow]{figure.case}, {figure.callers} callers, {side}: the load used {values['load_cpu']:.0%} "
                    "of its processor, and may have been the bottleneck.[/yellow]"
                )
        for fault in figure.faults:
            console.print(f"[red]{escape(fault)}[/red]")


def tables(figures: Sequence[Figure]) -> tuple[str, str]:
    """Returns both tables as Markdown."""
    ratios, details = (
        markdown(
            (*_FULL_CASE, *headings), [(*_full_case(one), *line) for one, line in zip(figures, lines, strict=True)]
        )
        for headings, lines in ((_RATIOS, _ratios(figures)), (_DETAILS, _details(figures)))
    )
    return ratios, details


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table as Markdown."""
    rule = [":--" if heading in ("case", "server", "against", "what", "note", "") else "--:" for heading in headings]
    return "".join(f"| {' | '.join(line)} |\n" for line in (headings, rule, *lines))


def conditions(setting: Setting) -> dict[str, Any]:
    """Returns the conditions on which the figures depend."""
    return {
        "pairs": setting.pairs,
        "seconds": setting.seconds,
        "connections": CONNECTIONS,
        **asdict(setting.tuning),
        **machine(),
    }


def machine() -> dict[str, Any]:
    """Returns a description of the machine."""
    return {
        "processors": os.cpu_count(),
        "pinned": processors()[0] is not None,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "grpcio": grpc.__version__,
        "system": platform.system(),
    }


def sentence(told: dict[str, Any]) -> str:
    """Returns the conditions as text."""
    pinned = "servers on one of them, the load on the others" if told["pinned"] else "nothing pinned"
    loop = ", uvloop" if told["uvloop"] else ""
    collector = "" if told["gc_threshold"] is None else f", gc threshold {told['gc_threshold']}"
    return (
        f"{told['pairs']} pairs of {told['seconds']:g} s each, reference and ours in turn; ratio: the median of the "
        f"pairs' ratios; by CPU: of the servers' processor time per call. {told['processors']} processors, {pinned}; "
        f"synchronous={told['synchronous']}{loop}{collector}; {told['python']}, SQLite {told['sqlite']}, "
        f"grpcio {told['grpcio']}, {told['system']}."
    )


def write(figures: Sequence[Figure], told: dict[str, Any], file: Path) -> None:
    """Writes the figures as JSON."""
    values = {"conditions": told, "figures": [figure.as_json() for figure in figures]}
    file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def read(file: Path) -> tuple[list[Figure], dict[str, Any]]:
    """Reads a file that :func:`write` wrote."""
    values = json.loads(file.read_text(encoding="utf-8"))
    return [Figure.of_json(figure) for figure in values["figures"]], values["conditions"]
