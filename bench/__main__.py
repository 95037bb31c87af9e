"""``python -m bench``: measures the cost of the interceptor, and prints it beside the targets."""

import argparse
import sys
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import report
from bench.alone import engine_rows, measure_alone
from bench.arguments import positive
from bench.cases import CALLERS, ENGINES, KINDS, STORES, Kind, cases_on
from bench.elsewhere import measure_elsewhere
from bench.engines import Engine, started
from bench.measure import SIDES, Setting, measure, setting_of
from bench.observed import observed_rows
from bench.places import folder_on_disk
from bench.processes import Failed
from bench.report import Results
from bench.setup import Tuning
from bench.storage import measure_storage

_FULL = Setting(pairs=7, seconds=2.0, warm_up=0.3)
_SHORTER = Setting(pairs=5, seconds=0.8, warm_up=0.2)
"""On PostgreSQL and Valkey, where more is measured: a run takes less than ten minutes."""
_QUICK = Setting(pairs=2, seconds=0.4, warm_up=0.1)
_KEYS, _FEW_KEYS = 20_000, 1_000
_STORAGE = "storage"
"""The name of the measurement of stored keys."""
_ELSEWHERE: dict[str, Kind] = {f"elsewhere-{kind}": kind for kind in KINDS}
"""The kinds of servers by the names of the measurements of replays on another host."""


def main() -> int:
    """Measures, and returns 1 if calls failed, else 0, whether the targets are met or not."""
    arguments = _arguments()
    console = Console()
    if arguments.show and len(arguments.show) > 1:
        return _compare(arguments, console)
    if arguments.show:
        results = report.read(Path(arguments.show[0]))
    else:
        try:
            results = _measured(arguments, console)
        except Failed as error:
            console.print(f"[red]{escape(str(error))}[/red]")
            return 1
    report.show(results, console)
    if arguments.json:
        report.write(results, Path(arguments.json))
    if arguments.markdown:
        Path(arguments.markdown).write_text("\n".join(report.tables(results)), encoding="utf-8")
    if arguments.plot:
        from bench.plot import draw  # only here, since matplotlib takes longer to load than everything else

        draw(results.figures, report.sentence(results.told), Path(arguments.plot))
    return 1 if results.faults else 0


def _compare(arguments: argparse.Namespace, console: Console) -> int:
    """Compares runs that were made before."""
    runs = [report.read(Path(file)) for file in arguments.show]
    report.show_compared(runs, console)
    if arguments.markdown:
        Path(arguments.markdown).write_text("\n".join(report.comparison(runs)), encoding="utf-8")
    return 1 if any(run.faults for run in runs) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures servers with the interceptor, as ratios to servers without it or with another guard.",
    )
    names = {
        store: [*(case.name for case in cases_on(store)), _STORAGE, *(_ELSEWHERE if store in ENGINES else ())]
        for store in STORES
    }
    every = list(dict.fromkeys(name for of_store in names.values() for name in of_store))
    parser.add_argument("--store", choices=STORES, default="sqlite", help="where operations are kept (default: sqlite)")
    parser.add_argument(
        "--pairs",
        type=positive(int),
        help=f"pairs of bursts for each figure (default: {_FULL.pairs}; {_SHORTER.pairs} on engines)",
    )
    parser.add_argument(
        "--seconds",
        type=positive(float),
        help=f"length of a burst (default: {_FULL.seconds:g}; {_SHORTER.seconds:g} on engines)",
    )
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=every, help=f"some of {', '.join(every)}")
    parser.add_argument("--callers", nargs="+", type=positive(int), metavar="N", help="default: 1 16 64")
    parser.add_argument(
        "--keys", type=positive(int), help=f"keys to store and to sweep for {_STORAGE} (default: {_KEYS:,})"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="short bursts, for a first impression: too noisy for a verdict about targets",
    )
    parser.add_argument("--synchronous", choices=["NORMAL", "FULL", "EXTRA"], help="of SQLite (default: FULL)")
    parser.add_argument("--appendfsync", choices=["everysec", "always"], help="of Valkey (default: everysec)")
    parser.add_argument("--uvloop", action="store_true", help=f"run the servers on {KINDS['aio']} on uvloop")
    parser.add_argument("--gc-threshold", type=positive(int), help="first threshold of the servers' garbage collector")
    parser.add_argument(
        "--tuned-alone", action="store_true", help="compare with the same server without the three settings above"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--markdown", metavar="FILE", help="also write the tables to this file")
    parser.add_argument("--plot", metavar="FILE", help="draw the figures to this file, as .svg and as .png")
    parser.add_argument(
        "--show",
        nargs="+",
        metavar="FILE",
        help="measure nothing, and print the figures of a file that --json wrote, or compare several such files",
    )
    arguments = parser.parse_args()
    _check(parser, arguments, names[arguments.store])
    return arguments


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace, names: list[str]) -> None:
    """Ends the program if an argument does not fit the store."""
    if arguments.synchronous and arguments.store != "sqlite":
        parser.error("--synchronous is a setting of SQLite")
    if arguments.appendfsync and arguments.store != "redis":
        parser.error("--appendfsync is a setting of Valkey: --store redis")
    if len(arguments.show or ()) > 1 and (arguments.json or arguments.plot):
        parser.error("a comparison is no run: it has no --json and no --plot")
    for name in arguments.only or ():
        if name not in names:
            parser.error(f"{name} is not measured on {arguments.store}; choose from {', '.join(names)}")


