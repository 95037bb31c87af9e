"""How a server to measure is set up: what the parent process tells it on its command line."""

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

from bench.cases import Kind, Role, Service

Synchronous = Literal["NORMAL", "FULL", "EXTRA"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What both servers of a pair have in common, and what a person may want to vary."""

    synchronous: Synchronous = "FULL"
    uvloop: bool = False
    """Whether servers on ``grpc.aio`` run on uvloop."""
    gc_threshold: int | None = None
    """The first threshold of the garbage collector; ``None``: Python's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One server."""

    kind: Kind
    role: Role
    service: Service
    database: str
    tuning: Tuning = field(default_factory=Tuning)
    reply_length: int = 8
    """How many characters the echo's reply has."""
    ttl: float | None = None
    """Seconds that an outcome is kept; ``None``: the library's default."""
    sweep_every: float | None = None
    """Seconds between two sweeps; ``None``: no sweeps."""

    def as_argument(self) -> str:
        """The same as text."""
        return json.dumps(asdict(self))

    @classmethod
    def of_argument(cls, argument: str) -> "Setup":
        """Reads what :meth:`as_argument` wrote."""
        values = json.loads(argument)
        return cls(**{**values, "tuning": Tuning(**values["tuning"])})
