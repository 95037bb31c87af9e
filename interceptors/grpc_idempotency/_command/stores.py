"""The store of a command: its URL, and the calls that operators need."""

import argparse
import os
from contextlib import AbstractContextManager

from grpc_idempotency._command.failures import Misused
from grpc_idempotency.operating import open_store
from grpc_idempotency.operator_store import OperatorStore

VARIABLE = "GRPC_IDEMPOTENCY_STORE"
"""The environment variable with the URL of the store."""


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the store's URL."""
    parser.add_argument(
        "store",
        metavar="STORE",
        nargs="?",
        help=f"its URL: sqlite:///FILE in this folder, sqlite:////FOLDER/FILE, postgresql://HOST/DATABASE, "
        f"redis://HOST; without it, that in {VARIABLE}",
    )


def url_of(given: argparse.Namespace) -> str:
    """Returns the URL of the store that the command line or the environment names.

    Raises:
        Misused: Neither names one.
    """
    url = given.store or os.environ.get(VARIABLE)
    if not url:
        raise Misused(f"say which store: give its URL, or set {VARIABLE}")
    return str(url)


def opened(given: argparse.Namespace, *, read_only: bool) -> AbstractContextManager[OperatorStore]:
    """Opens the store of a command until the end of the ``with`` block."""
    return open_store(url_of(given), read_only=read_only)
