"""Proves that the library and its method option work with the grpcio, protobuf and drivers that people have.

Each row gets a venv of its own under ``.venvs/`` with the wheel and its versions. The sample proto is compiled by the
row's own compiler where there is one that fits both, else by those of other rows; then ``check.py`` runs there, with
both implementations of protobuf, both kinds of server, and the kit, on SQLite, PostgreSQL and Valkey.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import uuid
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..harness import valkey
from ..harness.postgres import Server

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VENVS = ROOT / ".venvs"
CHECKS = [(implementation, kind) for implementation in ("upb", "python") for kind in ("aio", "threads", "kit")]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Versions as pip takes them; an empty one is the newest that fits."""

    name: str
    protobuf: str = ""
    grpcio: str = ""
    tools: str | None = None
    """The row's own compiler; ``None`` where none fits both versions."""
    messages_by: str = ""
    """The row whose compiler makes the messages, in place of its own."""
    services_by: str = ""
    """The row whose compiler makes the services."""
    others: tuple[str, ...] = ()

    @property
    def requirements(self) -> list[str]:
        """What is installed beside the wheel."""
        tools = [f"grpcio-tools{self.tools}"] if self.tools is not None else []
        return [f"protobuf{self.protobuf}", f"grpcio{self.grpcio}", "opentelemetry-sdk", *tools, *self.others]

    @property
    def compilers(self) -> "tuple[Row, Row]":
        """The rows whose compilers make its messages and its services."""
        by_name = {row.name: row for row in ROWS}
        return by_name[self.messages_by or self.name], by_name[self.services_by or self.name]

    @property
    def python(self) -> Path:
        """The Python of the row's venv."""
        return VENVS / self.name / "bin" / "python"


# The oldest are the lower bounds of pyproject.toml, to the letter; the newest what pip takes today.
ROWS = [
    Row(
        name="oldest",
        protobuf="==4.25.0",
        grpcio="==1.62.0",
        tools="==1.62.0",
        others=(
            "googleapis-common-protos==1.62.0",
            "aiosqlite==0.20.0",
            "psycopg[binary]==3.1.18",
            "psycopg-pool==3.2.0",
            "redis==5.0.0",
            "opentelemetry-api==1.30.0",
            "opentelemetry-sdk==1.30.0",
            "prometheus-client==0.15.0",
            "grpcio-reflection==1.62.0",
            "rich==13.7.0",
        ),
    ),
    Row(name="protobuf-5", protobuf="==5.29.*", grpcio="==1.68.*", tools="==1.68.*"),
    Row(name="protobuf-6", protobuf="==6.33.*", grpcio="==1.76.*", tools="==1.76.*"),
    Row(name="newest", tools=""),
    # These two have no compiler that fits both versions, and take those of the rows above.
    Row(name="old-protobuf", protobuf="==4.25.*", messages_by="oldest", services_by="oldest"),
    Row(name="old-grpcio", grpcio="==1.62.*", messages_by="newest", services_by="oldest"),
]
ENDS = [row for row in ROWS if row.name in ("oldest", "newest")]
HEAD = [
    "row",
    "protobuf",
    "grpcio",
    "psycopg",
    "redis",
    "compiled by",
    *(f"{implementation} {kind}" for implementation, kind in CHECKS),
]
WIDTHS = [12, 8, 7, 7, 6, 17, *map(len, HEAD[6:])]


def run(command: Sequence[str | Path], **environment: str) -> str:
    """Runs a command, and tells what it said where it fails."""
    done = subprocess.run(
        list(map(str, command)), env=os.environ | environment, capture_output=True, text=True, cwd=VENVS, timeout=900
    )
    if done.returncode:
        raise Failure((done.stdout + done.stderr).strip())
    return done.stdout.strip()


class Failure(Exception):
    """What a command said that failed."""


def install(row: Row, wheel: Path) -> None:
    """Makes the row's venv, or what an earlier run made of it, what the row asks for."""
    if not row.python.exists():
        venv.create(VENVS / row.name, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(row.python)]  # the venv has none of its own
    command = [*pip, "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:"]
    # No new version number comes with a change, so the wheel is installed anew, and by itself.
    run([*command, "--force-reinstall", "--no-deps", str(wheel)])
    run([*command, "--upgrade", f"{wheel}[check,otel,postgres,prometheus,redis]", *row.requirements])


def compile_stubs(row: Row) -> Path:
    """The stubs for the row, in a folder of their own."""
    made = VENVS / f"{row.name}-stubs"
    made.mkdir(exist_ok=True)
    for by, out in zip(row.compilers, ("--python_out", "--grpc_python_out"), strict=True):
        protos = run([by.python, "-m", "grpc_idempotency.include"])
        run([by.python, "-m", "grpc_tools.protoc", f"-I{protos}", f"-I{HERE}", f"{out}={made}", "payments.proto"])
    return made


def check(row: Row, wheel: Path, servers: Sequence[str]) -> Iterator[str]:
    """What came of the row: its versions, and how each check went."""
    install(row, wheel)
    made = compile_stubs(row)
    yield from (version(row, name) for name in ("protobuf", "grpcio", "psycopg", "redis"))
    yield " and ".join(dict.fromkeys(version(by, "grpcio-tools") for by in row.compilers))
    for implementation, kind in CHECKS:
        for server in servers:
            run(
                [row.python, "-W", "error", HERE / "check.py", kind, server.format(uuid.uuid4().hex)],
                PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation,
                PYTHONPATH=str(made),
            )
        yield "ok"


def version(row: Row, distribution: str) -> str:
    """What the row's venv has of a distribution."""
    return run([row.python, "-c", f"import importlib.metadata as m; print(m.version({distribution!r}))"])


def build() -> Path:
    """The wheel of this tree."""
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", VENVS / "dist", ROOT])
    return max((VENVS / "dist").glob("*.whl"), key=lambda wheel: wheel.stat().st_mtime)


def start_servers(stack: ExitStack) -> list[str]:
    """The URLs of stores on each engine, with a place for the name of a new one."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    postgres = Server(fsync="on")
    stack.callback(postgres.discard)
    postgres.start()
    [port] = valkey.free_ports(1)
    redis = stack.enter_context(valkey.started(port=port))
    return [f"sqlite:///{folder}/{{}}.db", f"{postgres.url}?schema=s{{}}", f"{redis.url}?prefix={{}}"]


def main() -> int:
    """Prints the table; answers 1 where a check failed."""
    parser = argparse.ArgumentParser(prog="make compat", description=__doc__)
    parser.add_argument("rows", nargs="?", choices=["all", "ends"], default="all")
    rows = ENDS if parser.parse_args().rows == "ends" else ROWS
    VENVS.mkdir(exist_ok=True)
    wheel = build()
    print_row(HEAD)
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        servers = start_servers(stack)
        for row in rows:
            cells = [row.name]
            try:
                for cell in check(row, wheel, servers):
                    cells.append(cell)  # one by one, so that those before a failure are there
            except Failure as exc:
                failures[row.name] = str(exc)
                cells.append("FAILED")
            print_row([*cells, *"-" * (len(HEAD) - len(cells))])
    for name, said in failures.items():
        print(f"\n{name}:\n{said}")
    return bool(failures)


def print_row(cells: Sequence[str]) -> None:
    """One line of the table."""
    print("  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
