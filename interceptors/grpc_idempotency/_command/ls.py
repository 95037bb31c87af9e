"""``ls``: lists operations, the newest first."""

import argparse
import sys
from collections.abc import Sequence

from grpc_idempotency._command import filters, stores, values
from grpc_idempotency._command.output import STYLES, Cell, Output
from grpc_idempotency._command.text import age, count, now
from grpc_idempotency.records import Record

SUMMARY = "list operations, the newest first"
EXAMPLES: tuple[tuple[str, str], ...] = (
    ("operations that need a look", "grpc-idempotency ls sqlite:///orders.db --stuck"),
    (
        "those of one method that were claimed more than an hour ago",
        "grpc-idempotency ls --method '/shop.*' --older-than 1h",
    ),
)

HEADER = ("OPERATION", "STATE", "AGE", "METHOD", "WHY")
_LIMIT = 50
_SHORT = 12
"""Digits of a name on a terminal: enough to be unique, and ``show`` takes them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    stores.add_argument(parser)
    filters.add_arguments(parser)
    parser.add_argument("--limit", type=count, default=_LIMIT, metavar="N", help=f"at most so many ({_LIMIT})")


def run(given: argparse.Namespace, output: Output) -> None:
    """Runs the command."""
    with stores.opened(given, read_only=True) as store:
        records = list(filters.chosen(store, given, newest_first=True, limit=given.limit + 1))
    shown = records[: given.limit]
    if output.as_json:
        for record in shown:
            output.json(values.of_record(record))
    elif shown:
        output.table(HEADER, rows(shown, output))
    if len(records) > given.limit:
        print(f"there are more than these {given.limit}: narrow them down, give --limit, or export", file=sys.stderr)
    elif not records and output.terminal:
        print("no operations", file=sys.stderr)


def rows(records: Sequence[Record], output: Output) -> list[Sequence[Cell | str]]:
    """Returns a row of the table for each operation."""
    at = now()
    return [
        (
            record.name.hex()[:_SHORT] if output.terminal else record.name.hex(),
            Cell(record.state.value, STYLES[record.state]),
            age(record.created_at, at),
            record.method,
            values.why(record),
        )
        for record in records
    ]
