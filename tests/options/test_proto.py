"""The method option as users meet it: a proto that they import, and a module that their stubs import (7)."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from grpc_idempotency.include import include_dir
from grpc_idempotency.v1 import policy_pb2

from .helpers import compiled

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "method-options.md"
OPTION = "grpc_idempotency/v1/policy.proto"

implementations = pytest.mark.parametrize("implementation", ["upb", pytest.param("python", marks=pytest.mark.slow)])


def shell(script: str, folder: Path, **environment: str) -> str:
    """Runs lines of a page, or a module's text, with this venv's tools."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONWARNINGS": "error"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_module_is_what_the_proto_says(tmp_path: Path) -> None:
    """The descriptor that stubs find is that of the proto, compiled afresh."""
    (tmp_path / "grpc_idempotency" / "v1").mkdir(parents=True)
    (tmp_path / OPTION).write_text((ROOT / "protos" / OPTION).read_text())
    fresh, there = compiled(OPTION, tmp_path), descriptor_pb2.FileDescriptorProto()
    policy_pb2.DESCRIPTOR.CopyToProto(there)
    for file in (fresh, there):
        for field in [*file.extension, *(field for message in file.message_type for field in message.field)]:
            field.ClearField("json_name")
    assert there == fresh


def test_the_proto_stands_once() -> None:
    """The file that users compile against is the one in protos/; no copy is beside it or in the source tree."""
    assert include_dir() == ROOT / "protos"
    assert [path for path in ROOT.glob("[!.]*/**/policy.proto") if "build" not in path.parts] == [
        ROOT / "protos" / OPTION
    ]
    assert not (ROOT / "server" / "grpc_idempotency").exists()


def test_the_command_tells_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m grpc_idempotency.include`` prints the folder, and that alone."""
    sys.modules.pop("grpc_idempotency.include", None)
    runpy.run_module("grpc_idempotency.include", run_name="__main__")
    assert capsys.readouterr().out == f"{include_dir()}\n"


@implementations
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_copy_that_somebody_else_compiled(tmp_path: Path, implementation: str, first: str) -> None:
    """A copy of the proto that was compiled elsewhere lives beside ours in one process, whichever comes first."""
    shell(f"python -m grpc_tools.protoc -I{include_dir()} --python_out=. {OPTION}", tmp_path)
    code = (
        "import runpy\n"
        "def theirs(): return runpy.run_path('grpc_idempotency/v1/policy_pb2.py')['DESCRIPTOR']\n"
        "def ours():\n"
        "    from grpc_idempotency.v1 import policy_pb2\n"
        "    return policy_pb2.DESCRIPTOR\n"
        f"one = {first}()\n"
        "assert ours() is theirs()\n"
    )
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "check.py").write_text(code)
    shell("python both/check.py", tmp_path, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation)


@implementations
def test_the_page_compiles(tmp_path: Path, implementation: str) -> None:
    """The page's proto, compiled with the page's line, gives stubs whose method has the option."""
    text = PAGE.read_text()
    proto, line = (
        re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0] for kind in ("proto", "console")
    )
    (tmp_path / "payments.proto").write_text(proto)
    shell(line, tmp_path)
    code = (
        "import payments_pb2, payments_pb2_grpc\n"
        "from grpc_idempotency import Policy\n"
        "from grpc_idempotency._methods.resolve import Methods\n"
        "policy = Methods(Policy(), {}, lambda policy: None)['/payments.Payments/Charge'].policy\n"
        "print(policy.effects.name, policy.required, policy.ttl.days, policy.fingerprint_exclude)\n"
    )
    (tmp_path / "check.py").write_text(code)
    said = shell("python check.py", tmp_path, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation)
    assert said == "REPEATABLE True 7 ('sent_at',)\n"


def test_the_page_tells_of_every_field() -> None:
    """The page's table has every field of the option, in the proto's order."""
    told = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert told == [field.name for field in policy_pb2.Policy.DESCRIPTOR.fields]


def test_the_number_is_told() -> None:
    """The page names the option's number, for those who register one of their own or look for a clash."""
    assert str(policy_pb2.POLICY_FIELD_NUMBER) in PAGE.read_text()
    assert 50_000 <= policy_pb2.POLICY_FIELD_NUMBER <= 99_999
