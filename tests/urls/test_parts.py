"""The parts of a store's URL, and what is said of a wrong one."""

from datetime import timedelta
from typing import Any

import pytest

from grpc_idempotency import PolicyError, store_from_url
from grpc_idempotency.urls import Options, StoreUrl, flag, number, seconds

OPTIONS: Options = {"name": str, "on": flag, "count": number, "pause": seconds}


def url(text: str, **options: str) -> StoreUrl:
    return StoreUrl(scheme="own", address="//host", options=options, text=text)


def test_options_are_read_by_their_kinds() -> None:
    """Each option that is given is read by its kind; the others are missing, so that the store's defaults hold."""
    given = url("own://host", name="a b", on="true", count="7", pause="0.25")
    assert given.settings(OPTIONS) == {"name": "a b", "on": True, "count": 7, "pause": timedelta(seconds=0.25)}
    assert url("own://host").settings(OPTIONS) == {}
    assert url("own://host", on="0").settings(OPTIONS) == {"on": False}


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("on", "yes", "must be true or false"),
        ("on", "", "must be true or false"),
        ("count", "-1", "must be a whole number"),
        ("count", "1" * 10, "must be a whole number"),
        ("count", "²", "must be a whole number"),
        ("pause", "5s", "must be a number of seconds"),
        ("pause", "1e3", "must be a number of seconds"),
    ],
)
def test_a_value_that_can_not_be_read(option: str, value: str, told: str) -> None:
    """The error names the option and what its value must be."""
    with pytest.raises(PolicyError, match=f"the option {option} of a own URL {told}"):
        url("own://host", **{option: value}).settings(OPTIONS)


def test_an_unknown_option_is_refused() -> None:
    """An option that nobody reads is refused, and the known ones are told; those of the driver are the driver's."""
    given = url("own://host", sslmode="require")
    assert given.settings(OPTIONS, drivers={"sslmode"}) == {}
    with pytest.raises(PolicyError, match=r"has no option sslmode; its options are count, name, on, pause$"):
        given.settings(OPTIONS)


def test_a_driver_gets_the_rest() -> None:
    """A store's own options are taken out of the URL for its driver, and nothing else is changed."""
    text = "own://me:p%40ss@host/db?name=x&sslmode=require&count=1&options=-c%20x"
    assert url(text).without(OPTIONS) == "own://me:p%40ss@host/db?sslmode=require&options=-c%20x"
    assert url("own://host?name=x").without(OPTIONS) == "own://host"
    assert url("own://host").without(OPTIONS) == "own://host"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("", "begins with its scheme"),
        ("s3cret.db", "begins with its scheme"),
        ("/var/lib/s3cret.db", "begins with its scheme"),
        ("postgresql://me:#s3cret@host/db", "has no #"),
        ("postgresql://me:s3/cret@host/db", "one @ at most"),
        ("postgresql://me:s3@cret@host/db", "one @ at most"),
        ("postgresql://me:x?s3cret=1@host/db", "one @ at most"),
        ("postgresql://me:s3cret@host/db?schema", r"written as \?name=value"),
        ("postgresql://me:s3cret@host/db?=x", r"written as \?name=value"),
        ("postgresql://me:s3cret@host/db?schema=a&schema=b", "schema of a postgresql URL is given twice"),
        ("postgresql://me:s3cret@host/db?scheme=a", "has no option scheme; its options are lock_timeout, "),
        ("postgresql://me:s3cret@host/db?max_connections=0", "max_connections must be 1 or more"),
        ("postgresql://me:s3cret@[::1/db", "not a connection string"),
        ("postgresql:s3cret", "not a connection string"),
        ("redis://:s3cret@host?prefix={x}", "prefix must be printable"),
        ("redis://:s3cret@host?decode_responses=true", "has no option decode_responses"),
        ("redis://:s3cret@host:port", "must be those of redis-py"),
        ("redis://:s3cret@host?db=x", "must be those of redis-py"),
        ("sqlite:s3cret.db", "must be sqlite:///FILE"),
        ("sqlite://s3cret.db", "must be sqlite:///FILE"),
        ("sqlite:///", "must be sqlite:///FILE"),
        ("sqlite:///s3cret%00.db", "must be sqlite:///FILE"),
        ("sqlite:///x.db?mode=ro", "a sqlite URL has no option mode; its options are busy_timeout, "),
        ("sqlite:///x.db?synchronous=OFF", "synchronous must be one of"),
        ("sqlite:///x.db?table_prefix=a-b", "table_prefix|prefix"),
        ("memory:s3cret", "the URL of a store in memory is memory:"),
        ("memory:?name=x", "a memory URL has no option name; its options are none"),
        ("mysql://me:s3cret@host", "no store for the URL scheme mysql; known are: memory, postgres, postgresql, redis"),
    ],
)
def test_a_wrong_url(bad: str, told: str) -> None:
    """A URL that names no store is refused when the store is made; the error says why, and repeats no password."""
    with pytest.raises(PolicyError, match=told) as raised:
        store_from_url(bad)
    seen = str(raised.value)
    assert "s3" not in seen
    assert "cret" not in seen
    assert "\n" not in seen


def test_no_text() -> None:
    """What is no text is refused as such, as an environment variable that is not set."""
    nothing: Any = None
    with pytest.raises(PolicyError, match="url must be a str"):
        store_from_url(nothing)


def test_its_repr_shows_no_password() -> None:
    """A traceback or a log line that has the value shows its scheme alone."""
    assert repr(url("own://me:s3cret@host", name="s3cret")) == "StoreUrl(scheme='own')"
