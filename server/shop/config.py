"""The shop's settings, from environment variables (9.3)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

_HOST_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+(?:%\w+)?\]|[^:\s/\[\]]+):(?P<port>[0-9]{1,5})\Z")
_LARGEST_PORT = 65535
_SQLITE = re.compile(r"sqlite:///(?P<path>[^?#]+)\Z")
_SECONDS = re.compile(r"[0-9]{1,12}\Z")
_LONGEST_TTL = 10 * 365 * 24 * 3600
_LONGEST_LEASE = 3600
_OTHER_STORES = {"postgresql": "PostgreSQL", "postgres": "PostgreSQL", "redis": "Redis", "rediss": "Redis"}


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
    store: Path = Path("data/shop.db")
    """The SQLite file of the operations and of the shop's own rows."""
    ttl: timedelta = timedelta(hours=24)
    """How long an outcome is kept."""
    lease: timedelta = timedelta(seconds=15)
    """How long a server may be silent before another one finishes its operations."""
    services: frozenset[str] = SERVICES
    """The services to serve."""
    users: str | None = None
    """HOST:PORT of the user service, which checkouts call. ``None``: this server itself."""


def from_environment(environment: Mapping[str, str]) -> Config:
    """Reads the settings from environment variables. An empty variable counts as not set.

    Raises:
        BadSetting: A variable has a value that can't be used.
    """
    usual = Config()
    names = ("SHOP_LISTEN", "SHOP_STORE", "SHOP_TTL", "SHOP_LEASE", "SHOP_SERVICES", "SHOP_USERS")
    listen, store, ttl, lease, services, users = (environment.get(name, "") for name in names)
    host, port = _address("SHOP_LISTEN", listen) if listen else (usual.host, usual.port)
    config = Config(
        host=host,
        port=port,
        store=_store(store) if store else usual.store,
        ttl=_seconds("SHOP_TTL", ttl, _LONGEST_TTL) if ttl else usual.ttl,
        lease=_seconds("SHOP_LEASE", lease, _LONGEST_LEASE) if lease else usual.lease,
        services=_services(services) if services else usual.services,
        users="{}:{}".format(*_address("SHOP_USERS", users)) if users else None,
    )
    if config.users is None and "users" not in config.services:
        raise BadSetting(
            "SHOP_USERS must say where the user service is, as HOST:PORT: SHOP_SERVICES leaves it out here."
        )
    if environment.get("SHOP_DATABASE"):
        raise BadSetting(
            "SHOP_DATABASE is for a redis:// store alone: with SQLite, data lives in the store's own file."
        )
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


def _store(value: str) -> Path:
    scheme = value.partition(":")[0].lower()
    if scheme in _OTHER_STORES:
        raise BadSetting(f"SHOP_STORE: {_OTHER_STORES[scheme]} ({scheme}://) is not built in yet; use sqlite:///FILE.")
    match = _SQLITE.match(value)
    path = unquote(match["path"]) if match else ""
    if not path or path == ":memory:" or "\0" in path:
        raise BadSetting(
            "SHOP_STORE must be sqlite:///FILE for a file in this folder or sqlite:////FOLDER/FILE for one anywhere."
        )
    return Path(path)


def _seconds(name: str, value: str, most: int) -> timedelta:
    if not _SECONDS.match(value) or not 1 <= int(value) <= most:
        years = " (ten years)" if most == _LONGEST_TTL else ""
        raise BadSetting(f"{name} must be whole seconds, 1 to {most}{years}, not {_shown(value)}.")
    return timedelta(seconds=int(value))


def _shown(value: str) -> str:
    """Returns a value as text that fits on a line."""
    return ascii(value if len(value) <= 40 else f"{value[:40]}...")
