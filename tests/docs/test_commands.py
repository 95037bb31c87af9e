"""The commands of the pages work."""

import re
import shutil
import signal
from pathlib import Path

import pytest

from .pages import ADDRESS, BUF, EXAMPLES, ROOT, blocks
from .servers import free_address, running, shell, shop


@pytest.mark.slow
def test_the_tutorial(tmp_path: Path) -> None:
    """Its commands, in their order, do what it says."""
    address = free_address()
    for file in (EXAMPLES / "tutorial").iterdir():
        if file.is_file():
            (tmp_path / file.name).write_text(file.read_text().replace(ADDRESS, address))
    page = ROOT / "docs/tutorial/first-server.md"
    _set_up, compiling, calling = (text.replace(".venv/bin/", "") for text in blocks(page, "sh"))
    assert blocks(page, "proto") == [(EXAMPLES / "tutorial/payments.proto").read_text()]
    shell(compiling, tmp_path)
    with running(address, tmp_path, "server.py") as server:
        first, second = shell(calling, tmp_path).splitlines()
        receipt = first.split()[1]
        assert receipt == second.split()[1]
        assert "'executed'" in first
        assert "'replayed'" in second
        server.send_signal(signal.SIGINT)
        server.wait(20)
        assert server.returncode == 0
    with running(address, tmp_path, "server.py"):
        assert receipt in shell("python client.py order-1 500", tmp_path)
        assert "FAILED_PRECONDITION" in shell("python client.py order-1 700 2>&1 || true", tmp_path)
        assert receipt not in shell("python client.py order-2 500", tmp_path)
    log = (tmp_path / "server.log").read_text().splitlines()
    assert [line.split()[0] for line in log] == ["serving", "charging", "serving", "charging"]


@pytest.mark.skipif(not BUF.exists(), reason="buf is not installed")
@pytest.mark.slow
def test_calls_by_buf_curl(tmp_path: Path) -> None:
    """The lines of README, against the shop: twice under one key, the same id; executed, then replayed."""
    making, keyed, listing = (
        block for block in blocks(ROOT / "README.md", "console") if "key=" in block or "buf curl" in block
    )
    with shop(tmp_path) as address:
        key = making.removeprefix("make setup\n")
        once, listing = _here(keyed, address), _here(listing, address)
        first, second = shell(f"{key}{once}echo ---\n{once}", ROOT).split("---")
        listed = shell(listing, ROOT)
    found = re.search(r'"id": "(order-\w+)"', first)
    assert found is not None
    assert "Idempotency-Status: executed" in first
    assert found[0] in second
    assert "Idempotency-Status: replayed" in second
    assert re.findall(r'"id": "(.*)"', listed) == [found[1]]


def _here(block: str, address: str) -> str:
    assert ADDRESS in block
    return block.replace(ADDRESS, address).replace(".venv/bin/buf", str(BUF))


@pytest.mark.slow
def test_the_stubs_in_python(tmp_path: Path) -> None:
    """The lines of README that call the shop from Python run the examples that are tested above."""
    assert [block for block in blocks(ROOT / "README.md", "console") if "python docs/examples" in block] == [
        ".venv/bin/python docs/examples/client.py\n",
        ".venv/bin/python docs/examples/checkout.py 127.0.0.1:50052 127.0.0.1:50051\n",
    ]


@pytest.mark.slow
def test_another_project_compiles_the_protos(tmp_path: Path) -> None:
    """README's lines make stubs that work, in another folder."""
    (compiling,) = (block for block in blocks(ROOT / "README.md", "console") if "grpc_tools.protoc" in block)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shell(compiling, tmp_path)
    elsewhere = f"import sys; sys.path.remove({str(ROOT / 'server')!r})"  # where that other project knows no shop
    code = f"{elsewhere}; from shop.orders.v1 import orders_pb2_grpc as made; print(made.__file__)"
    assert str(tmp_path) in shell(f'python -c "{code}"', tmp_path)
