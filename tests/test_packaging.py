"""The wheel: what it ships, and that it works where nothing else is (design, section 8)."""

import importlib.metadata
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OPTION = Path("grpc_idempotency/v1/policy.proto")
SOURCES = ROOT / "interceptors" / "grpc_idempotency"
SERVERS = ROOT / "tests" / "harness" / "programs"
TWO_LINES = [SERVERS / "forgetful.py", SERVERS / "forgetful_sync.py"]
"""On ``grpc.aio`` and on ``grpc.server``."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with what is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def metadata(wheel: Path) -> dict[str, list[str]]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        message = Parser().parsestr(archive.read(name).decode())
    return {key: message.get_all(key) or [] for key in message}


def test_the_source_distribution_has_all_that_is_tracked(tmp_path: Path) -> None:
    """Whoever has the source distribution can run the tests and the checks as in a checkout."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("this is no checkout")
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    listed = subprocess.run(["tar", "-tzf", str(archive)], capture_output=True, text=True, check=True).stdout
    names = {name.partition("/")[2] for name in listed.splitlines()}
    assert [name for name in tracked.stdout.splitlines() if name not in names and (ROOT / name).exists()] == []


def test_the_wheel_ships_one_name(wheel: Path) -> None:
    """The wheel has one top-level name, and in it all that is in the source tree, and the method option's proto."""
    with zipfile.ZipFile(wheel) as archive:
        files = {Path(name) for name in archive.namelist()}
    tops = {file.parts[0] for file in files}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"grpc_idempotency"}
    shipped = {file for file in files if file.parts[0] == "grpc_idempotency"}
    there = {file for file in SOURCES.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert shipped == {Path("grpc_idempotency") / file.relative_to(SOURCES) for file in there} | {OPTION}
    assert {"py.typed", "queries.sql", "0001_operations.sql"} <= {file.name for file in shipped}


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    """Name, licence and the Python it needs; its dependencies are wide, and no generated code pins them."""
    said = metadata(wheel)
    assert said["Name"] == ["grpc-idempotency"]
    assert said["License-Expression"] == ["Apache-2.0"]
    assert said["Requires-Python"] == [">=3.10"]
    # What this repository is developed with is nobody else's.
    assert said["Provides-Extra"] == ["check", "cli", "otel", "postgres", "prometheus", "redis", "retry"]
    needed = [Requirement(line) for line in said["Requires-Dist"]]
    plain = {one.name: str(one.specifier) for one in needed if one.marker is None}
    assert {"grpcio", "protobuf", "googleapis-common-protos", "aiosqlite"} <= set(plain)
    assert all(specifier.startswith(">=") and "," not in specifier for specifier in plain.values())


def test_the_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    """With the wheel and the dependencies it declares alone, the two lines of the design (section 8) work."""
    python = _installed(wheel, tmp_path / "empty")
    names = "import grpc_idempotency, sys; print(grpc_idempotency.__file__)"
    where = _run(python, "-c", names, cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path)
    for script in TWO_LINES:
        told = _run(python, str(script), str(tmp_path / f"{script.stem}.db"), cwd=tmp_path)
        assert [line.split()[-1] for line in told.splitlines()] == ["executed", "replayed"]


def test_the_wheel_brings_a_command(wheel: Path, tmp_path: Path) -> None:
    """``grpc-idempotency`` is what ``python -m grpc_idempotency`` is, and ``__version__`` that of the wheel."""
    python = _installed(wheel, tmp_path / "empty")
    command = "[c] = m.entry_points(group='console_scripts', name='grpc-idempotency'); sys.exit(c.load()())"
    for how in (["-c", f"import importlib.metadata as m, sys; {command}"], ["-m", "grpc_idempotency"]):
        assert _run(python, *how, "--help", cwd=tmp_path).startswith("usage: grpc-idempotency [-h] [--version] COMMAND")
    (version,) = metadata(wheel)["Version"]
    assert _run(python, "-c", "import grpc_idempotency as g; print(g.__version__)", cwd=tmp_path).strip() == version


def _installed(wheel: Path, folder: Path) -> str:
    """A new environment with the wheel, and links to what the wheel says it depends on; answers its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    scripts = "Scripts" if sys.platform == "win32" else "bin"
    (site,) = {*folder.glob("lib/python*/site-packages"), *folder.glob("Lib/site-packages")}
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in sorted(_dependencies(metadata(wheel)["Requires-Dist"])):
        for file in importlib.metadata.distribution(name).files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                link = site / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(str(file.locate())).resolve())
    return str(folder / scripts / "python")


def _dependencies(lines: list[str], *, known: frozenset[str] = frozenset()) -> set[str]:
    """The names of all distributions that these requirements, without extras, bring."""
    found: set[str] = set(known)
    for line in lines:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        needed = importlib.metadata.distribution(name).requires or []
        found |= _dependencies(needed, known=frozenset(found))
    return found


def _run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        [command[0], "-I", "-W", "error", *command[1:]], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
