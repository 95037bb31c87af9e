"""Reads the command line, runs the command, and tells its failure in one line."""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from typing import Protocol, TextIO

from grpc_idempotency import __version__
from grpc_idempotency._command import explain, export, forget, ls, resolve, schema, show, stats, sweep, watch
from grpc_idempotency._command.failures import Failed, Misused
from grpc_idempotency._command.output import Output
from grpc_idempotency._command.text import plain
from grpc_idempotency.errors import IdempotencyError, PolicyError

PROGRAM = "grpc-idempotency"


class Command(Protocol):
    """A module of a command."""

    SUMMARY: str
    """What it does, in one line."""
    EXAMPLES: tuple[tuple[str, str], ...]
    """What somebody may want of it, and the command line for that."""

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Adds the arguments of the command."""

    def run(self, given: argparse.Namespace, output: Output, /) -> None:
        """Runs the command.

        Raises:
            Failed: It could not do what it was asked for.
            Misused: It was asked for something that can't be.
            IdempotencyError: As the functions of :mod:`grpc_idempotency.operating`.
        """


COMMANDS: Mapping[str, Command] = {
    "stats": stats,
    "ls": ls,
    "show": show,
    "watch": watch,
    "resolve": resolve,
    "forget": forget,
    "sweep": sweep,
    "export": export,
    "explain": explain,
    "schema": schema,
}
"""The commands on stores by name, in the order of the help."""

_SILENT = logging.NullHandler()
"""Takes the warnings of stores, which are for those who run servers. Failures are raised."""
CHECK = "check"
_SUMMARIES = {name: command.SUMMARY for name, command in COMMANDS.items()} | {
    CHECK: "find out of any gRPC server whether a method is safe to retry"
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The command line without the program's name; ``None``: that of the process.

    Returns:
        The exit code: 0 on success, 1 on failure, 2 for a wrong command line, 130 after Ctrl-C.
    """
    logging.getLogger("grpc_idempotency").addHandler(_SILENT)
    parser = _parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return 2
    first = parser.parse_args(arguments)
    return _check(first.arguments) if first.command == CHECK else _run(first.command, first.arguments)


def parser_of(name: str) -> argparse.ArgumentParser:
    """Returns the parser of a command."""
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} {name}",
        description=f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}.",
        epilog="\n".join(["examples:", *(f"  # {what}\n  {line}" for what, line in command.EXAMPLES)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, one object in each line")
    return parser


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, _SUMMARIES))
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] [--version] COMMAND ...",
        description="Shows an operator what is in a store of operations, and changes it.",
        epilog="\n".join(
            [
                "commands:",
                *(f"  {name:{width}}  {summary}" for name, summary in _SUMMARIES.items()),
                "",
                f"'{PROGRAM} COMMAND --help' explains one, with examples.",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("command", choices=_SUMMARIES, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _run(name: str, arguments: Sequence[str]) -> int:
    # Intermixed: options may stand between the positional arguments, of which the first may be missing.
    given = parser_of(name).parse_intermixed_args(arguments)
    try:
        _make_robust(sys.stdin, sys.stdout)
        COMMANDS[name].run(given, Output(sys.stdout, as_json=given.json))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        _drop_output()
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except (Misused, PolicyError) as exc:
        return _told(exc, 2)
    except (Failed, IdempotencyError, OSError) as exc:
        _drop_output()
        return _told(exc, 1)
    return 0


def _drop_output() -> None:
    """Drops output that can't be written. Otherwise Python tries again when it ends, and changes the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check(arguments: Sequence[str]) -> int:
    """Runs the kit, which has options, packages and exit codes of its own."""
    try:
        from grpc_idempotency.check._command import main as check
    except ModuleNotFoundError as exc:
        if exc.name not in ("grpc_reflection", "rich", "tomli"):
            raise
        return _told(ImportError(f"check needs {exc.name}: pip install 'grpc-idempotency[check]'"), 2)
    _make_robust(sys.stdout, sys.stderr)
    return check(arguments)


def _make_robust(*streams: TextIO) -> None:
    """Lets streams escape what their encoding does not have."""
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _told(error: Exception, code: int) -> int:
    print(f"{PROGRAM}: {plain(error)}", file=sys.stderr)
    return code
