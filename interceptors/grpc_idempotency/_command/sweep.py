"""``sweep``: deletes expired records."""

import argparse
import time

from grpc_idempotency._command import stores
from grpc_idempotency._command.output import Output
from grpc_idempotency._server.interceptor import SWEEP_PAUSE

SUMMARY = "delete all expired records, as servers do every few minutes"
EXAMPLES: tuple[tuple[str, str], ...] = (
    ("now, after a TTL was made shorter", "grpc-idempotency sweep sqlite:///orders.db"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    stores.add_argument(parser)


def run(given: argparse.Namespace, output: Output) -> None:
    """Runs the command: batch after batch, as servers do. Expired records are absent already, so it does not ask."""
    deleted = freed = 0
    with stores.opened(given, read_only=False) as store:
        while True:
            swept = store.sweep()
            deleted, freed = deleted + swept.deleted, freed + swept.freed_bytes
            if not swept.more:
                break
            time.sleep(SWEEP_PAUSE)
    if output.as_json:
        output.json({"deleted": deleted, "freed_bytes": freed})
    else:
        output.line(f"{deleted} expired records deleted, {freed} bytes given back to the file system")
