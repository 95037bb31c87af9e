"""Settings from the environment."""

from datetime import timedelta
from pathlib import Path

import pytest

from shop.config import BadSetting, Config, from_environment


def test_without_settings_the_defaults_hold() -> None:
    """An empty environment serves on 127.0.0.1:50051, keeps data under data/, and outcomes for a day."""
    assert from_environment({}) == Config()
    assert from_environment({"SHOP_LISTEN": "", "SHOP_STORE": "", "SHOP_TTL": "", "SHOP_DATABASE": ""}) == Config()
    assert Config() == Config(host="127.0.0.1", port=50051, store=Path("data/shop.db"), ttl=timedelta(hours=24))


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [("shop.internal:0", "shop.internal", 0), ("localhost:65535", "localhost", 65535), ("[::1]:80", "[::1]", 80)],
)
def test_listen(value: str, host: str, port: int) -> None:
    """SHOP_LISTEN is a host and a port, an IPv6 address in brackets."""
    config = from_environment({"SHOP_LISTEN": value})
    assert (config.host, config.port) == (host, port)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("sqlite:///relative.db", "relative.db"),
        ("sqlite:///data/shop.db", "data/shop.db"),
        ("sqlite:////var/lib/shop.db", "/var/lib/shop.db"),
        ("sqlite:///a%20b.db", "a b.db"),
    ],
)
def test_store(value: str, path: str) -> None:
    """SHOP_STORE has three slashes before a relative path, and a fourth makes it absolute."""
    assert from_environment({"SHOP_STORE": value}).store == Path(path)


def test_ttl() -> None:
    """SHOP_TTL counts seconds."""
    assert from_environment({"SHOP_TTL": "90"}).ttl == timedelta(seconds=90)


def test_two_processes() -> None:
    """SHOP_SERVICES names what is served, SHOP_USERS where users are; SHOP_LEASE counts seconds."""
    config = from_environment({"SHOP_SERVICES": "orders", "SHOP_USERS": "127.0.0.1:50052", "SHOP_LEASE": "2"})
    assert config.services == {"orders"}
    assert (config.users, config.lease) == ("127.0.0.1:50052", timedelta(seconds=2))
    assert from_environment({"SHOP_SERVICES": "users, orders"}) == Config()
    assert from_environment({"SHOP_SERVICES": "users"}).users is None
    with pytest.raises(BadSetting, match="SHOP_USERS"):
        from_environment({"SHOP_SERVICES": "orders"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHOP_USERS", "users"),
        ("SHOP_SERVICES", "carts"),
        ("SHOP_SERVICES", "users,"),
        ("SHOP_LEASE", "0"),
        ("SHOP_LEASE", "86400"),
        ("SHOP_LISTEN", "50051"),
        ("SHOP_LISTEN", "127.0.0.1:"),
        ("SHOP_LISTEN", "127.0.0.1:65536"),
        ("SHOP_LISTEN", "::1:80"),
        ("SHOP_LISTEN", "127.0.0.1:80\n"),
        ("SHOP_STORE", "shop.db"),
        ("SHOP_STORE", "sqlite://shop.db"),
        ("SHOP_STORE", "sqlite:///"),
        ("SHOP_STORE", "sqlite:///:memory:"),
        ("SHOP_STORE", "sqlite:///shop.db?mode=ro"),
        ("SHOP_STORE", "sqlite://[/shop.db"),
        ("SHOP_STORE", "mysql://host/shop"),
        ("SHOP_TTL", "0"),
        ("SHOP_TTL", "-1"),
        ("SHOP_TTL", "1.5"),
        ("SHOP_TTL", "1d"),
        ("SHOP_TTL", "²"),
        ("SHOP_TTL", "9" * 5000),
    ],
)
def test_a_bad_value_is_named_in_one_line(name: str, value: str) -> None:
    """A value that can't be used is told in one line that begins with its variable."""
    with pytest.raises(BadSetting) as bad:
        from_environment({name: value})
    assert str(bad.value).startswith(name)
    assert len(str(bad.value).splitlines()) == 1
    assert len(str(bad.value)) < 300


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "redis", "rediss"])
def test_stores_that_are_not_built_in_yet(scheme: str) -> None:
    """The other stores are known by name, and a password in a URL is not repeated."""
    with pytest.raises(BadSetting, match="not built in yet") as bad:
        from_environment({"SHOP_STORE": f"{scheme}://ada:secret@host/shop"})
    assert "secret" not in str(bad.value)


def test_a_database_goes_with_redis_alone() -> None:
    """SHOP_DATABASE would be ignored beside SQLite, so it is refused."""
    with pytest.raises(BadSetting, match="SHOP_DATABASE"):
        from_environment({"SHOP_DATABASE": "postgresql://ada:secret@host/shop"})
