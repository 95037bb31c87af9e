"""``grpc-idempotency check``."""

import argparse
import ipaddress
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from grpc_idempotency.check._options import PROGRAM, parsed, settings_of
from grpc_idempotency.check._reports import write_json, write_junit, write_table
from grpc_idempotency.check._reports.json import Command
from grpc_idempotency.check._reports.progress import Progress
from grpc_idempotency.check._results import CannotCheck, Report, Result
from grpc_idempotency.check._runner import check, selected
from grpc_idempotency.check._settings import Settings
from grpc_idempotency.check._text import plain

_NOT_REPEATED = {"--only", "--skip", "--seed", "--junit", "--known-failing"}
"""Options that the command that shows a finding again leaves out; each has a value."""
_SECRET = {"--as", "--metadata"}


def main(arguments: Sequence[str]) -> int:
    """Runs the subcommand.

    Args:
        arguments: The command line behind ``check``.

    Returns:
        The exit code: 0 safe, 1 unsafe, 2 wrong usage, 3 can't tell, 4 unreachable.
    """
    try:
        given = parsed(arguments)
        settings = settings_of(given)
        if not _may_run(settings, given.real_effects):
            return 2
        if given.junit:
            Path(given.junit).touch()  # before the calls, since it may fail
        with Progress(sys.stderr, quiet=given.quiet) as progress:
            report = check(settings, progress)
        _write(report, given, lambda result: again(arguments, result, report.seed))
    except CannotCheck as error:
        print(f"{PROGRAM}: {plain(error)}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted. Calls that were sent may still take effect.", file=sys.stderr)
        return 130
    return report.exit_code


def _write(report: Report, given: argparse.Namespace, command: Command) -> None:
    if given.junit:
        write_junit(report, command, given.junit)
    try:
        if given.json:
            write_json(report, command, sys.stdout)
        else:
            write_table(report, command, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, and the verdict remains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def again(arguments: Sequence[str], result: Result, seed: int) -> str:
    """Returns the command that runs one probe again, with the same random instants.

    Args:
        arguments: The command line behind ``check``.
        result: The probe's result.
        seed: The seed of the run.
    """
    kept: list[str] = []
    rest = iter(arguments)
    for one in rest:
        name, equals, _ = one.partition("=")
        if name in _NOT_REPEATED:
            if not equals:
                next(rest, None)
        elif name in _SECRET:
            kept += [name, _hidden(one.partition("=")[2] if equals else next(rest, ""))]
        elif one not in ("--json", "--quiet"):
            kept.append(one)
    return shlex.join([*PROGRAM.split(), *kept, "--only", result.probe, "--seed", str(seed)])


def _hidden(value: str) -> str:
    """Hides a value of metadata, unless it is the name of an environment variable."""
    name, colon, text = value.partition(":")
    return value if text.strip().startswith("$") else f"{name}{colon} …"


# Real effects


def _may_run(settings: Settings, allowed: bool) -> bool:
    """Says what will be done. Returns False if the server is not on this host, and that was not allowed."""
    probes = selected(settings)
    calls = sum(probe.calls(settings) for probe in probes)
    servers = [settings.address, *filter(None, [settings.replica])]
    if all(map(_on_this_host, servers)):
        return True
    where = " and ".join(servers)
    print(
        f"{settings.method} of {where} will be called some {calls} times by {len(probes)} probes. Most of these calls "
        "take effect, and nothing takes their effects back.",
        file=sys.stderr,
    )
    for command in filter(None, (settings.restart, settings.kill)):
        print(f"This command will be run: {command}", file=sys.stderr)
    if not allowed:
        print(f"{PROGRAM}: not all of this is on this host. If you want it, add --real-effects.", file=sys.stderr)
    return allowed


def _on_this_host(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
