"""The cases that are measured: each is a pair of servers under the same load, with a target."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

Kind = Literal["aio", "sync"]
"""``grpc.aio.server`` or ``grpc.server``."""
StoreName = Literal["sqlite", "postgresql", "redis", "memory"]
"""Where the servers keep operations."""
Role = Literal["bare", "guard", "ours"]
"""A server without a guard, with the hand-written guard of ``guard.py``, or with the interceptor."""
Service = Literal["echo", "order"]
Keys = Literal["none", "unique", "hot", "cold"]
"""No key; a new key for each call; stored keys, again and again; stored keys, each once, on a server that was started
after they were stored."""

CALLERS = (1, 16, 64)
STORES: tuple[StoreName, ...] = ("sqlite", "postgresql", "redis", "memory")
KINDS: Mapping[Kind, str] = MappingProxyType({"aio": "grpc.aio", "sync": "grpc.server"})
ROLES: Mapping[Role, str] = MappingProxyType({"bare": "bare", "guard": "by hand", "ours": "ours, untuned"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Two servers that differ in one property, and the calls to both."""

    name: str
    title: str
    kind: Kind
    service: Service
    reference: Role
    """The server with which the interceptor is compared."""
    keys: Keys
    status: str | None
    """The ``idempotency-status`` that every reply of the server with the interceptor must have."""
    targets: Mapping[int, float]
    """The target: the smallest ratio to reach, by the number of callers. A missing number has no target."""
    stores: tuple[StoreName, ...]
    """The stores with which the case is measured."""


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
    stores: tuple[StoreName, ...] = STORES,
) -> tuple[Case, ...]:
    """Makes one case for each kind of server in ``targets``."""
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
            stores=stores,
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
        stores=("sqlite",),
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
        stores=("sqlite",),
    ),
    *_cases(
        "store",
        "replay from the store",
        {"aio": {}, "sync": {}},
        keys="cold",
        status="replayed",
        stores=("postgresql", "redis"),
    ),
    *_cases(
        "order",
        "CreateOrder in a transaction",
        {"aio": {64: 1.8, 1: 0.85}, "sync": {64: 1.0}},
        keys="unique",
        status="executed",
        service="order",
        stores=("sqlite", "postgresql"),
    ),
)


def cases_on(store: StoreName) -> list[Case]:
    """Returns the cases of a store. The targets are SQLite's: the cases of other stores have none."""
    cases = [case for case in CASES if store in case.stores]
    return cases if store == "sqlite" else [replace(case, targets=MappingProxyType({})) for case in cases]
