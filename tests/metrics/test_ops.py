"""The rules and the dashboard of ops/: queries are valid and ask for metrics that there are; alerts fire when due."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from grpc_idempotency import Effects, Policy, SQLiteStore, prometheus
from grpc_idempotency.metrics import Metrics

from ..harness.handlers import EACH_SERVER, Counting
from ..harness.replies import new_key
from ..harness.servers import Servers
from ..harness.waiting import ms, until
from ..steps.recovery import dead
from .scrapes import exposed, scraped
from .watched import Watched

KINDS = EACH_SERVER

ROOT = Path(__file__).parents[2]
RULES = ROOT / "ops/prometheus/grpc-idempotency.rules.yml"
TESTS = RULES.with_name("grpc-idempotency.rules.test.yml")
DASHBOARD = ROOT / "ops/grafana/grpc-idempotency.json"
RUNBOOK = ROOT / "docs/how-to/alerts.md"
PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")
OF_PROMETHEUS = {"job", "instance", "le"}
"""The labels that Prometheus itself adds, and that of the bounds of buckets."""


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Yields each query, with the name of what asks it. Grafana's variables are replaced as Grafana does."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$__range", "1h")
            yield panel["title"], re.sub(r"\$(job|method)", ".*", expression)


def selected(expression: str) -> tuple[set[tuple[str, frozenset[tuple[str, str]]]], set[str]]:
    """Returns the metrics of a query with the values of labels that it selects, and all labels that it names."""
    metrics, labels = set(), set[str]()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            matchers = node.matchers.matchers
            exact = frozenset((one.name, one.value) for one in matchers if one.op == promql_parser.MatchOp.Equal)
            metrics.add((str(node.name), exact))
            labels.update(one.name for one in matchers)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return metrics, labels


def missing(found: dict[str, list[dict[str, str]]]) -> list[str]:
    """Returns what the queries ask for, and is not in the series of a scrape: metrics, labels, and values of labels."""
    lacking = []
    for asks, expression in queries():
        metrics, labels = selected(expression)
        assert metrics, asks
        for name, exact in metrics:
            series = found.get(name, [])
            if not labels - OF_PROMETHEUS <= {label for one in series for label in one}:
                lacking.append(f"{asks}: {name} with {sorted(labels)}")
            if not any(exact <= one.items() for one in series):
                lacking.append(f"{asks}: {name} with {sorted(exact)}")
    return lacking


async def test_queries_find_what_a_server_exports(
    serve: Servers, watched: Watched, promptly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each query names metrics, labels and values of labels that a scrape of a real server has."""
    monkeypatch.setattr("grpc_idempotency._server.counting._COMPLETED_EVERY", 0)
    with closing(SQLiteStore(serve.path)) as store:
        dead(store)
        dead(store, effects=Effects.OPAQUE)
    policy = Policy(effects=Effects.REPEATABLE, lease=ms(600), renew_every=ms(150))
    service = await serve({"Do": Counting()}, policy=policy, observers=watched.observers)
    key = new_key()
    for _ in range(2):
        await service.call("Do", "a request", key=key)
    found = dict[str, list[dict[str, str]]]()
    with exposed(watched.registry) as url:

        async def all_there() -> bool:
            found.clear()
            for sample in await asyncio.to_thread(scraped, url):
                found.setdefault(sample.name, []).append(sample.labels)
            return not missing(found)

        with suppress(AssertionError):  # what is missing says more
            await until(all_there)
    assert missing(found) == []


def test_the_dashboard_shows_every_metric() -> None:
    """No metric is exported in vain."""
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    names = {family.name for family in prometheus.MetricsCollector(Metrics()).describe()}
    assert {name for name in names if name not in shown} == set()


def test_panels_are_described_and_do_not_overlap() -> None:
    """Each panel says what it shows, and has a place of its own; ids are unique."""
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["description"], panel["title"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len(ids) == len(set(ids))


def test_each_alert_has_its_page_and_its_test() -> None:
    """The runbook has a section for each alert, in the order of the rules, and so has its table; each has a test."""
    names = [rule["alert"] for rule in alerts()]
    page = RUNBOOK.read_text()
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == names
    told = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \|", page, re.MULTILINE)
    assert told == [(rule["alert"], rule["alert"].lower(), rule["labels"]["severity"]) for rule in alerts()]
    for rule in alerts():
        assert rule["annotations"]["runbook_url"] == f"docs/how-to/alerts.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
    tests = TESTS.read_text()
    assert [name for name in names if name not in tests] == []


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not here: it comes with Prometheus (see ops/README.md)")
@pytest.mark.parametrize("command", [("check", "rules", RULES), ("test", "rules", TESTS)], ids=["check", "test"])
def test_promtool(command: tuple[str, str, Path]) -> None:
    """Prometheus's own tool takes the rules, and each fires in the cases of its test and in no other."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *command], cwd=RULES.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
