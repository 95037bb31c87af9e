"""The bodies of operations: responses, trailers and results of steps. They are confidential, so only on demand."""

import argparse
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from grpc_idempotency._command import types
from grpc_idempotency._command.failures import Misused
from grpc_idempotency._operation import values as results
from grpc_idempotency._wire.framing import unframe
from grpc_idempotency.records import Outcome, Record, Step, Trailers


class Reader:
    """Adds bodies to JSON objects.

    Args:
        wanted: False if no body is to be read.
        known: The message types, or ``None``: messages are then base64.
    """

    def __init__(self, wanted: bool, known: types.Types | None) -> None:
        self._wanted = wanted
        self._types = known
        self._pool = DescriptorPool() if known is None else known.pool

    def of_record(self, record: Record) -> dict[str, Any]:
        """Returns the response and the trailers of an operation."""
        if not self._wanted:
            return {}
        return {
            "message": None if record.outcome is None else self._response(record, record.outcome),
            "trailers": None if record.outcome is None else _trailers(record.outcome.trailers),
            "failure_trailers": None if record.failure is None else _trailers(record.failure.trailers),
        }

    def of_step(self, step: Step) -> dict[str, Any]:
        """Returns the result of a step."""
        return {"result": self._result(step.result)} if self._wanted else {}

    def _response(self, record: Record, outcome: Outcome) -> Any:
        if outcome.message is None:
            return None
        if record.streams:
            return [self._message(record.method, message) for message in unframe(outcome.message)]
        return self._message(record.method, outcome.message)

    def _message(self, method: str, message: bytes) -> Any:
        return _unknown(message) if self._types is None else self._types.decoded(method, message)

    def _result(self, data: bytes) -> Any:
        try:
            result = results.decode(data, self._pool)
        except KeyError:  # a message of an unknown type
            return _unknown(data)
        if isinstance(result, Message):
            return types.as_json(result, self._pool)
        return _unknown(result) if isinstance(result, bytes) else result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options for bodies."""
    parser.add_argument(
        "--body",
        action="store_true",
        help="also responses, trailers and results of steps, which may be confidential; in base64 unless their types "
        "are known",
    )
    types.add_arguments(parser)


@contextmanager
def reader(given: argparse.Namespace) -> Iterator[Reader]:
    """Yields what reads the bodies that the command line asks for.

    Raises:
        Misused: It names types, but asks for no body.
    """
    with types.types_of(given) as known:
        if known is not None and not given.body:
            raise Misused("message types are of use with --body")
        yield Reader(given.body, known)


def _trailers(trailers: Trailers) -> list[list[str]]:
    return [[name, value if isinstance(value, str) else b64encode(value).decode()] for name, value in trailers]


def _unknown(data: bytes) -> dict[str, str]:
    return {"base64": b64encode(data).decode()}
