"""``stats``: how many operations there are, by method and state."""

import argparse
from collections import defaultdict
from collections.abc import Mapping

from grpc_idempotency._command import stores
from grpc_idempotency._command.output import STYLES, Cell, Output
from grpc_idempotency.records import State

SUMMARY = "count operations by method and state"
EXAMPLES: tuple[tuple[str, str], ...] = (
    ("all of them", "grpc-idempotency stats sqlite:///orders.db"),
    ("without the completed ones, which take long to count in a large store", "grpc-idempotency stats --open"),
)

COLUMNS = (State.HELD, State.RUNNING, State.WAITING, State.UNDOING, State.COMPLETED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    stores.add_argument(parser)
    parser.add_argument("--open", action="store_true", help="leave completed operations out")


def run(given: argparse.Namespace, output: Output) -> None:
    """Runs the command."""
    with stores.opened(given, read_only=True) as store:
        found = store.count(completed=not given.open)
    tell(found, COLUMNS[:-1] if given.open else COLUMNS, output)


def tell(counted: Mapping[tuple[str, State], int], columns: tuple[State, ...], output: Output) -> None:
    """Prints the numbers, a line for each method."""
    by_method: dict[str, dict[State, int]] = defaultdict(dict)
    for (method, state), number in counted.items():
        by_method[method][state] = number
    if output.as_json:
        for method, numbers in sorted(by_method.items()):
            output.json({"method": method} | {state.value: numbers.get(state, 0) for state in columns})
        return
    total = {state: sum(numbers.get(state, 0) for numbers in by_method.values()) for state in columns}
    rows = [*sorted(by_method.items()), ("total", total)]
    output.table(
        ("METHOD", *(state.name for state in columns)),
        [(method, *(_number(numbers.get(state, 0), state) for state in columns)) for method, numbers in rows],
    )


def _number(number: int, state: State) -> Cell:
    return Cell(str(number), STYLES[state] if number else "dim")
