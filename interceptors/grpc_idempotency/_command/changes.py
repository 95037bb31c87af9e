"""What every command that changes an operation does first: it shows the operation, and asks."""

import argparse
import getpass
import socket
import sys
from collections.abc import Sequence
from typing import NamedTuple

from grpc_idempotency._command import show
from grpc_idempotency._command.failures import Failed, Misused
from grpc_idempotency._command.output import Output
from grpc_idempotency.operator_store import OperatorStore
from grpc_idempotency.records import Record


class Author(NamedTuple):
    """Who changes an operation, and why. It is kept with the operation."""

    by: str
    reason: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of commands that change an operation."""
    group = parser.add_argument_group("the change")
    group.add_argument("--reason", metavar="TEXT", help="why; kept with the operation (asked for on a terminal)")
    group.add_argument("--by", metavar="NAME", help="who; kept with the operation (default: USER@HOST)")
    group.add_argument("--yes", action="store_true", help="do not ask; required where there is no terminal")
    group.add_argument("--fence", metavar="HEX", help="as shown: fail if the operation was claimed again since")


def settle(given: argparse.Namespace) -> None:
    """Checks before anything is read that the command can ask for what it has not been told.

    Raises:
        Misused: There is no terminal, and ``--yes`` or ``--reason`` is missing.
    """
    missing = [option for option, value in (("--yes", given.yes), ("--reason", given.reason)) if not value]
    if missing and not _interactive():
        raise Misused(f"this changes an operation; without a terminal it needs {' and '.join(missing)}")


def check_fence(given: argparse.Namespace, record: Record) -> None:
    """Refuses an operation that was claimed again since it was shown.

    Raises:
        Failed: Its fence is not the one that was given.
    """
    if given.fence is not None and given.fence.lower() != record.fence.hex():
        raise Failed(f"operation {record.name.hex()} was claimed again, and was left as it is: show it again")


def confirmed(
    store: OperatorStore, record: Record, given: argparse.Namespace, *, question: str, more: Sequence[str] = ()
) -> Author:
    """Shows an operation, and asks whether to change it, and why.

    Args:
        store: Where the operation is kept.
        record: The operation.
        given: The command line.
        question: What is about to be done.
        more: Lines that say what will be stored.

    Returns:
        Who says so, and why.

    Raises:
        Failed: The operator says no.
    """
    shown = Output(sys.stderr)
    show.tell(record, store.steps(record.name), store.notes(record.name), shown)
    shown.line("")
    for line in more:
        shown.line(line)
    reason = given.reason or _asked("Why? It is kept with the operation: ")
    if not given.yes and _asked(f"{question} [y/N] ").lower() not in ("y", "yes"):
        raise Failed("nothing was changed")
    return Author(given.by or _user(), reason)


def _asked(question: str) -> str:
    """Asks until there is an answer."""
    while True:
        sys.stderr.write(question)
        sys.stderr.flush()
        answer = sys.stdin.readline()
        if not answer:
            sys.stderr.write("\n")
            raise Failed("nothing was changed")
        if answer.strip():
            return answer.strip()


def _interactive() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _user() -> str:
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
