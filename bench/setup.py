"""The setup of a server, which the parent process passes on its command line."""

import json
from dataclasses import asdict, dataclass, field
from typing import Literal
from urllib.parse import quote

from bench.cases import Kind, Role, Service, StoreName

Synchronous = Literal["NORMAL", "FULL", "EXTRA"]
REPLY_OF_200 = 197
"""The characters of a reply whose message has 200 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The settings that both servers of a pair share, which the command line can change."""

    synchronous: Synchronous = "FULL"
    uvloop: bool = False
    """True if servers on ``grpc.aio`` run on uvloop."""
    gc_threshold: int | None = None
    """The first threshold of the garbage collector; ``None``: Python's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The setup of one server."""

    name: str
    """The name of the server in messages."""
    kind: Kind
    role: Role
    service: Service
    database: str
    """The place that the engine made: the path of a file for SQLite, the URL of a store for others."""
    store: StoreName = "sqlite"
    tuning: Tuning = field(default_factory=Tuning)
    observed: bool = False
    """True if the interceptor has all observers: metrics, exported in both ways, and traces."""
    reply_length: int = 8
    """The number of characters of the echo's reply."""
    ttl: float | None = None
    """How many seconds an outcome is kept; ``None``: the library's default."""
    sweep_every: float | None = None
    """Seconds between two sweeps; ``None``: no sweeps."""

    @property
    def url(self) -> str:
        """The URL of the store."""
        if self.store == "sqlite":
            return f"sqlite:///{quote(self.database)}?synchronous={self.tuning.synchronous}"
        return self.database

    def as_argument(self) -> str:
        """Returns the setup as text."""
        return json.dumps(asdict(self))

    @classmethod
    def of_argument(cls, argument: str) -> "Setup":
        """Makes a setup from the output of :meth:`as_argument`."""
        values = json.loads(argument)
        return cls(**{**values, "tuning": Tuning(**values["tuning"])})
