"""Settings from the environment."""

from datetime import timedelta

import pytest

from shop.config import BadSetting, Config, from_environment


def test_without_settings_the_defaults_hold() -> None:
    """An empty environment serves on 127.0.0.1:50051, keeps data under data/, and outcomes for a day."""
    assert from_environment({}) == Config()
    assert from_environment({"SHOP_LISTEN": "", "SHOP_STORE": "", "SHOP_TTL": "", "SHOP_DATABASE": ""}) == Config()
    assert Config() == Config(host="127.0.0.1", port=50051, store="sqlite:///data/shop.db", ttl=timedelta(hours=24))


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [("shop.internal:0", "shop.internal", 0), ("localhost:65535", "localhost", 65535), ("[::1]:80", "[::1]", 80)],
)
def test_listen(value: str, host: str, port: int) -> None:
    """SHOP_LISTEN is a host and a port, an IPv6 address in brackets."""
    config = from_environment({"SHOP_LISTEN": value})
    assert (config.host, config.port) == (host, port)


def test_stores() -> None:
    """SHOP_STORE keeps the shop's rows too, where it can; SHOP_DATABASE says where they are else."""
    assert from_environment({"SHOP_STORE": "sqlite:////var/lib/shop.db?synchronous=EXTRA"}).database is None
    for store in ("redis://host", "valkey://host/1?prefix=shop", "memory:"):
        config = from_environment({"SHOP_STORE": store, "SHOP_DATABASE": "sqlite:///shop.db"})
        assert (config.store, config.database) == (store, "sqlite:///shop.db")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"SHOP_STORE": "redis://:secret@host"}, "SHOP_DATABASE must say where the shop's rows are"),
        ({"SHOP_STORE": "memory:", "SHOP_DATABASE": "memory:"}, "SHOP_DATABASE must be sqlite:///FILE or"),
        ({"SHOP_STORE": "memory:", "SHOP_DATABASE": "mysql://:secret@host"}, "SHOP_DATABASE: there is no store"),
        ({"SHOP_STORE": "mysql://:secret@host"}, "SHOP_STORE: there is no store for the URL scheme mysql"),
        (
            {"SHOP_STORE": "memory:", "SHOP_DATABASE": "sqlite:///x.db", "SHOP_WORKERS": "2"},
            "Each would keep operations of its own",
        ),
        ({"SHOP_DATABASE": "sqlite:///other.db"}, "SHOP_DATABASE is for a store that can't keep the shop's rows"),
    ],
)
def test_stores_that_do_not_go_together(settings: dict[str, str], told: str) -> None:
    """What is wrong with the stores is told, without a password."""
    with pytest.raises(BadSetting, match=told) as bad:
        from_environment(settings)
    assert "secret" not in str(bad.value)


def test_ttl() -> None:
    """SHOP_TTL counts seconds."""
    assert from_environment({"SHOP_TTL": "90"}).ttl == timedelta(seconds=90)


def test_workers() -> None:
    """SHOP_WORKERS counts processes; there is one by default."""
    assert from_environment({"SHOP_WORKERS": "4"}).workers == 4
    assert Config().workers == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "services orders, users; operations and rows in sqlite:///data/shop.db"),
        (
            {"SHOP_SERVICES": "orders", "SHOP_USERS": "h:2", "SHOP_STORE": "sqlite:////a@b.db"},
            "services orders; users at h:2; operations and rows in sqlite:////a@b.db",
        ),
        (
            {
                "SHOP_STORE": "redis://:secret@cache:1/2?password=secret",
                "SHOP_DATABASE": "postgresql://me:secret@db/shop",
            },
            "services orders, users; operations in redis://cache:1/2; rows in postgresql://db/shop",
        ),
    ],
)
def test_what_its_log_says_of_it(settings: dict[str, str], told: str) -> None:
    """Which services, and where the data is; no password."""
    assert from_environment(settings).described() == told


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
        ("SHOP_STORE", "sqlite:///shop.db#x"),
        ("SHOP_STORE", "sqlite:///shop.db?mode=ro"),
        ("SHOP_STORE", "sqlite://[/shop.db"),
        ("SHOP_STORE", "mysql://host/shop"),
        ("SHOP_WORKERS", "0"),
        ("SHOP_WORKERS", "65"),
        ("SHOP_WORKERS", "many"),
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
