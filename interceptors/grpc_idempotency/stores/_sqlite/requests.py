"""What a store asks of its file's writer beside the calls of the contract."""

from dataclasses import dataclass, field

from grpc_idempotency.stores._calls.requests import Request


@dataclass(slots=True, eq=False, repr=False)
class Prepare(Request[None]):
    """Creates, migrates or just checks the tables."""


@dataclass(slots=True, eq=False, repr=False)
class Flush(Request[None]):
    """Is answered when all that came before it is done."""

    value: None = field(default=None, init=False)
