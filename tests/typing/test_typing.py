"""What users write is checked as strictly as they like, and every public name has a type.

The other files here are code of users. ``mypy`` and ``pyright`` read them and do not run them. A line that has to be
refused carries the ignore of each checker; one that nothing is wrong with fails, since its ignore is of no use.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SCRIPTS = Path(sys.executable).parent


def test_mypy(tmp_path: Path) -> None:
    """In strict mode mypy agrees with the types that are asserted, and refuses what has to be refused."""
    said = checked("mypy", "--config-file", str(HERE / "mypy.ini"), str(HERE), folder=tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr


def test_pyright(tmp_path: Path) -> None:
    """In strict mode pyright finds the same."""
    said = checked("pyright", "--project", str(HERE), "--outputjson", folder=tmp_path)
    told = json.loads(said.stdout)
    assert told["generalDiagnostics"] == [], said.stdout
    assert told["summary"]["filesAnalyzed"] == len(list(HERE.glob("*.py")))


def test_every_public_name_has_a_type(tmp_path: Path) -> None:
    """All of the public interface is typed, and so that each checker sees the same."""
    said = checked("pyright", "--verifytypes", "grpc_idempotency", "--ignoreexternal", "--outputjson", folder=tmp_path)
    report = json.loads(said.stdout)["typeCompleteness"]
    assert [faults(symbol) for symbol in report["symbols"] if symbol["isExported"] and faults(symbol)] == []
    assert report["completenessScore"] == 1
    assert report["exportedSymbolCounts"]["withKnownType"] > 100


def faults(symbol: dict[str, Any]) -> list[str]:
    """What is wrong with a symbol, each fault behind its name."""
    wrong = not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]
    return [f"{symbol['name']}: {one['message']}" for one in symbol["diagnostics"] if wrong]


def checked(tool: str, *arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a checker of this venv, which finds by the path the Python whose packages it looks at."""
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    command = [str(SCRIPTS / tool), *arguments]
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False, timeout=280
    )
