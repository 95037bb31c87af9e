"""Requests of a store to its engine, in addition to the calls of the contract."""

from dataclasses import dataclass, field

from grpc_idempotency.stores._calls.requests import Request


@dataclass(slots=True, eq=False, repr=False)
class Prepare(Request[None]):
    """Connects, and creates or migrates the tables."""


@dataclass(slots=True, eq=False, repr=False)
class Flush(Request[None]):
    """A request that is answered when all writes before it are done."""

    value: None = field(default=None, init=False)
