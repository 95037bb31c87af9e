"""Prints figures: as tables for a terminal, as tables in Markdown, and as JSON."""

import json
import os
import platform
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.cases import KINDS, ROLES
from bench.engines import Engine
from bench.load import CONNECTIONS
from bench.measure import SIDES, Figure, Setting
from bench.places import processors
from bench.rows import HEADINGS, MARKS, Row
from bench.storage import Storage

_SHORTEST, _FEWEST = 0.8, 5
"""The shortest bursts in seconds, and the fewest pairs of them, that allow a verdict about targets."""
_LOAD_LIMIT = 0.7
"""The share of its processor above which the load may have limited a server."""
_LEFT = ("case", "server", "against", "store", "what", "note", "")
"""The headings of columns of text."""
_WRAPPED = ("what", "note")
_CASE, _FULL_CASE = ("case", "n"), ("case", "server", "callers", "against")
_RATIOS = ("calls/s", "ours", "ratio", "min-max", "by CPU", "target", "")
_COLUMNS = {
    "p50 ms": ("p50", 1e3, 1),
    "p99 ms": ("p99", 1e3, 1),
    "server µs/call": ("cpu_per_call", 1e6, 0),
    "engine µs": ("engine_cpu_per_call", 1e6, 0),
    "load %": ("load_cpu", 100, 0),
}
"""The name, the factor and the digits of each value of the second table, by its heading."""
_STORE = "store"
_STORAGE = (_STORE, "keys", "bytes/key", "compacted", "logged/key", "swept/s", "engine µs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All that a run has found, as in the JSON file."""

    figures: Sequence[Figure]
    storage: Storage | None
    """What stored keys take; ``None`` if it was not measured."""
    told: dict[str, Any]
    """The conditions."""
    rows: Sequence[Row] = ()
    """Other figures that have targets."""
    other_faults: list[str] = field(default_factory=list)
    """The failures that belong to no case."""

    @property
    def faults(self) -> list[str]:
        """All failures."""
        found = [fault for figure in self.figures for fault in figure.faults]
        return found + (self.storage.faults if self.storage else []) + self.other_faults


def _case(figure: Figure) -> tuple[str, ...]:
    return figure.case, str(figure.callers)


def _full_case(figure: Figure) -> tuple[str, ...]:
    return figure.title, figure.server, str(figure.callers), ROLES[figure.versus]


def _ratios(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Returns the cells for throughput, its ratio to the reference, and the target."""
    return [
        (
            *(f"{side['throughput']:,.0f}" for side in (figure.reference, figure.measured)),
            f"{figure.ratio:.2f}",
            f"{min(figure.ratios, default=0):.2f}-{max(figure.ratios, default=0):.2f}",
            f"{figure.cpu_ratio:.2f}",
            "" if figure.target is None else f"≥ {figure.target:.2f}",
            MARKS[figure.met],
        )
        for figure in figures
    ]


def _details(figures: Sequence[Figure]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns the headings and the cells for latencies and processor time, reference / ours."""
    served = any("engine_cpu_per_call" in figure.measured for figure in figures)
    columns = {heading: column for heading, column in _COLUMNS.items() if served or not heading.startswith("engine")}
    lines = [
        tuple(
            " / ".join(_cell(side, *column) for side in (figure.reference, figure.measured))
            for column in columns.values()
        )
        for figure in figures
    ]
    return tuple(columns), lines


def _stored(storage: Storage) -> tuple[str, ...]:
    """Returns the cells for what stored keys take."""
    compacted, logged, cpu = storage.compacted, storage.logged, storage.engine_cpu_per_swept
    return (
        storage.store,
        f"{storage.keys:,}",
        f"{storage.bytes_per_key:,.0f}",
        "" if compacted is None else f"{compacted:,.0f}",
        "" if logged is None else f"{logged:,.0f}",
        f"{storage.swept_per_second:,.0f}",
        "" if cpu is None else f"{cpu * 1e6:.0f}",
    )


def _compared(runs: Sequence[Results]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns the headings and the cells of a table that compares runs, for the cases that two of them have."""
    # The interceptor's figures on the measured store: those beside SQLite are first calls once more.
    figures = {
        id(run): [one for one in run.figures if one.versus not in ("sqlite", "unobserved", "pool")] for run in runs
    }
    callers = sorted({figure.callers for of_run in figures.values() for figure in of_run})
    headings = (
        *("case", "server", "store"),
        *(f"calls/s of {count}" for count in callers),
        *(f"p50 ms of {count}" for count in callers),
        *(f"server µs of {callers[-1]}", f"engine µs of {callers[-1]}"),
    )
    lines = []
    for case, kind in dict.fromkeys((_common(figure), figure.kind) for run in runs for figure in figures[id(run)]):
        of_case = [
            (run, {one.callers: one.measured for one in figures[id(run)] if (_common(one), one.kind) == (case, kind)})
            for run in runs
        ]
        having = [(run, measured) for run, measured in of_case if measured]
        for run, measured in having if len(having) > 1 else ():
            cells = (
                *(_cell(measured.get(count), "throughput", 1, 0) for count in callers),
                *(_cell(measured.get(count), "p50", 1e3, 1) for count in callers),
                _cell(measured.get(callers[-1]), "cpu_per_call", 1e6, 0),
                _cell(measured.get(callers[-1]), "engine_cpu_per_call", 1e6, 0),
            )
            lines.append((case, KINDS[kind], _engine_title(run.told), *cells))
    return headings, lines


def _common(figure: Figure) -> str:
    """Returns a case's title, which is the same with all stores."""
    return figure.title.replace("from the file", "from the store")


def _cell(values: dict[str, float] | None, name: str, factor: float, digits: int) -> str:
    if values is None or name not in values:
        return ""
    return f"{round(values[name] * factor, digits) + 0.0:,.{digits}f}"  # + 0.0, since nobody writes -0


def _engine_title(told: dict[str, Any]) -> str:
    """Returns the name and the version of the engine of a run."""
    return str(told["engine"]["title"]) if "engine" in told else f"SQLite {told['sqlite']}"


def show_compared(runs: Sequence[Results], console: Console) -> None:
    """Prints a comparison of several runs, and what stored keys take in each."""
    _print("The interceptor on several stores", *_compared(runs), console)
    _print("Stored keys, with replies of 200 bytes", _STORAGE, _stored_in(runs), console)
    if lines := _engine_targets(runs):
        _print("Targets on engines", (_STORE, *HEADINGS), lines, console)


def comparison(runs: Sequence[Results]) -> tuple[str, ...]:
    """Returns the tables of :func:`show_compared` as Markdown."""
    found = [markdown(*_compared(runs)), markdown(_STORAGE, _stored_in(runs))]
    if lines := _engine_targets(runs):
        found.append(markdown((_STORE, *HEADINGS), lines))
    return tuple(found)


def _engine_targets(runs: Sequence[Results]) -> list[tuple[str, ...]]:
    """Returns the cells of all figures that have targets, on stores other than SQLite."""
    return [
        (_engine_title(run.told), *row.cells())
        for run in runs
        if "engine" in run.told
        for row in (*_ratio_rows(run.figures), *run.rows)
    ]


def _ratio_rows(figures: Sequence[Figure]) -> list[Row]:
    return [
        Row(
            name=f"{figure.case}-{figure.callers}",
            what=f"{figure.title}, {figure.server}, {figure.callers} callers"
            + (", against a server without us" if figure.versus == "bare" else "")
            + (f", against {ROLES[figure.versus]}" if figure.versus == "pool" else ""),
            value=figure.ratio,
            unit="",
            target=figure.target,
            at_least=True,
            note=f"{min(figure.ratios, default=0):.2f}-{max(figure.ratios, default=0):.2f}; "
            f"by CPU {figure.cpu_ratio:.2f}",
        )
        for figure in figures
        if figure.target is not None
    ]


def _stored_in(runs: Sequence[Results]) -> list[tuple[str, ...]]:
    return [_stored(run.storage) for run in runs if run.storage]


def show(results: Results, console: Console) -> None:
    """Prints all tables, their conditions, and warnings."""
    figures, told = results.figures, results.told
    titles = ("Calls per second of the reference and ours", "Reference / ours: latency and processor time")
    parts = ((_RATIOS, _ratios(figures)), _details(figures))
    for title, (headings, lines) in zip(titles, parts, strict=True):
        if figures:
            _print(
                title,
                (*_CASE, *headings),
                [_case(one) + cells for one, cells in zip(figures, lines, strict=True)],
                console,
            )
    if results.storage:
        _print("Stored keys, with replies of 200 bytes", _STORAGE, [_stored(results.storage)], console)
    if results.rows:
        _print("Other targets", HEADINGS, [row.cells() for row in results.rows], console)
    every = [*(figure.met for figure in figures), *(row.met for row in results.rows)]
    targets = [met for met in every if met is not None]
    if targets:
        console.print(f"{sum(targets)} of {len(targets)} targets met.")
    console.print(sentence(told))
    _warn(results, console)


def _print(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], console: Console) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _LEFT else "right", no_wrap=heading not in _WRAPPED)
    for line in lines:
        table.add_row(*map(coloured, line))
    console.print(table)


def coloured(cell: str) -> str:
    """Returns a cell for the terminal."""
    return {"met": "[green]met[/green]", "missed": "[red]missed[/red]"}.get(cell, cell)


def _warn(results: Results, console: Console) -> None:
    seconds, pairs = results.told["seconds"], results.told["pairs"]
    if seconds < _SHORTEST or pairs < _FEWEST:
        console.print(
            f"[yellow]{pairs} pairs of bursts of {seconds:g} s are a first impression: too noisy for a verdict about "
            "targets.[/yellow]"
        )
    shared = results.told.get("engine", {}).get("shares_load", False)
    who = "the load and the engine" if shared else "the load"
    for figure in results.figures:
        for side, values in zip(SIDES, (figure.reference, figure.measured), strict=True):
            busy = values["load_cpu"]
            if shared:
                busy += values.get("engine_cpu_per_call", 0.0) * values["throughput"]
            if busy > _LOAD_LIMIT:
                console.print(
                    f"[yellow]{figure.case}, {figure.callers} callers, {side}: {who} used {busy:.0%} of the processor, "
                    "and may have been the bottleneck.[/yellow]"
                )
    for fault in results.faults:
        console.print(f"[red]{escape(fault)}[/red]")


def tables(results: Results) -> tuple[str, ...]:
    """Returns the tables of what was measured as Markdown: ratios, details, stored keys, and other targets."""
    figures = results.figures
    found = [
        markdown(
            (*_FULL_CASE, *headings), [(*_full_case(one), *line) for one, line in zip(figures, lines, strict=True)]
        )
        for headings, lines in ((_RATIOS, _ratios(figures)), _details(figures))
        if figures
    ]
    if results.storage:
        found.append(markdown(_STORAGE, [_stored(results.storage)]))
    if results.rows:
        found.append(markdown(HEADINGS, [row.cells() for row in results.rows]))
    return tuple(found)


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table as Markdown."""
    rule = [":--" if heading in _LEFT else "--:" for heading in headings]
    return "".join(f"| {' | '.join(line)} |\n" for line in (headings, rule, *lines))


def conditions(setting: Setting, engine: Engine) -> dict[str, Any]:
    """Returns the conditions on which the figures depend."""
    told = {
        "pairs": setting.pairs,
        "seconds": setting.seconds,
        "connections": CONNECTIONS,
        **asdict(setting.tuning),
        **machine(),
        "store": engine.store,
    }
    if engine.store == "sqlite":
        return told
    del told["synchronous"], told["sqlite"]
    shares = engine.served and engine.processors.shared
    return told | {"engine": {"title": engine.title, "settings": engine.settings, "shares_load": shares}}


def machine() -> dict[str, Any]:
    """Returns a description of the machine."""
    return {
        "processors": os.cpu_count(),
        "pinned": processors().servers is not None,
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
    if "engine" in told:
        engine = _engine(told["engine"], pinned=told["pinned"])
        versions = told["python"]
    else:
        engine = f"synchronous={told['synchronous']}"
        versions = f"{told['python']}, SQLite {told['sqlite']}"
    return (
        f"{told['pairs']} pairs of {told['seconds']:g} s each, reference and ours in turn; ratio: the median of the "
        f"pairs' ratios; by CPU: of the servers' processor time per call. {told['processors']} processors, {pinned}; "
        f"{engine}{loop}{collector}; {versions}, grpcio {told['grpcio']}, {told['system']}."
    )


def _engine(engine: dict[str, Any], *, pinned: bool) -> str:
    """Returns the engine as text: its version, its settings, and where it runs."""
    if not engine["settings"]:
        return str(engine["title"])
    place = "" if not pinned else " on the load's processor" if engine["shares_load"] else " on one of its own"
    return f"{engine['title']}{place} with {engine['settings']}"


def write(results: Results, file: Path) -> None:
    """Writes the results as JSON."""
    values = {
        "conditions": results.told,
        "figures": [figure.as_json() for figure in results.figures],
        "storage": asdict(results.storage) if results.storage else None,
        "rows": [row.as_json() for row in results.rows],
        "faults": results.other_faults,
    }
    file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def read(file: Path) -> Results:
    """Reads a file that :func:`write` wrote."""
    values = json.loads(file.read_text(encoding="utf-8"))
    storage = values.get("storage")
    return Results(
        figures=[Figure.of_json(figure) for figure in values["figures"]],
        storage=Storage(**storage) if storage else None,
        told=values["conditions"],
        rows=[Row.of_json(row) for row in values.get("rows", ())],
        other_faults=values.get("faults", []),
    )
