"""The tables of the pages match the library and the shop."""

import re
from dataclasses import fields
from typing import get_args

import pytest

from grpc_idempotency import Policy, Reason, State, events, metrics
from grpc_idempotency._command.reasons import EXPLANATIONS
from grpc_idempotency.prometheus import MetricsCollector
from shop.config import Config, from_environment

from .pages import ROOT


@pytest.mark.parametrize("name", ["README.md", "docs/reference/refusals.md"])
def test_the_tables_of_refusals_are_the_librarys(name: str) -> None:
    """The tables have all reasons and their statuses, in their order (2.3)."""
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", (ROOT / name).read_text(), re.MULTILINE)
    assert rows == [(reason.name, reason.status.name) for reason in Reason]


def test_the_table_of_refusals_knows_their_variables() -> None:
    """The table names the variables of each message."""
    rows = re.findall(
        r"^\| `([A-Z_]+)` \|[^|]*\|[^|]*\|([^|]*)\|", (ROOT / "docs/reference/refusals.md").read_text(), re.MULTILINE
    )
    told = {name: set(re.findall(r"`(\w+)`", variables)) for name, variables in rows}
    assert told == {
        reason.name: set(re.findall(r"{(\w+)}", reason.value.message)) | _field(reason) for reason in Reason
    }


def test_the_table_of_refusals_says_what_to_do() -> None:
    """The table says what the command explains: what a client does, and what an operator does."""
    rows = re.findall(
        r"^\| `([A-Z_]+)` \|.*\| (.+?) \| (.+?) \|$", (ROOT / "docs/reference/refusals.md").read_text(), re.MULTILINE
    )
    explained = [(reason.name, told.client, told.operator) for reason, told in EXPLANATIONS.items()]
    assert rows == explained


def _field(reason: Reason) -> set[str]:
    return {"field"} if reason.value.bad_request else set()


def test_the_table_of_the_policy_is_the_librarys() -> None:
    """The table has every field of a policy, in its order."""
    first = (ROOT / "docs/reference/policy.md").read_text().split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", first, re.MULTILINE) == [field.name for field in fields(Policy)]


def test_the_tables_of_events_are_the_librarys() -> None:
    """The tables have every event with its fields, and every value of those that are an enumeration."""
    page = (ROOT / "docs/reference/events.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|[^|]*\|$", page, re.MULTILINE)
    told = {name: re.findall(r"`(\w+)`", names) for name, names in rows}
    assert told == {kind.__name__: list(kind._fields) for kind in get_args(events.Event)}
    values = dict(re.findall(r"^\| `\w+\.(\w+)` \| (.*) \|$", page, re.MULTILINE))
    enums = ("status", events.Status), ("ended", events.Ending), ("became", events.Became), ("fate", events.Fate)
    for name, enum in enums:
        assert re.findall(r"`([A-Z_]+)`", values[name]) == [*enum.__members__]


def test_the_tables_of_metrics_are_the_librarys() -> None:
    """The tables have every metric as it is exported, and every value of the library's own attributes."""
    page = (ROOT / "docs/reference/metrics.md").read_text()
    rows = re.findall(
        r"^\| `(grpc_idempotency\.[\w.]+)` \| `(\w+)` \| ([\w -]+) \| `(.+)` \|(.*)\|$", page, re.MULTILINE
    )
    assert [
        (name, kind, unit, tuple(re.findall(r"`(.+?)`", attributes))) for name, _, kind, unit, attributes in rows
    ] == [(one.name, one.kind.value, one.unit, one.attributes) for one in metrics.INSTRUMENTS]
    families = MetricsCollector(metrics.Metrics()).describe()
    suffix = {"counter": "_total"}
    assert [name for _, name, *_ in rows] == [f"{one.name}{suffix.get(one.type, '')}" for one in families]
    values = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]*) \|$", page, re.MULTILINE))
    assert set(values) == {attribute for one in metrics.INSTRUMENTS for attribute in one.attributes}
    enums = {
        metrics.ENDING: events.Ending,
        metrics.FATE: events.Fate,
        metrics.STATE: State,
    }
    for attribute, enum in enums.items():
        assert set(re.findall(r"`(.+?)`", values[attribute])) == {one.value for one in enum}
    assert {one.value for one in events.Status} < set(re.findall(r"`(.+?)`", values[metrics.STATUS]))


def test_the_table_of_the_environment_is_the_shops() -> None:
    """The variables of README exist, and their defaults are the shop's."""
    told = dict(re.findall(r"^\| `(SHOP_\w+)` \|.*\| `(\S+)` \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert set(told) == {"SHOP_LISTEN", "SHOP_STORE", "SHOP_TTL", "SHOP_LEASE", "SHOP_SERVICES", "SHOP_WORKERS"}
    assert from_environment(told) == Config()
