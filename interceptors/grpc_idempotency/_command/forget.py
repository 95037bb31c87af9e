"""``forget``: makes an operation absent, also a completed one."""

import argparse

from grpc_idempotency import operating
from grpc_idempotency._command import changes, names, stores
from grpc_idempotency._command.output import Output

SUMMARY = "forget one operation: the next call with its key runs the handler again"
EXAMPLES: tuple[tuple[str, str], ...] = (
    (
        "a completed key that its client shall use again",
        "grpc-idempotency forget --principal alice --method /shop.orders.v1.OrderService/CreateOrder --key order-1",
    ),
    ("from a script", "grpc-idempotency forget sqlite:///orders.db 5f0c6ba4 --reason 'ticket 4711' --yes"),
)

_WARNING = (
    "Whatever it did stays done, and the next call with its key does it again.",
    "A server that has its outcome in memory (replay_cache_bytes) replays it for a minute more at most.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    stores.add_argument(parser)
    names.add_arguments(parser)
    changes.add_arguments(parser)


def run(given: argparse.Namespace, output: Output) -> None:
    """Runs the command."""
    names.settle(given)
    changes.settle(given)
    with stores.opened(given, read_only=False) as store:
        record = names.found(store, given)
        changes.check_fence(given, record)
        operating.check_idle(record)
        author = changes.confirmed(store, record, given, question="Forget it?", more=_WARNING)
        operating.forget(store, record, by=author.by, reason=author.reason)
    name = record.name.hex()
    if output.as_json:
        output.json({"operation": name, "forgotten": record.state.value, **author._asdict()})
    else:
        output.line(name, "forgotten")
