"""Which operations a listing has."""

import argparse
from collections.abc import Iterator

from grpc_idempotency._command.failures import Misused
from grpc_idempotency._command.text import duration, now
from grpc_idempotency.operating import operations
from grpc_idempotency.operator_store import OperatorStore
from grpc_idempotency.records import Record, State


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the filters of listings."""
    states = [state.value for state in State]
    parser.add_argument(
        "--state", metavar="STATE", choices=states, help=f"only operations in this state: {', '.join(states)}"
    )
    parser.add_argument("--method", metavar="NAME", help="only of /package.Service/Method, or of a glob of that form")
    parser.add_argument(
        "--older-than",
        type=duration,
        metavar="TIME",
        help="only first claimed longer ago than that, as 90s, 15m, 6h, 2d",
    )
    parser.add_argument(
        "--newer-than", type=duration, metavar="TIME", help="only first claimed less long ago than that"
    )
    parser.add_argument(
        "--stuck", action="store_true", help="only those that need a look: held, or their lease has run out"
    )


def chosen(
    store: OperatorStore, given: argparse.Namespace, *, newest_first: bool = False, limit: int | None = None
) -> Iterator[Record]:
    """Reads the operations that the filters choose.

    Raises:
        Misused: No operation can be so old and so new.
    """
    if given.older_than and given.newer_than and given.older_than >= given.newer_than:
        raise Misused("nothing is older than --older-than and newer than --newer-than: the first is the shorter time")
    at = now()
    return operations(
        store,
        state=given.state and State(given.state),
        method=given.method,
        since=given.newer_than and at - given.newer_than,
        until=given.older_than and at - given.older_than,
        stuck=given.stuck,
        newest_first=newest_first,
        limit=limit,
    )
