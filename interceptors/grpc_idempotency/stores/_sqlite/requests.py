"""Requests of a store to its file's writer, in addition to the calls of the contract."""

from dataclasses import dataclass, field

from grpc_idempotency.stores._calls.requests import Request


@dataclass(slots=True, eq=False, repr=False)
class Prepare(Request[None]):
    """Creates or migrates the tables, or only checks them."""

    migrate: bool
    """True if tables that are missing or old are created or migrated, and not refused."""


@dataclass(slots=True, eq=False, repr=False)
class Flush(Request[None]):
    """A request that is answered when all requests before it are done."""

    value: None = field(default=None, init=False)
