"""``grpc-idempotency``, or ``python -m grpc_idempotency``: lists, shows and resolves operations (6.4)."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from grpc_idempotency._checks import LONGEST
from grpc_idempotency.errors import IdempotencyError, InvalidOutcome, NotHeld, PolicyError
from grpc_idempotency.operating import TTL, completed, framed, never_happened, open_store, operation, operations, schema
from grpc_idempotency.records import Code, Outcome, Record, State, Step
from grpc_idempotency.store import OperatorStore

STORE_HELP = "its URL: sqlite:///FILE in this folder, sqlite:////FOLDER/FILE, postgresql://HOST/DATABASE, redis://HOST"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The command line without the program's name; ``None``: that of the process.

    Returns:
        The exit code: 0 on success, 1 on failure, 2 for a wrong command line.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    if arguments[:1] == ["check"]:  # which has options, and needs packages, of its own
        return _check(arguments[1:])
    given = _parser().parse_args(arguments)
    try:
        if given.run is None:
            sys.stdout.write(schema(given.store, since=given.since))
        else:
            with open_store(given.store, read_only=given.run is not _resolve) as store:
                given.run(store, given)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except PolicyError as exc:
        return _told(exc, 2)
    except (IdempotencyError, OSError) as exc:
        return _told(exc, 1)
    return 0


def _check(arguments: Sequence[str]) -> int:
    try:
        from grpc_idempotency.check._command import main as check
    except ModuleNotFoundError as error:
        if error.name not in ("grpc_reflection", "rich", "tomli"):
            raise
        return _told(ImportError(f"check needs {error.name}: pip install 'grpc-idempotency[check]'"), 2)
    return check(arguments)


def _told(error: Exception, code: int) -> int:
    print(f"grpc-idempotency: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    placed = argparse.ArgumentParser(add_help=False)
    placed.add_argument("store", metavar="STORE", help=STORE_HELP)
    common = argparse.ArgumentParser(add_help=False, parents=[placed])
    common.add_argument("--json", action="store_true", help="print one JSON object per line")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("name", metavar="OPERATION", help="its name in hex, or a unique prefix of it")

    parser = argparse.ArgumentParser(prog="grpc-idempotency", description="Lists and resolves operations.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", parents=[common], help="all operations, oldest first")
    listing.add_argument("--state", choices=[state.value for state in State], help="only operations in this state")
    listing.add_argument("--method", metavar="NAME", help="/package.Service/Method, or a glob of that form")
    listing.set_defaults(run=_list)

    showing = commands.add_parser("show", parents=[common, named], help="one operation, and its steps")
    showing.add_argument("--body", action="store_true", help="also its message, trailers and results of steps, in hex")
    showing.set_defaults(run=_show)

    resolving = commands.add_parser("resolve", parents=[common, named], help="say what became of a held operation")
    outcome = resolving.add_mutually_exclusive_group(required=True)
    outcome.add_argument("--never-happened", action="store_true", help="it had no effect: the next retry runs it")
    outcome.add_argument("--completed", action="store_true", help="it took effect: retries get this outcome")
    resolving.add_argument(
        "--status", default="OK", choices=[code.name for code in Code], metavar="CODE", help="its status code (OK)"
    )
    resolving.add_argument("--details", default="", metavar="TEXT", help="the status message")
    resolving.add_argument(
        "--message-file",
        action="append",
        default=[],
        metavar="FILE",
        help="the serialized response, - for standard input; if the method answers with a stream, once for each "
        "message; without it a retry learns only that the operation succeeded",
    )
    resolving.add_argument(
        "--stream",
        action="store_true",
        help="its response is a stream of exactly the messages of --message-file, which may be none",
    )
    resolving.add_argument("--ttl", type=_seconds, default=TTL, metavar="SECONDS", help="how long it is kept (86400)")
    resolving.add_argument("--fence", metavar="HEX", help="as shown: fail if it was claimed again since")
    resolving.set_defaults(run=_resolve, error=resolving.error)

    printing = commands.add_parser("schema", parents=[placed], help="print the SQL that creates its tables")
    printing.add_argument(
        "--since", type=int, default=0, metavar="VERSION", help="the version of the tables that exist (0: none)"
    )
    printing.set_defaults(run=None)
    commands.add_parser("check", help="tell of any gRPC server whether a method is safe to retry")
    return parser


def _seconds(value: str) -> timedelta:
    most = int(LONGEST.total_seconds())
    if not (value.isdecimal() and len(value) <= len(str(most)) and 0 < int(value) <= most):
        raise argparse.ArgumentTypeError(f"must be whole seconds, from 1 to {most}")
    return timedelta(seconds=int(value))


# The commands


def _list(store: OperatorStore, given: argparse.Namespace) -> None:
    for record in operations(store, state=given.state and State(given.state), method=given.method):
        if given.json:
            print(json.dumps(_values(record)))
        else:
            print(record.name.hex(), f"{record.state.value:9}", _time(record.created_at), record.method, _why(record))


def _show(store: OperatorStore, given: argparse.Namespace) -> None:
    record = operation(store, given.name)
    values = _values(record) | {"fence": record.fence.hex()}
    if given.body and record.outcome is not None:
        message = record.outcome.message
        values["message"] = None if message is None else message.hex()
        values["trailers"] = [[name, _text(value)] for name, value in record.outcome.trailers]
    if given.body and record.failure is not None:
        values["failure_trailers"] = [[name, _text(value)] for name, value in record.failure.trailers]
    values["steps"] = [_step(step, given.body) for step in store.steps(record.name)]
    _print(values, given.json)


def _resolve(store: OperatorStore, given: argparse.Namespace) -> None:
    status = Code[given.status]
    if given.never_happened and (status is not Code.OK or given.details or given.message_file or given.stream):
        given.error("an operation that never happened has no outcome")
    record = operation(store, given.name)
    if given.fence is not None and given.fence.lower() != record.fence.hex():
        raise NotHeld(f"operation {record.name.hex()} was claimed again, and was left as it is: show it again")
    if given.never_happened:
        never_happened(store, record)
        _print({"operation": record.name.hex(), "resolved": "never happened"}, given.json)
        return
    message = _message(record, [_read(file) for file in given.message_file], given.stream)
    completed(store, record, Outcome(status=status, message=message, details=given.details), given.ttl)
    _print({"operation": record.name.hex(), "resolved": "completed", "status": status.name}, given.json)


def _message(record: Record, messages: Sequence[bytes], streams: bool) -> bytes | None:
    """Returns the message of an outcome: the one response, a stream's messages framed, or ``None``."""
    if record.streams:
        return framed(messages) if messages or streams else None
    if streams or len(messages) > 1:
        raise InvalidOutcome(f"{record.method} answers with one message, not with a stream of them")
    return next(iter(messages), None)


