"""``python -m bench.scale``: measures how costs grow, and prints them beside the targets."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench import report
from bench.arguments import positive
from bench.cases import CALLERS, KINDS
from bench.growth import Growth, Row, Sizes
from bench.places import folder_on_disk
from bench.processes import Failed

_HEADINGS = ("what", "figure", "target", "", "note")


def main() -> int:
    """Measures, and returns 1 if calls failed, else 0, whether the targets are met or not."""
    arguments = _arguments()
    console = Console()
    sizes = Sizes(**{name: getattr(arguments, name) for name in Sizes.__slots__ if name != "warm_up"})
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    rows: list[Row] = []
    with folder_on_disk() as folder, Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        growth = Growth(arguments.server, sizes, Path(folder), progress)
        parts = {"keys": growth.stored_keys, "sweep": growth.sweep, "calls": growth.many_calls}
        try:
            for name, part in parts.items():
                if not arguments.only or name in arguments.only:
                    rows += part()
        except Failed as error:
            console.print(f"[red]{escape(str(error))}[/red]")
            return 1
    told = {"server": KINDS[arguments.server], **asdict(sizes), **report.machine()}
    _show(rows, told, console)
    for fault in growth.faults:
        console.print(f"[red]{escape(fault)}[/red]")
    if arguments.markdown:
        Path(arguments.markdown).write_text(table(rows), encoding="utf-8")
    if arguments.json:
        values = {
            "conditions": told,
            "figures": [{**asdict(row), "met": row.met} for row in rows],
            "faults": growth.faults,
        }
        Path(arguments.json).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return 1 if growth.faults else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description="Measures first calls on a large file and during a sweep, and the growth of memory and file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    number = positive(int)
    parser.add_argument("--keys", type=number, default=10_000_000, help="stored keys of the large file")
    parser.add_argument("--few", type=number, default=10_000, help="stored keys of the small file")
    parser.add_argument("--expired", type=number, default=1_000_000, help="expired keys to sweep")
    parser.add_argument("--calls", type=number, default=1_000_000, help="keyed calls")
    parser.add_argument(
        "--first-calls", type=number, default=100_000, help="how many of them come before memory is measured"
    )
    parser.add_argument("--pairs", type=number, default=7, help="pairs of bursts on the large and the small file")
    parser.add_argument("--seconds", type=positive(float), default=2.0, help="length of a burst")
    parser.add_argument("--server", choices=list(KINDS), default="aio", help="the kind of server")
    parser.add_argument("--only", nargs="+", choices=["keys", "sweep", "calls"], help="measure only these parts")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--markdown", metavar="FILE", help="also write the table to this file")
    return parser.parse_args()


def cells(row: Row) -> tuple[str, ...]:
    """Returns one line of the table."""
    sign = "≥" if row.at_least else "≤"
    return (
        row.what,
        "" if row.value is None else f"{row.value:.2f} {row.unit}".strip(),
        f"{sign} {row.target:g} {row.unit}".strip(),
        {None: "", True: "met", False: "missed"}[row.met],
        row.note,
    )


def table(rows: Sequence[Row]) -> str:
    """Returns the table as Markdown."""
    return report.markdown(_HEADINGS, [cells(row) for row in rows])


def _show(rows: Sequence[Row], told: dict[str, Any], console: Console) -> None:
    table = Table(title=f"What grows, on {told['server']}", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right" if heading in ("figure", "target") else "left")
    for row in rows:
        table.add_row(*(report.coloured(cell) for cell in cells(row)))
    console.print(table)
    console.print(
        f"{CALLERS[-1]} callers; bursts of {told['seconds']:g} s; {told['processors']} processors; {told['python']}, "
        f"SQLite {told['sqlite']}, grpcio {told['grpcio']}, {told['system']}."
    )


if __name__ == "__main__":
    sys.exit(main())
