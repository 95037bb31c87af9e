"""The report as JSON."""

import json
from collections.abc import Callable
from typing import Any, TextIO

from grpc_idempotency.check._results import Report, Result, Verdict

Command = Callable[[Result], str]
"""Returns the command that runs a probe again."""
VERDICTS = {0: "safe", 1: "unsafe", 3: "unclear"}
"""The verdict on the server, by exit code."""


def write_json(report: Report, command: Command, out: TextIO) -> None:
    """Writes a report as one JSON object.

    Args:
        report: The report.
        command: Returns the command that runs a probe again.
        out: Where to.
    """
    told = {
        "address": report.address,
        "method": report.method,
        "oracle": report.oracle,
        "seed": report.seed,
        "verdict": VERDICTS[report.exit_code],
        "probes": [_result(result, command) for result in report.results],
    }
    print(json.dumps(told, indent=2), file=out)


def _result(result: Result, command: Command) -> dict[str, Any]:
    told: dict[str, Any] = {
        "probe": result.probe,
        "title": result.title,
        "verdict": result.verdict.value,
        "happened": result.happened,
        "seconds": round(result.seconds, 3),
    }
    if result.verdict in (Verdict.FAILED, Verdict.UNCLEAR):
        told |= {"means": result.means, "advice": result.advice, "command": command(result), "known": result.known}
    return told
