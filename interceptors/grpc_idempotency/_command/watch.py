"""``watch``: follows the operations that are open."""

import argparse
import sys
import time
from collections import Counter
from contextlib import suppress

from grpc_idempotency._command import ls, stores, values
from grpc_idempotency._command.output import STYLES, Cell, Output
from grpc_idempotency._command.text import instant, iso, now, plain, seconds
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.operating import operations
from grpc_idempotency.operator_store import OperatorStore
from grpc_idempotency.records import Record, State

SUMMARY = "follow the operations that are open, until Ctrl-C"
EXAMPLES: tuple[tuple[str, str], ...] = (
    ("on a terminal: a table that is drawn anew", "grpc-idempotency watch sqlite:///orders.db"),
    ("through a pipe: a line for each change", "grpc-idempotency watch sqlite:///orders.db --stuck --json | jq -c ."),
)

_OPEN = (State.HELD, State.UNDOING, State.WAITING, State.RUNNING)
"""In the order of the table: what needs an operator first."""
_MOST = 1000
"""The newest operations of each state that are followed."""
_AROUND = 5
"""Lines of the terminal that the table does not get."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    stores.add_argument(parser)
    parser.add_argument("--method", metavar="NAME", help="only of /package.Service/Method, or of a glob of that form")
    parser.add_argument("--stuck", action="store_true", help="only those that are held, or whose lease has run out")
    parser.add_argument("--every", type=seconds, default=2.0, metavar="SECONDS", help="how often to look (2)")
    parser.add_argument("--once", action="store_true", help="print what is open now, and end")


def run(given: argparse.Namespace, output: Output) -> None:
    """Runs the command."""
    with stores.opened(given, read_only=True) as store, suppress(KeyboardInterrupt):
        look = (_Table if output.terminal and not output.as_json else _Changes)(store, given, output)
        while True:
            try:
                look()
            except StoreUnavailable as exc:
                if given.once:
                    raise
                print(f"grpc-idempotency: {plain(exc)}", file=sys.stderr)
            if given.once:
                return
            time.sleep(given.every)


class _Table:
    """Draws a table of what is open, as much of it as the terminal has room for."""

    def __init__(self, store: OperatorStore, given: argparse.Namespace, output: Output) -> None:
        self._store, self._given, self._output = store, given, output

    def __call__(self) -> None:
        output = self._output
        found = _open(self._store, self._given)
        numbers = Counter(record.state for record in found)
        if not self._given.once:
            output.clear()
        told = [Cell(f"{numbers[state]} {state.value}", STYLES[state] if numbers[state] else "dim") for state in _OPEN]
        output.line(instant(now()), *told)
        shown = found if self._given.once else found[: max(1, output.height - _AROUND)]
        if shown:
            output.line("")
            output.table(ls.HEADER, ls.rows(shown, output))
        if len(shown) < len(found):
            output.line(f"and {len(found) - len(shown)} more")


class _Changes:
    """Prints a line for each operation that became open, changed, or is open no more, since the last look.

    An operation that is open for less time than lies between two looks is not seen.
    """

    def __init__(self, store: OperatorStore, given: argparse.Namespace, output: Output) -> None:
        self._store, self._given, self._output = store, given, output
        self._seen: dict[bytes, Record] = {}

    def __call__(self) -> None:
        found = {record.name: record for record in _open(self._store, self._given)}
        for name, record in found.items():
            before = self._seen.get(name)
            if before is None or _mark(before) != _mark(record):
                self._tell(record)
        for name in self._seen.keys() - found.keys():
            gone = self._store.get(name)
            if gone is None:
                self._tell_absent(self._seen[name])
            else:
                self._tell(gone)
        self._seen = found

    def _tell(self, record: Record) -> None:
        if self._output.as_json:
            self._output.json({"at": iso(now())} | values.of_record(record))
        else:
            state = Cell(record.state.value, STYLES[record.state])
            self._output.line(instant(now()), state, record.name.hex(), record.method, values.why(record))

    def _tell_absent(self, record: Record) -> None:
        name = record.name.hex()
        if self._output.as_json:
            self._output.json({"at": iso(now()), "operation": name, "state": "absent", "method": record.method})
        else:
            self._output.line(instant(now()), "absent", name, record.method)


def _open(store: OperatorStore, given: argparse.Namespace) -> list[Record]:
    return [
        record
        for state in _OPEN
        for record in operations(
            store, state=state, method=given.method, stuck=given.stuck, newest_first=True, limit=_MOST
        )
    ]


def _mark(record: Record) -> tuple[object, ...]:
    return record.fence, record.state, record.lapsed
