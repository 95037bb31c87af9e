"""The shop's settings, from environment variables (9.3)."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from grpc_idempotency import PolicyError
from grpc_idempotency.aio import store_from_url
from shop.database import Transactions, engine_of

_HOST_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+(?:%\w+)?\]|[^:\s/\[\]]+):(?P<port>[0-9]{1,5})\Z")
_LARGEST_PORT = 65535
_USER = re.compile(r"(?<=:)//[^/]*@")
_NUMBER = re.compile(r"[0-9]{1,12}\Z")
_LONGEST_TTL = 10 * 365 * 24 * 3600
_LONGEST_LEASE = 3600
_MOST_WORKERS = 64
_NAMES = (
    "SHOP_LISTEN",
    "SHOP_STORE",
    "SHOP_DATABASE",
    "SHOP_TTL",
    "SHOP_LEASE",
    "SHOP_SERVICES",
    "SHOP_USERS",
    "SHOP_WORKERS",
)

SERVICES = frozenset({"orders", "users"})


class BadSetting(ValueError):
    """An environment variable has a value that can't be used. Means a mistake of the person who starts the server.

    The message is one line. It repeats no part of a URL, which may contain a password.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a shop is served."""

    host: str = "127.0.0.1"
    port: int = 50051
    """0 takes any free port."""
    store: str = "sqlite:///data/shop.db"
    """The URL of the store of the operations and, if it has transactions, of the shop's own rows."""
    database: str | None = None
    """The URL of the store whose database has the shop's rows; ``None``: that of the operations."""
    ttl: timedelta = timedelta(hours=24)
    """How long an outcome is kept."""
    lease: timedelta = timedelta(seconds=15)
    """How long a server may be silent before another one finishes its operations."""
    services: frozenset[str] = SERVICES
    """The services to serve."""
    users: str | None = None
    """HOST:PORT of the user service, which checkouts call. ``None``: this server itself."""
    workers: int = 1
    """How many processes serve the port."""
    shares_port: bool = False
    """``True`` if other processes listen on the port, too."""

    def described(self) -> str:
        """Returns the settings that matter to a person at the start, without passwords, on one line."""
        stores = f"operations and rows in {_public(self.store)}"
        if self.database is not None:
            stores = f"operations in {_public(self.store)}; rows in {_public(self.database)}"
        users = f"; users at {self.users}" if self.users else ""
        return f"services {', '.join(sorted(self.services))}{users}; {stores}"


def from_environment(environment: Mapping[str, str]) -> Config:
    """Reads the settings from environment variables. An empty variable counts as not set.

    Raises:
        BadSetting: A variable has a value that can't be used.
    """
    usual = Config()
    listen, store, database, ttl, lease, services, users, workers = (environment.get(name, "") for name in _NAMES)
    host, port = _address("SHOP_LISTEN", listen) if listen else (usual.host, usual.port)
    config = Config(
        host=host,
        port=port,
        store=store or usual.store,
        database=database or None,
        ttl=_seconds("SHOP_TTL", ttl, _LONGEST_TTL) if ttl else usual.ttl,
        lease=_seconds("SHOP_LEASE", lease, _LONGEST_LEASE) if lease else usual.lease,
        services=_services(services) if services else usual.services,
        users="{}:{}".format(*_address("SHOP_USERS", users)) if users else None,
        workers=_workers(workers) if workers else usual.workers,
    )
    if config.users is None and "users" not in config.services:
        raise BadSetting(
            "SHOP_USERS must say where the user service is, as HOST:PORT: SHOP_SERVICES leaves it out here."
        )
    _check_stores(config)
    return config


def _address(name: str, value: str) -> tuple[str, int]:
    match = _HOST_PORT.match(value)
    if not match or int(match["port"]) > _LARGEST_PORT:
        anywhere = ", port 0 for any" if name == "SHOP_LISTEN" else ""
        raise BadSetting(f"{name} must be HOST:PORT, as 127.0.0.1:50051{anywhere}; not {_shown(value)}.")
    return match["host"], int(match["port"])


def _services(value: str) -> frozenset[str]:
    services = frozenset(name.strip() for name in value.split(","))
    if not services <= SERVICES:
        raise BadSetting(f"SHOP_SERVICES must be users, orders, or users,orders; not {_shown(value)}.")
    return services


def _workers(value: str) -> int:
    if not _NUMBER.match(value) or not 1 <= int(value) <= _MOST_WORKERS:
        raise BadSetting(f"SHOP_WORKERS must be a number of processes, 1 to {_MOST_WORKERS}, not {_shown(value)}.")
    if int(value) > 1 and not hasattr(socket, "SO_REUSEPORT"):
        raise BadSetting("SHOP_WORKERS must be 1 on this system: several processes can't serve one port here.")
    return int(value)


def _check_stores(config: Config) -> None:
    if config.workers > 1 and config.store.partition(":")[0].lower() == "memory":
        raise BadSetting(
            "SHOP_STORE can't be memory: with several SHOP_WORKERS. Each would keep operations of its own."
        )
    keeps_rows = _keeps_rows("SHOP_STORE", config.store)
    if config.database is None:
        if not keeps_rows:
            raise BadSetting(
                "SHOP_DATABASE must say where the shop's rows are, as sqlite:///FILE or postgresql://HOST/DATABASE: "
                "the store of SHOP_STORE can't keep them."
            )
    elif keeps_rows:
        raise BadSetting(
            "SHOP_DATABASE is for a store that can't keep the shop's rows, such as redis://: here they are in the "
            "database of SHOP_STORE."
        )
    elif not _keeps_rows("SHOP_DATABASE", config.database):
        raise BadSetting("SHOP_DATABASE must be sqlite:///FILE or postgresql://HOST/DATABASE.")


def _keeps_rows(name: str, url: str) -> bool:
    """Returns ``True`` if the store can keep the shop's rows, too."""
    try:
        store = store_from_url(url)
    except PolicyError as error:
        raise BadSetting(f"{name}: {error}.") from error
    return isinstance(store, Transactions) and engine_of(url) is not None


def _seconds(name: str, value: str, most: int) -> timedelta:
    if not _NUMBER.match(value) or not 1 <= int(value) <= most:
        years = " (ten years)" if most == _LONGEST_TTL else ""
        raise BadSetting(f"{name} must be whole seconds, 1 to {most}{years}, not {_shown(value)}.")
    return timedelta(seconds=int(value))


def _public(url: str) -> str:
    """Returns a URL without its user, its password and its options."""
    return ascii(_USER.sub("//", url.partition("?")[0]))[1:-1]


def _shown(value: str) -> str:
    """Returns a value as text that fits on a line."""
    return ascii(value if len(value) <= 40 else f"{value[:40]}...")