def _read(file: str) -> bytes:
    return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()


# What is printed


def _values(record: Record) -> dict[str, Any]:
    """Returns what is printed of an operation, without its bodies."""
    values: dict[str, Any] = {
        "operation": record.name.hex(),
        "state": record.state.value,
        "method": record.method,
        "effects": record.effects.value,
        "attempts": record.attempts,
        "failed_runs": record.failed_runs,
        "failed_undos": record.failed_undos,
        "created": _time(record.created_at),
    }
    if record.owner:
        values["owner"] = record.owner
    if record.state in (State.RUNNING, State.UNDOING, State.WAITING):
        values["lapsed"] = record.lapsed
    if record.reason:
        values["reason"] = record.reason
    if record.completed_at is not None and record.expires_at is not None:
        values |= {"completed": _time(record.completed_at), "expires": _time(record.expires_at)}
    if record.outcome is not None:
        message = record.outcome.message
        values |= {"status": record.outcome.status.name, "details": record.outcome.details}
        values["message_bytes"] = None if message is None else len(message)
    if record.failure is not None:
        values |= {"failure": record.failure.status.name, "failure_details": record.failure.details}
    return values


def _step(step: Step, body: bool) -> dict[str, Any]:
    values: dict[str, Any] = {"step": step.name, "undoable": step.undoable}
    if step.recorded_at is not None:
        values["recorded"] = _time(step.recorded_at)
    return values | {"result": step.result.hex()} if body else values


def _print(values: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        if isinstance(value, list):
            for one in value:
                print(f"{name.removesuffix('s')}:", *(_plain(part) for part in _parts(one)))
        else:
            print(f"{name}:", _plain(value))


def _parts(value: Any) -> list[Any]:
    """Returns the words that make up the line of a step or a trailer."""
    if not isinstance(value, dict):
        return list(value)
    more = [value[name] for name in ("recorded", "result") if name in value]
    return [value["step"], *(["undoable"] * value["undoable"]), *more]


def _plain(value: Any) -> str:
    """Returns a value as text on one line. Control characters are escaped, since details and names come from others."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def _why(record: Record) -> str:
    """Returns the most important fact about an operation's state."""
    if record.outcome is not None:
        return record.outcome.status.name
    if record.state in (State.RUNNING, State.UNDOING) and record.lapsed:
        return "its server is gone"
    if record.state is not State.HELD and record.failure is not None:
        return f"failed with {record.failure.status.name}"
    return _plain(record.reason)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.hex()


def _time(value: datetime) -> str:
    return value.isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
