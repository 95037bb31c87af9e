"""The verdict on the shop, with the interceptor and without it; and what README shows of it."""

import re
from pathlib import Path

import pytest
from tests.docs.pages import ADDRESS, EXAMPLES, ROOT, blocks
from tests.docs.servers import free_address, running, shell, shop

from .conftest import Ended, run_check
from .test_golden import ALL, ALWAYS, SCOPES

pytestmark = pytest.mark.slow

BARE = Path(__file__).with_name("bare_shop.py")
APPLY = ALL - {"map-order", "other-principal"}
"""An order has no map, and the shop knows no callers."""


def checked(address: str) -> Ended:
    return run_check(address, "--profile", str(EXAMPLES / "check.toml"), "--json")


def test_the_shop_is_safe(tmp_path: Path) -> None:
    """Every probe that applies passes."""
    with shop(tmp_path) as address:
        ended = checked(address)
    assert ended.verdicts == dict.fromkeys(APPLY, "passed"), ended.out
    assert ended.code == 0


def test_the_shop_without_the_interceptor_is_not(tmp_path: Path) -> None:
    """The same handlers without a guard take effect again in every way."""
    address = free_address()
    with running(address, tmp_path, str(BARE), address, str(tmp_path / "shop.db")):
        ended = checked(address)
    passing = ALWAYS | SCOPES
    expected = {probe: "passed" if probe in passing else "failed" for probe in APPLY}
    expected["error"] = "unclear"  # the request alone decides on the error of an empty order
    if ended.verdicts["deadline"] == "unclear":  # a busy client notices a deadline when the call has ended
        expected["deadline"] = "unclear"
    assert ended.verdicts == expected, ended.out
    assert ended.code == 1


def test_imports_of_the_shop_are_safe(tmp_path: Path) -> None:
    """A client-stream of the shop takes effect whole or not at all."""
    items, total = '[{"sku": "A", "quantity": 1}]', '{"currency_code": "USD", "units": 1}'
    order = f'{{"customer_id": "{{{{marker}}}}", "items": {items}, "total_amount": {total}}}'
    with shop(tmp_path) as address:
        ended = run_check(
            address,
            *("--method", "shop.orders.v1.OrderService/ImportOrders", "--request", order, "--request", order),
            *("--count", "ListOrders", "--count-path", "orders", "--trials", "20", "--json"),
        )
    assert ended.verdicts["request-stream"] == "passed"
    assert ended.code == 0, ended.out


def test_what_readme_shows(tmp_path: Path) -> None:
    """README's command prints what README says, up to the seed."""
    (command,) = (block for block in blocks(ROOT / "README.md", "console") if "check 127" in block)
    (shown,) = (block for block in blocks(ROOT / "README.md", "text") if "SAFE" in block)
    with shop(tmp_path) as address:
        printed = shell(command.replace(ADDRESS, address), ROOT).replace(address, ADDRESS)
    assert _without_the_seed(printed) == _without_the_seed(shown)


def _without_the_seed(text: str) -> str:
    return re.sub(r"Seed: \d+", "Seed: 0", "\n".join(line.rstrip() for line in text.splitlines()))
