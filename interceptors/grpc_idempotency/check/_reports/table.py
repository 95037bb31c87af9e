"""The report for people: a table, and then each finding."""

from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from grpc_idempotency.check._reports.json import Command
from grpc_idempotency.check._results import Report, Result, Verdict

_STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.UNCLEAR: "yellow", Verdict.SKIPPED: "dim"}
_ENDS = {0: ("SAFE", "bold green"), 1: ("UNSAFE", "bold red"), 3: ("UNCLEAR", "bold yellow")}
_WIDTH_OF_A_PIPE = 120


def write_table(report: Report, command: Command, out: TextIO) -> None:
    """Writes a report as a table, followed by the findings.

    Args:
        report: The report.
        command: Returns the command that runs a probe again.
        out: Where to. A terminal gets colours, and its width.
    """
    console = Console(file=out, highlight=False, width=None if out.isatty() else _WIDTH_OF_A_PIPE)
    with console.capture() as written:  # since rich ends the process if a pipe is closed
        _print(console, report, command)
    out.write(written.get())


def _print(console: Console, report: Report, command: Command) -> None:
    console.print(Text(f"{report.method[1:]} at {report.address}"), style="bold")
    console.print(Text(f"Oracle: {report.oracle}. Seed: {report.seed}."))
    console.print()
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for result in report.results:
        if result.verdict is not Verdict.SKIPPED:
            table.add_row(_verdict(result), Text(result.probe), Text(result.happened))
    console.print(table)
    skipped = [result for result in report.results if result.verdict is Verdict.SKIPPED]
    if skipped:
        console.print()
        for result in skipped:
            console.print(Text(f"skipped  {result.probe}: {result.happened}"), style="dim")
    for result in (*report.failed, *report.unclear):
        _finding(console, result, command)
    console.print()
    console.print(_end(report))


def _verdict(result: Result) -> Text:
    known = result.known and result.verdict in (Verdict.FAILED, Verdict.UNCLEAR)
    return Text(f"{result.verdict.value} (known)" if known else result.verdict.value, style=_STYLES[result.verdict])


def _finding(console: Console, result: Result, command: Command) -> None:
    console.print()
    console.print(Text.assemble((result.verdict.value, _STYLES[result.verdict]), f" {result.probe}: {result.title}"))
    lines = (("What happened", result.happened), ("What it means", result.means), ("What to do", result.advice))
    for name, text in lines:
        console.print(Padding(Text.assemble((f"{name}: ", "bold"), text), (0, 0, 0, 2)))
    # On one line, however long, so that it can be copied.
    console.print(Text.assemble(("  See it again: ", "bold"), command(result)), soft_wrap=True)


def _end(report: Report) -> Text:
    count = {verdict: sum(one.verdict is verdict for one in report.results) for verdict in Verdict}
    word, style = _ENDS[report.exit_code]
    told = ", ".join(f"{number} {verdict.value}" for verdict, number in count.items() if number)
    text = Text.assemble((word, style), f": {told}.")
    better = [one.probe for one in report.results if one.known and one.verdict is Verdict.PASSED]
    return text.append(f" Known to fail, but passed: {', '.join(better)}.") if better else text
