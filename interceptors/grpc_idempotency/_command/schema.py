"""``schema``: prints the SQL that creates or migrates a store's tables."""

import argparse

from grpc_idempotency import operating
from grpc_idempotency._command import stores
from grpc_idempotency._command.output import Output

SUMMARY = "print the SQL that creates or migrates the store's tables"
EXAMPLES: tuple[tuple[str, str], ...] = (
    ("create the tables", "grpc-idempotency schema sqlite:///idempotency.db | sqlite3 idempotency.db"),
    ("migrate tables of version 1", "grpc-idempotency schema postgresql:///orders --since 1 | psql orders"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    stores.add_argument(parser)
    parser.add_argument(
        "--since", type=int, default=0, metavar="VERSION", help="the version of the tables that exist (0: none)"
    )


def run(given: argparse.Namespace, output: Output) -> None:
    """Runs the command."""
    sql = operating.schema(stores.url_of(given), since=given.since)
    if output.as_json:
        output.json({"sql": sql})
    else:
        output.raw(sql)
