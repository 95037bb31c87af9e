"""The three sources from which a run is checked: the clients' history, the databases, and the servers' audit."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash.engines import Engine, Stored
from crash.files import AUDIT, ENGINE, HISTORY, events

_STORED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE", "ABORTED"}
_ANSWERED = {"executed", "replayed", "attached"}


@dataclass
class Call:
    """A client's key, and all answers to it."""

    key: str
    method: str
    request: bytes
    began: float
    tries: int = 0
    final: list[dict[str, Any]] = field(default_factory=list)
    answered: float | None = None
    unknown: bool = False
    """True if the client was told that the outcome is unknown."""

    @property
    def ok(self) -> bool:
        return any(reply["code"] == "OK" for reply in self.final)

    @property
    def reply(self) -> bytes:
        return bytes.fromhex(next(reply["message"] for reply in self.final if reply["code"] == "OK"))


class Evidence:
    """The evidence that a run has left: the replies, the databases and the audit."""

    def __init__(self, folder: Path, lease: float, engine: Engine) -> None:
        self.lease: float = lease
        """The lease of the run's servers in seconds."""
        self.history: list[dict[str, Any]] = list(events(folder / HISTORY))
        self.audit: list[dict[str, Any]] = list(events(folder / AUDIT))
        self.orders: Database = Database(engine, "orders")
        self.users: Database = Database(engine, "users")
        self.calls: dict[str, Call] = _heard(self.history)
        self.falls: list[float] = [event["t"] for event in self.history if event.get("how") == ENGINE]
        """When the engine was killed."""
        self._ups: list[float] = [event["t"] for event in self.history if event["e"] in ("up", "pause")]

    def by(self, *methods: str) -> Iterator[Call]:
        """Returns the calls of these methods."""
        return (call for call in self.calls.values() if call.method in methods)

    def waited(self, call: Call) -> float | None:
        """Returns the seconds from a call, or the last start of servers, to its answer; ``None``: it has none."""
        if call.answered is None:
            return None
        return call.answered - max([call.began, *(up for up in self._ups if up < call.answered)])


class Database:
    """What the run has left behind of one service: its rows, and the records of its operations."""

    def __init__(self, engine: Engine, service: str) -> None:
        self._engine = engine
        self._service = service
        self.stored: list[Stored] = engine.stored(service)

    def rows(self, sql: str) -> list[Any]:
        """Returns the rows of a query."""
        return self._engine.rows(self._service, sql)


def _heard(history: list[dict[str, Any]]) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for event in history:
        match event["e"]:
            case "call":
                request = bytes.fromhex(event["request"])
                calls[event["key"]] = Call(event["key"], event["method"], request, event["t"])
            case "try":
                calls[event["key"]].tries += 1
            case "reply":
                call = calls[event["key"]]
                if event["mark"] in _ANSWERED and event["code"] in _STORED:
                    call.final.append(event)
                elif "OUTCOME_UNKNOWN" in str(event["trailers"].get("grpc-status-details-bin", "")) or (
                    event["mark"] == "refused" and event["code"] == "FAILED_PRECONDITION"
                ):
                    call.unknown = True
                else:
                    continue
                call.answered = call.answered or event["t"]
    return calls
