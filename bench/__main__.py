"""``python -m bench``: measures the cost of the interceptor, and prints it beside the targets."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import report
from bench.arguments import positive
from bench.cases import CALLERS, CASES, KINDS, Case
from bench.measure import SIDES, Figure, Setting, measure
from bench.places import folder_on_disk
from bench.processes import Failed
from bench.setup import Tuning

_FULL = Setting(pairs=7, seconds=2.0, warm_up=0.3)
_QUICK = Setting(pairs=2, seconds=0.4, warm_up=0.1)


def main() -> int:
    """Measures, and returns 1 if calls failed, else 0, whether the targets are met or not."""
    arguments = _arguments()
    console = Console()
    if arguments.show:
        figures, told = report.read(Path(arguments.show))
    else:
        setting = _setting(arguments)
        cases = [case for case in CASES if not arguments.only or case.name in arguments.only]
        try:
            figures = _measure_all(cases, setting, console)
        except Failed as error:
            console.print(f"[red]{escape(str(error))}[/red]")
            return 1
        told = report.conditions(setting)
    report.show(figures, told, console)
    if arguments.json:
        report.write(figures, told, Path(arguments.json))
    if arguments.markdown:
        Path(arguments.markdown).write_text("\n".join(report.tables(figures)), encoding="utf-8")
    if arguments.plot:
        from bench.plot import draw  # only here, since matplotlib takes longer to load than everything else

        draw(figures, report.sentence(told), Path(arguments.plot))
    return 1 if any(figure.faults for figure in figures) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures servers with the interceptor, as ratios to servers without it or with another guard.",
    )
    names = [case.name for case in CASES]
    parser.add_argument("--pairs", type=positive(int), help=f"pairs of bursts for each figure (default: {_FULL.pairs})")
    parser.add_argument("--seconds", type=positive(float), help=f"length of a burst (default: {_FULL.seconds:g})")
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=names, help=f"some of {', '.join(names)}")
    parser.add_argument("--callers", nargs="+", type=positive(int), metavar="N", help="default: 1 16 64")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="short bursts, for a first impression: too noisy for a verdict about targets",
    )
    parser.add_argument("--synchronous", choices=["NORMAL", "FULL", "EXTRA"], default="FULL", help="of every database")
    parser.add_argument("--uvloop", action="store_true", help=f"run the servers on {KINDS['aio']} on uvloop")
    parser.add_argument("--gc-threshold", type=positive(int), help="first threshold of the servers' garbage collector")
    parser.add_argument(
        "--tuned-alone", action="store_true", help="compare with the same server without the three settings above"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--markdown", metavar="FILE", help="also write the tables to this file")
    parser.add_argument("--plot", metavar="FILE", help="draw the figures to this file, as .svg and as .png")
    parser.add_argument(
        "--show", metavar="FILE", help="measure nothing, and print the figures of this file, which --json wrote"
    )
    return parser.parse_args()


def _setting(arguments: argparse.Namespace) -> Setting:
    default = _QUICK if arguments.quick else _FULL
    return Setting(
        pairs=arguments.pairs or default.pairs,
        seconds=arguments.seconds or default.seconds,
        warm_up=default.warm_up,
        callers=arguments.callers or CALLERS,
        tuning=Tuning(synchronous=arguments.synchronous, uvloop=arguments.uvloop, gc_threshold=arguments.gc_threshold),
        tuned_alone=arguments.tuned_alone,
    )


def _measure_all(cases: list[Case], setting: Setting, console: Console) -> list[Figure]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with folder_on_disk() as folder, Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(cases) * len(setting.callers) * setting.pairs * len(SIDES))
        figures = []
        for case in cases:
            progress.update(task, description=f"{case.title}, {KINDS[case.kind]}")
            figures += measure(case, setting, Path(folder), lambda: progress.advance(task))
        return figures


if __name__ == "__main__":
    sys.exit(main())
