"""``python -m bench.scale``: measures how costs grow, and prints them beside the targets."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
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
from bench.engines import started
from bench.growth import Growth, Sizes
from bench.places import folder_on_disk
from bench.processes import Failed
from bench.rows import HEADINGS, Row


def main() -> int:
    """Measures, and returns 1 if calls failed, else 0, whether the targets are met or not."""
    arguments = _arguments()
    console = Console()
    sizes = Sizes(**{name: getattr(arguments, name) for name in Sizes.__slots__ if name != "warm_up"})
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    rows: list[Row] = []
    with ExitStack() as ends:
        folder = Path(ends.enter_context(folder_on_disk()))
        engine = ends.enter_context(closing(started(arguments.store, folder)))
        progress = ends.enter_context(Progress(*columns, TimeRemainingColumn(), console=console))
        growth = Growth(arguments.server, sizes, engine, progress)
        parts = {"keys": growth.stored_keys}
        if engine.store == "sqlite":
            parts |= {"sweep": growth.sweep, "calls": growth.many_calls}
        try:
            for name, part in parts.items():
                if not arguments.only or name in arguments.only:
                    rows += part()
        except Failed as error:
            console.print(f"[red]{escape(str(error))}[/red]")
            return 1
    told = {"server": KINDS[arguments.server], **asdict(sizes), **report.machine(), "store": arguments.store}
    if engine.served:
        told["engine"] = {"title": engine.title, "settings": engine.settings}
    _show(rows, told, console)
    for fault in growth.faults:
        console.print(f"[red]{escape(fault)}[/red]")
    if arguments.markdown:
        Path(arguments.markdown).write_text(table(rows), encoding="utf-8")
    if arguments.json:
        values = {
            "conditions": told,
            "figures": [row.as_json() for row in rows],
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
    parser.add_argument(
        "--store",
        choices=["sqlite", "postgresql"],
        default="sqlite",
        help="where operations are kept; on postgresql stored keys alone are measured",
    )
    parser.add_argument("--keys", type=number, default=10_000_000, help="stored keys of the large database")
    parser.add_argument("--few", type=number, default=10_000, help="stored keys of the small database")
    parser.add_argument("--expired", type=number, default=1_000_000, help="expired keys to sweep")
    parser.add_argument("--calls", type=number, default=1_000_000, help="keyed calls")
    parser.add_argument(
        "--first-calls", type=number, default=100_000, help="how many of them come before memory is measured"
    )
    parser.add_argument("--pairs", type=number, default=7, help="pairs of bursts on the large and the small one")
    parser.add_argument("--seconds", type=positive(float), default=2.0, help="length of a burst")
    parser.add_argument("--server", choices=list(KINDS), default="aio", help="the kind of server")
    parser.add_argument("--only", nargs="+", choices=["keys", "sweep", "calls"], help="measure only these parts")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--markdown", metavar="FILE", help="also write the table to this file")
    arguments = parser.parse_args()
    if arguments.store != "sqlite" and arguments.only not in (None, ["keys"]):
        parser.error(f"keys alone is measured on {arguments.store}")
    return arguments


def table(rows: Sequence[Row]) -> str:
    """Returns the table as Markdown."""
    return report.markdown(HEADINGS, [row.cells() for row in rows])


def _show(rows: Sequence[Row], told: dict[str, Any], console: Console) -> None:
    table = Table(title=f"What grows, on {told['server']}", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in ("figure", "target") else "left")
    for row in rows:
        table.add_row(*(report.coloured(cell) for cell in row.cells()))
    console.print(table)
    console.print(sentence(told))


def sentence(told: dict[str, Any]) -> str:
    """Returns the conditions as text."""
    engine = told["engine"] if "engine" in told else {"title": f"SQLite {told['sqlite']}", "settings": ""}
    settings = f" with {engine['settings']}" if engine["settings"] else ""
    return (
        f"{CALLERS[-1]} callers; bursts of {told['seconds']:g} s; {told['processors']} processors; {told['python']}, "
        f"{engine['title']}{settings}, grpcio {told['grpcio']}, {told['system']}."
    )


if __name__ == "__main__":
    sys.exit(main())
