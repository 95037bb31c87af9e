"""What is measured: cases, each a pair of servers under the same load, and the target of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["aio", "sync"]
"""``grpc.aio.server`` or ``grpc.server``."""
Role = Literal["bare", "guard", "ours"]
"""A server without a guard, with the hand-written one of ``guard.py``, or with the interceptor."""
Service = Literal["echo", "order"]
Keys = Literal["none", "unique", "hot", "cold"]
"""No key; a new one for each call; keys whose outcome is stored, again and again; the same, each once, by a server that
was started after they were stored."""

CALLERS = (1, 16, 64)
KINDS: Mapping[Kind, str] = MappingProxyType({"aio": "grpc.aio", "sync": "grpc.server"})
ROLES: Mapping[Role, str] = MappingProxyType({"bare": "bare", "guard": "by hand", "ours": "ours, untuned"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Two servers that differ in one thing, and the calls that both get."""

    name: str
    title: str
    kind: Kind
    service: Service
    reference: Role
    """The server that the interceptor is compared with."""
    keys: Keys
    status: str | None
    """The ``idempotency-status`` that every reply of the server with the interceptor must have."""
    targets: Mapping[int, float]
    """The least ratio that is aimed at, by the number of callers. A number that is missing has no target."""


def _everywhere(target: float) -> Mapping[int, float]:
    return dict.fromkeys(CALLERS, target)


def _cases(
    name: str,
    title: str,
    targets: Mapping[Kind, Mapping[int, float]],
    *,
    keys: Keys,
    status: str | None,
    service: Service = "echo",
    reference: Role = "bare",
) -> tuple[Case, ...]:
    """One case for each kind of server that is named in ``targets``."""
    return tuple(
        Case(
            name=f"{name}-{kind}",
            title=title,
            kind=kind,
            service=service,
            reference=reference,
            keys=keys,
            status=status,
            targets=MappingProxyType(dict(of_kind)),
        )
        for kind, of_kind in targets.items()
    )


CASES: tuple[Case, ...] = (
    *_cases(
        "unkeyed",
        "un-keyed call",
        {"aio": _everywhere(0.97), "sync": _everywhere(0.97)},
        keys="none",
        status=None,
    ),
    *_cases(
        "first",
        "first call",
        {"aio": {64: 0.65}, "sync": {64: 0.50}},
        keys="unique",
        status="executed",
    ),
    *_cases(
        "peer",
        "first call, against the guard by hand",
        {"aio": {1: 1.1}},
        keys="unique",
        status="executed",
        reference="guard",
    ),
    *_cases(
        "replay",
        "hot replay",
        {"aio": _everywhere(0.95), "sync": _everywhere(0.90)},
        keys="hot",
        status="replayed",
    ),
    *_cases(
        "file",
        "replay from the file",
        {"aio": _everywhere(0.80), "sync": _everywhere(0.80)},
        keys="cold",
        status="replayed",
    ),
    *_cases(
        "order",
        "CreateOrder in a transaction",
        {"aio": {64: 1.8, 1: 0.85}, "sync": {64: 1.0}},
        keys="unique",
        status="executed",
        service="order",
    ),
)
