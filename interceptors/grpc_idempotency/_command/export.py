"""``export``: prints operations as JSON lines, the oldest first."""

import argparse
from typing import Any

from grpc_idempotency._command import bodies, filters, stores, values
from grpc_idempotency._command.output import Output

SUMMARY = "print all operations as JSON lines, the oldest first"
EXAMPLES: tuple[tuple[str, str], ...] = (
    ("what operators have to look at, for a ticket", "grpc-idempotency export sqlite:///orders.db --stuck --full"),
    (
        "how many operations of each method failed",
        "grpc-idempotency export | jq -r 'select(.status != \"OK\") | .method' | sort | uniq -c",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    stores.add_argument(parser)
    filters.add_arguments(parser)
    parser.add_argument("--full", action="store_true", help="also steps and notes, as show has them")
    bodies.add_arguments(parser)


def run(given: argparse.Namespace, output: Output) -> None:
    """Runs the command."""
    with stores.opened(given, read_only=True) as store, bodies.reader(given) as reader:
        for record in filters.chosen(store, given):
            found: dict[str, Any] = values.of_record(record) | reader.of_record(record)
            if given.full:
                found["steps"] = [values.of_step(s) | reader.of_step(s) for s in store.steps(record.name)]
                found["notes"] = [values.of_note(note) for note in store.notes(record.name)]
            output.json(found)
