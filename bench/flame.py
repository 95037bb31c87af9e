"""``python -m bench.flame``: draws where a server's time goes under load, as a flame graph."""

import argparse
import re
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from bench.arguments import positive
from bench.cases import CALLERS, CASES, KINDS, STORES, Case, StoreName
from bench.engines import started
from bench.measure import Load, Server, Setting, prepared
from bench.places import folder_on_disk, processors
from bench.processes import Failed
from bench.setup import Setup

_CASES = [case for case in CASES if case.service != "store"]
"""Those with a server."""
_RATE = 250
"""Samples per second."""


def main() -> int:
    """Draws one case, and returns 1 if calls or py-spy failed, else 0."""
    arguments = _arguments()
    console = Console()
    case = _named(arguments.case)
    try:
        faults = draw(case, arguments.callers, arguments.seconds, Path(arguments.file), arguments.store)
    except Failed as error:
        faults = [str(error)]
    for fault in faults:
        console.print(f"[red]{escape(fault)}[/red]")
    if not faults:
        console.print(f"{arguments.file}: {case.title}, {arguments.callers} callers, {arguments.seconds:g} s.")
    return 1 if faults else 0


def _named(name: str) -> Case:
    return next(case for case in _CASES if case.name == name)


def draw(case: Case, callers: int, seconds: float, file: Path, store: StoreName = "sqlite") -> list[str]:
    """Samples the server with the interceptor under load, writes an SVG, and returns the failures."""
    setting = Setting(pairs=1, seconds=seconds + 1, warm_up=0.5)
    with folder_on_disk() as folder, closing(started(store, Path(folder))) as engine, ExitStack() as ends:
        place = engine.place(case.name)
        setup = Setup(
            name=case.name,
            kind=case.kind,
            role="ours",
            observed=case.reference == "unobserved",
            service=case.service,
            database=place,
            store=engine.store,
        )
        server = Server(setup)
        ends.callback(lambda: server.end())
        load = Load(ends, case.service, engine)
        faults = prepared(case, setting, server, load)
        if case.keys == "cold":
            server.restart()
        server.ask()  # it has started
        sampler = _sampler(server.process.pid, seconds, file)
        _, more = load.burst(server, case.keys, callers, setting, status=case.status)
        told = sampler.communicate()[0]
        if sampler.returncode:
            raise Failed(f"py-spy could not look at the server: {told.strip()}")
        _entitle(file, f"{case.title}, {KINDS[case.kind]}, {callers} callers")
    return faults + more


def _sampler(pid: int, seconds: float, file: Path) -> "subprocess.Popen[str]":
    """Runs py-spy on the load's processor. It samples running threads only."""
    program = Path(sys.executable).with_name("py-spy")
    command = [str(program), "record", "--pid", str(pid), "--duration", str(round(seconds)), "--rate", str(_RATE)]
    command += ["--nonblocking", "--function", "--format", "flamegraph", "--output", str(file)]
    cpus = processors().load
    if cpus:
        command = ["taskset", "--cpu-list", ",".join(map(str, sorted(cpus))), *command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _entitle(file: Path, title: str) -> None:
    """Replaces py-spy's command line in the SVG by a title."""
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r"(<text id=\"title\"[^>]*>)[^<]*", rf"\g<1>{title}", text, count=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.flame",
        description="Draws with py-spy where the time of a server with the interceptor goes. It may need root.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--case", choices=[case.name for case in _CASES], default="first-aio", help="the case to measure"
    )
    parser.add_argument("--store", choices=STORES, default="sqlite", help="where operations are kept")
    parser.add_argument("--callers", type=positive(int), default=CALLERS[-1], help="how many calls at once")
    parser.add_argument("--seconds", type=positive(float), default=10.0, help="how long to sample")
    parser.add_argument("--file", default="flame.svg", help="where to write the SVG")
    arguments = parser.parse_args()
    if arguments.store not in _named(arguments.case).stores:
        parser.error(f"{arguments.case} is not measured on {arguments.store}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
