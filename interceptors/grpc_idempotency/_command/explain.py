"""``explain``: tells what a refusal means, from its status details or its reason."""

import argparse
import binascii
import re
import sys
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from grpc_idempotency._command.failures import Failed
from grpc_idempotency._command.output import Cell, Output
from grpc_idempotency._command.reasons import EXPLANATIONS
from grpc_idempotency._protocol.refusals import DOMAIN, Reason
from grpc_idempotency._wire.trailers import STATUS_DETAILS
from grpc_idempotency.records import Code

SUMMARY = "tell what a refusal means and what to do, from its details or its reason"
EXAMPLES: tuple[tuple[str, str], ...] = (
    ("the value of grpc-status-details-bin", 'grpc-idempotency explain "$DETAILS"'),
    ("the trailers in the output of another tool", "buf curl -v ... 2>&1 | grpc-idempotency explain"),
    ("a reason, as in metrics and logs", "grpc-idempotency explain OUTCOME_UNKNOWN"),
)

_TRAILER = re.compile(rf"{STATUS_DETAILS}\W{{1,6}}([A-Za-z0-9+/_-]+=*)", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "refusal",
        metavar="DETAILS",
        nargs="?",
        help=f"{STATUS_DETAILS} in base64, trailers that contain it, or the name of a reason; else standard input",
    )


def run(given: argparse.Namespace, output: Output) -> None:
    """Runs the command."""
    text = (_read() if given.refusal in (None, "-") else given.refusal).strip()
    told = _of_reason(Reason[text]) if text in Reason.__members__ else _of_status(_parsed(text))
    if output.as_json:
        output.json(told)
    else:
        _tell(told, output)


def _read() -> str:
    if sys.stdin.isatty():
        print("Paste the details or the trailers, then press Ctrl-D.", file=sys.stderr)
    return sys.stdin.read()


def _parsed(text: str) -> status_pb2.Status:
    """Reads status details from base64, padded or not, in either alphabet, alone or among trailers."""
    match = _TRAILER.search(text)
    encoded = "".join((match[1] if match else text).split()).rstrip("=").replace("+", "-").replace("/", "_")
    try:
        if not encoded or not encoded.isascii():
            raise ValueError("no base64")
        status = status_pb2.Status.FromString(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (binascii.Error, DecodeError, ValueError):
        reasons = ", ".join(Reason.__members__)
        raise Failed(f"this is neither {STATUS_DETAILS} in base64, nor one of the reasons {reasons}") from None
    return status


def _of_reason(reason: Reason) -> dict[str, Any]:
    return {"reason": reason.name, "status": reason.status.name} | EXPLANATIONS[reason]._asdict()


def _of_status(status: status_pb2.Status) -> dict[str, Any]:
    reason, variables, retry = None, {}, None
    for detail in status.details:
        info, delay = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason, variables = info.reason, dict(info.metadata)
        elif detail.Unpack(delay):
            retry = delay.retry_delay.ToTimedelta()
    if reason is None:
        raise Failed(f"this is no refusal of {DOMAIN}; it says {_code(status.code)}: {status.message}")
    if reason not in Reason.__members__:
        raise Failed(f"{reason} is a reason that only a newer version of {DOMAIN} knows; it says: {status.message}")
    return _of_reason(Reason[reason]) | {
        "message": status.message,
        "variables": variables,
        "retry_after": None if retry is None else retry / timedelta(seconds=1),
    }


def _code(number: int) -> str:
    return next((code.name for code in Code if code == number), f"the status {number}")


def _tell(told: dict[str, Any], output: Output) -> None:
    for label, text in _lines(told):
        output.line(Cell(f"{label:14}", "dim"), text)


def _lines(told: dict[str, Any]) -> Iterator[tuple[str, Cell | str]]:
    yield "reason", Cell(told["reason"], "bold")
    yield "status", told["status"]
    if "message" in told:
        yield "message", told["message"]
    for name, value in sorted(told.get("variables", {}).items()):
        yield f"  {name}", value
    if told.get("retry_after") is not None:
        yield "retry after", f"{told['retry_after']:g} s"
    yield "meaning", told["meaning"]
    yield "the client", told["client"]
    yield "the operator", told["operator"]