def _setting(arguments: argparse.Namespace) -> Setting:
    default = _QUICK if arguments.quick else _SHORTER if arguments.store in ENGINES else _FULL
    return Setting(
        pairs=arguments.pairs or default.pairs,
        seconds=arguments.seconds or default.seconds,
        warm_up=default.warm_up,
        callers=arguments.callers or CALLERS,
        tuning=Tuning(
            synchronous=arguments.synchronous or "FULL", uvloop=arguments.uvloop, gc_threshold=arguments.gc_threshold
        ),
        tuned_alone=arguments.tuned_alone,
    )


def _measured(arguments: argparse.Namespace, console: Console) -> Results:
    """Starts the engine, and measures all cases and what stored keys take."""
    setting = _setting(arguments)
    with folder_on_disk() as folder, closing(_engine(arguments, Path(folder))) as engine:
        cases = [case for case in cases_on(engine.store) if not arguments.only or case.name in arguments.only]
        if setting.tuned_alone:
            cases = [case for case in cases if case.service != "store"]  # it has no server to tune
        elsewhere = [name for name in _ELSEWHERE if engine.store in ENGINES and name in (arguments.only or _ELSEWHERE)]
        keys = arguments.keys or (_FEW_KEYS if arguments.quick else _KEYS)
        with _progress(console) as progress:
            task = progress.add_task(
                "", total=sum(setting_of(case, setting).pairs for case in cases) * len(setting.callers) * len(SIDES)
            )
            figures = []
            for case in cases:
                progress.update(task, description=f"{case.title}, {KINDS[case.kind]}")
                measured = measure_alone if case.service == "store" else measure
                figures += measured(case, setting, engine, lambda: progress.advance(task))
            rows = [*engine_rows(figures), *observed_rows(figures)]
            faults: list[str] = []
            task = progress.add_task("replays on another host", total=len(elsewhere) * setting.pairs)
            for name in elsewhere:
                row, failed = measure_elsewhere(_ELSEWHERE[name], setting, engine, lambda: progress.advance(task))
                rows.append(row)
                faults += failed
            storage = None
            if not arguments.only or _STORAGE in arguments.only:
                task = progress.add_task("stored keys", total=2 * keys)
                storage = measure_storage(engine, keys, lambda count: progress.advance(task, count))
        told = report.conditions(setting, engine)
        return Results(figures=figures, storage=storage, told=told, rows=rows, other_faults=faults)


def _engine(arguments: argparse.Namespace, folder: Path) -> Engine:
    return started(arguments.store, folder, arguments.appendfsync or "everysec")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


if __name__ == "__main__":
    sys.exit(main())
