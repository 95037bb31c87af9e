"""Clauses that the code, the tests and the pages name are clauses of docs/design.md."""

import re
from datetime import timedelta
from inspect import signature
from pathlib import Path

from grpc_idempotency import IdempotencyInterceptor, Policy

ROOT = Path(__file__).parents[1]
DESIGN = ROOT / "docs/design.md"
_NUMBERS = r"\d{1,2}(?:\.\d{1,2})?(?:(?:,| to| and) \d{1,2}\.\d{1,2})*"
_NAMED = re.compile(rf"(?<!\w)\(({_NUMBERS})\)|\bDESIGN(?:\.md)? ({_NUMBERS})")
"""Clauses in brackets, ``(4.5)`` or ``(4.1, 4.3)``, and those behind the document's name."""


def clauses() -> set[str]:
    """The numbers of all clauses, and of the sections that have none."""
    text = DESIGN.read_text()
    return {*re.findall(r"^(\d+\.\d+) ", text, re.MULTILINE), *re.findall(r"^## (\d+)\.", text, re.MULTILINE)}


def named(text: str) -> set[str]:
    """The clauses that a text names. A number without a point, or below 2, is a number."""
    found = {number for one, other in _NAMED.findall(text) for number in re.findall(r"\d+(?:\.\d+)?", one or other)}
    return {number for number in found if "." in number and not number.startswith(("0.", "1."))}


def test_the_clauses_are_found() -> None:
    """Clauses and their numbers are found in the design and in text that names them."""
    assert {"2.1", "4.11", "5.6", "9.4", "8"} <= clauses()
    assert named("so (4.5), so (4.1, 4.3), (5.1 to 5.3), DESIGN.md 9.1, (RFC 9113, 6.5.2), f(2), 3.11") == {
        "4.5",
        "4.1",
        "4.3",
        "5.1",
        "5.3",
        "9.1",
    }


def test_no_clause_is_named_that_is_not_there() -> None:
    """Every clause that a docstring, a comment or a page names exists."""
    known, dangling = clauses(), []
    files = [*ROOT.glob("*.md")]
    for folder in ("interceptors", "server", "tests", "bench", "crash", "docs", "protos"):
        files += (ROOT / folder).rglob("*")
    for file in sorted(files):
        if file.suffix in (".py", ".pyi", ".md", ".proto", ".sql", ".lua") and file != Path(__file__):
            dangling += [f"{file.relative_to(ROOT)}: {one}" for one in sorted(named(file.read_text()) - known)]
    assert not dangling


def test_the_design_names_its_own_clauses() -> None:
    """Every number in the design that looks like a clause is one, in brackets or not."""
    assert set(re.findall(r"(?<![\w.-])[2-9]\.\d{1,2}\b", DESIGN.read_text())) <= clauses()


def test_the_design_states_the_defaults() -> None:
    """The defaults of 4.11 are those of a policy and of the interceptors."""
    policy = Policy()
    arguments = signature(IdempotencyInterceptor).parameters
    text = " ".join(DESIGN.read_text().split("\n4.11 ")[1].split("\n\n")[0].split())
    for promise in (
        f"`ttl` {policy.ttl // timedelta(hours=1)} h",
        f"`lease` {policy.lease.seconds} s renewed every {policy.renew_every.seconds} s",
        f"`wait` {policy.wait.seconds} s with a margin of {policy.wait_margin // timedelta(milliseconds=1)} ms",
        f"execution limit {policy.execution_limit.seconds // 60} min",
        f"drain limit {arguments['drain_limit'].default.seconds} s",
        f"{policy.max_request_bytes >> 20} MiB for what is buffered of a request",
        f"{policy.max_trailer_bytes >> 10} KiB for trailers and details",
        f"`max_waiters` {arguments['max_waiters'].default} on a sync server",
        f"at most {arguments['max_detached'].default:,} detached executions",
    ):
        assert promise in text
    assert policy.max_response_bytes == policy.max_request_bytes
