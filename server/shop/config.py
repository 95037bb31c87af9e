"""The shop's settings, which come from the environment (9.3)."""

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
_OTHER_STORES = {"postgresql": "PostgreSQL", "postgres": "PostgreSQL", "redis": "Redis", "rediss": "Redis"}


class BadSetting(ValueError):
    """A variable of the environment has a value that can't be used. Means a mistake of who starts the server.

    The message is one line, and repeats nothing of a URL, which may hold a password.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a shop is served."""

    host: str = "127.0.0.1"
    port: int = 50051
    """0 takes any free port."""
    store: Path = Path("data/shop.db")
    """The SQLite file that holds operations and the shop's own rows."""
    ttl: timedelta = timedelta(hours=24)
    """How long an outcome is kept."""


def from_environment(environment: Mapping[str, str]) -> Config:
    """The settings; raises :class:`BadSetting`. An empty variable is one that is not set."""
    usual = Config()
    listen, store, ttl = (environment.get(name, "") for name in ("SHOP_LISTEN", "SHOP_STORE", "SHOP_TTL"))
    host, port = _listen(listen) if listen else (usual.host, usual.port)
    config = Config(
        host=host,
        port=port,
        store=_store(store) if store else usual.store,
        ttl=_ttl(ttl) if ttl else usual.ttl,
    )
    if environment.get("SHOP_DATABASE"):
        raise BadSetting(
            "SHOP_DATABASE is for a redis:// store alone: with SQLite, data lives in the store's own file."
        )
    return config


def _listen(value: str) -> tuple[str, int]:
    match = _HOST_PORT.match(value)
    if not match or int(match["port"]) > _LARGEST_PORT:
        raise BadSetting(f"SHOP_LISTEN must be HOST:PORT, as 127.0.0.1:50051, port 0 for any; not {_shown(value)}.")
    return match["host"], int(match["port"])


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


def _ttl(value: str) -> timedelta:
    if not _SECONDS.match(value) or not 1 <= int(value) <= _LONGEST_TTL:
        raise BadSetting(f"SHOP_TTL must be whole seconds, 1 to {_LONGEST_TTL} (ten years), not {_shown(value)}.")
    return timedelta(seconds=int(value))


def _shown(value: str) -> str:
    """A value fit for a line."""
    return ascii(value if len(value) <= 40 else f"{value[:40]}...")
