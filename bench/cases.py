"""The cases that are measured: each is a pair of servers under the same load, with a target."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["aio", "sync"]
"""``grpc.aio.server`` or ``grpc.server``."""
StoreName = Literal["sqlite", "postgresql", "redis", "memory"]
"""Where the servers keep operations."""
Role = Literal["bare", "guard", "sqlite", "unobserved", "pool", "ours"]
"""A server without a guard, with the hand-written guard of ``guard.py``, with the interceptor on SQLite, or with the
interceptor on the measured store. A server that is compared with an ``unobserved`` one has all observers. ``pool`` is
no server, but the store's statements, one per call, on a pool."""
Service = Literal["echo", "order", "store"]
"""What is called: a trivial method, CreateOrder, or a store by itself, without gRPC."""
Keys = Literal["none", "unique", "hot", "cold"]
"""No key; a new key for each call; stored keys, again and again; stored keys, each once, on a server that was started
after they were stored."""

CALLERS = (1, 16, 64)
STORES: tuple[StoreName, ...] = ("sqlite", "postgresql", "redis", "memory")
ENGINES: tuple[StoreName, ...] = ("postgresql", "redis")
KINDS: Mapping[Kind, str] = MappingProxyType({"aio": "grpc.aio", "sync": "grpc.server"})
ROLES: Mapping[Role, str] = MappingProxyType(
    {
        "bare": "bare",
        "guard": "by hand",
        "sqlite": "ours on SQLite",
        "unobserved": "ours without observers",
        "pool": "a statement per call",
        "ours": "ours, untuned",
    }
)


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
    targets: Mapping[StoreName, Mapping[int, float]]
    """The target: the smallest ratio to reach, by store and number of callers. A missing one has no target."""
    stores: tuple[StoreName, ...]
    """The stores with which the case is measured."""

    @property
    def in_one_process(self) -> bool:
        """True if both servers run in one process."""
        return self.reference == "unobserved"

    def target(self, store: StoreName, callers: int) -> float | None:
        """Returns the target on a store, if there is one."""
        return self.targets.get(store, {}).get(callers)


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
    of_engines: Mapping[int, float] = MappingProxyType({}),
) -> tuple[Case, ...]:
    """Makes one case for each kind of server in ``targets``, which are those on SQLite.

    On PostgreSQL and Valkey the targets of both kinds of servers are ``of_engines``.
    """
    return tuple(
        Case(
            name=f"{name}-{kind}",
            title=title,
            kind=kind,
            service=service,
            reference=reference,
            keys=keys,
            status=status,
            targets=MappingProxyType({"sqlite": of_kind, **dict.fromkeys(ENGINES, of_engines)}),
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
        stores=ENGINES,
    ),
    *_cases(
        "against-sqlite",
        "first call, against the same on SQLite",
        {"aio": {}, "sync": {}},
        keys="unique",
        status="executed",
        reference="sqlite",
        stores=ENGINES,
        of_engines={64: 0.85},
    ),
    *_cases(
        "observed",
        "first call, observed",
        {"aio": {}, "sync": {}},
        keys="unique",
        status="executed",
        reference="unobserved",
        stores=("sqlite",),
    ),
    *_cases(
        "observed-replay",
        "hot replay, observed",
        {"aio": {}, "sync": {}},
        keys="hot",
        status="replayed",
        reference="unobserved",
        stores=("sqlite",),
    ),
    *_cases(
        "order",
        "CreateOrder in a transaction",
        {"aio": {64: 1.8, 1: 0.85}, "sync": {64: 1.0}},
        keys="unique",
        status="executed",
        service="order",
        stores=("sqlite", "postgresql"),
        of_engines={64: 0.75},
    ),
    *_cases(
        "pairs",
        "claim and complete, store alone",
        {"aio": {}, "sync": {}},
        keys="unique",
        status=None,
        service="store",
        reference="pool",
        stores=("postgresql",),
        of_engines={64: 5.0},
    ),
)


def cases_on(store: StoreName) -> list[Case]:
    """Returns the cases of a store."""
    return [case for case in CASES if store in case.stores]
