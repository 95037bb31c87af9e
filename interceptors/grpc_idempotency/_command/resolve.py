"""``resolve``: says what became of a held operation."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from grpc_idempotency._command import changes, names, stores, types
from grpc_idempotency._command.failures import Misused
from grpc_idempotency._command.output import Output
from grpc_idempotency._command.text import duration
from grpc_idempotency.errors import InvalidOutcome
from grpc_idempotency.operating import TTL, check_held, completed, framed, never_happened
from grpc_idempotency.records import Code, Outcome, Record

SUMMARY = "say what became of a held operation"
EXAMPLES: tuple[tuple[str, str], ...] = (
    (
        "it had no effect: the next retry runs it",
        "grpc-idempotency resolve sqlite:///orders.db 5f0c6ba4 --never-happened",
    ),
    (
        "it took effect: retries get this response",
        'grpc-idempotency resolve sqlite:///orders.db 5f0c6ba4 --completed --message-json \'{"id": "order-7"}\' '
        "--module shop.orders.v1.orders_pb2",
    ),
    (
        "from a script",
        "grpc-idempotency resolve sqlite:///orders.db 5f0c6ba4 --completed --status NOT_FOUND "
        "--details 'no such customer' --reason 'ticket 4711' --yes",
    ),
)

_JSON, _FILE = "json", "file"
_WITHOUT = "There is no response: retries learn that the operation has ended, and are refused as RESPONSE_NOT_RETAINED."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    stores.add_argument(parser)
    names.add_arguments(parser)
    outcome = parser.add_mutually_exclusive_group(required=True)
    outcome.add_argument("--never-happened", action="store_true", help="it had no effect: the next retry runs it")
    outcome.add_argument("--completed", action="store_true", help="it took effect: retries get this outcome")
    given = parser.add_argument_group("the outcome, with --completed")
    given.add_argument(
        "--status",
        default=Code.OK.name,
        choices=[code.name for code in Code],
        help="its status code (OK)",
        metavar="CODE",
    )
    given.add_argument("--details", default="", metavar="TEXT", help="the status message")
    given.add_argument(
        "--message-json",
        dest="messages",
        action="append",
        default=[],
        metavar="JSON",
        type=lambda text: (_JSON, text),
        help="the response as protobuf's JSON, or @FILE with it; its type comes from the options for message types; if "
        "the method answers with a stream, once for each message; without a message a retry learns only that the "
        "operation succeeded",
    )
    given.add_argument(
        "--message-file",
        dest="messages",
        action="append",
        metavar="FILE",
        type=lambda file: (_FILE, file),
        help="the same, serialized; - for standard input",
    )
    given.add_argument(
        "--stream", action="store_true", help="the response is a stream of exactly these messages, which may be none"
    )
    given.add_argument(
        "--ttl", type=duration, default=TTL, metavar="TIME", help="how long it is kept, as 6h or 2d (1d)"
    )
    types.add_arguments(parser)
    changes.add_arguments(parser)


class _Message(NamedTuple):
    """A message of the outcome."""

    data: bytes
    shown: str
    """How the operator is shown it."""


def run(given: argparse.Namespace, output: Output) -> None:
    """Runs the command."""
    _settle(given)
    with stores.opened(given, read_only=False) as store:
        record = names.found(store, given)
        changes.check_fence(given, record)
        check_held(record)
        told = {"operation": record.name.hex()}
        if given.never_happened:
            author = changes.confirmed(store, record, given, question="Say that it never happened?")
            never_happened(store, record, by=author.by, reason=author.reason)
            told |= {"resolved": "never happened"}
        else:
            messages = _messages(record, given)
            outcome = Outcome(
                status=Code[given.status],
                message=_joined(record, [message.data for message in messages], given.stream),
                details=given.details,
            )
            shown = [
                f"outcome: {given.status} {given.details}".rstrip(),
                *(f"  {message.shown}" for message in messages),
                *([_WITHOUT] if outcome.message is None and (outcome.status is Code.OK or record.streams) else []),
            ]
            author = changes.confirmed(store, record, given, question="Complete it with this outcome?", more=shown)
            completed(store, record, outcome, given.ttl, by=author.by, reason=author.reason)
            told |= {"resolved": "completed", "status": given.status}
    if output.as_json:
        output.json(told | author._asdict())
    else:
        output.line(*told.values())


def _settle(given: argparse.Namespace) -> None:
    """Checks what the command line says of the outcome, before anything is read."""
    names.settle(given)
    has_outcome = given.status != Code.OK.name or given.details or given.messages or given.stream
    if given.never_happened and has_outcome:
        raise Misused("an operation that never happened has no outcome")
    changes.settle(given)


def _messages(record: Record, given: argparse.Namespace) -> list[_Message]:
    """Reads the messages, and checks them if their type is known."""
    with types.types_of(given) as known:
        return [_message(record, kind, value, known) for kind, value in given.messages]


def _message(record: Record, kind: str, value: str, known: types.Types | None) -> _Message:
    if kind == _FILE:
        data = sys.stdin.buffer.read() if value == "-" else Path(value).read_bytes()
    elif known is None:
        raise Misused("--message-json needs the type: give --descriptor-set, --reflection or --module")
    else:
        text = Path(value[1:]).read_bytes().decode(errors="replace") if value.startswith("@") else value
        data = known.encoded(record.method, text)
    shown = (
        f"{len(data)} bytes" if known is None else json.dumps(known.decoded(record.method, data), ensure_ascii=False)
    )
    return _Message(data, shown)


def _joined(record: Record, messages: Sequence[bytes], streams: bool) -> bytes | None:
    """Returns the message of an outcome: the one response, a stream's messages framed, or ``None``."""
    if record.streams:
        return framed(messages) if messages or streams else None
    if streams or len(messages) > 1:
        raise InvalidOutcome(f"{record.method} answers with one message, not with a stream of them")
    return next(iter(messages), None)
