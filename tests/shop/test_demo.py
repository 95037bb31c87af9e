"""The demo, run as people run it, and against servers that break its promises."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FORGETFUL = Path(__file__).with_name("forgetful_server.py")
PROMISES = (
    "The order is stored, and its client was told UNAVAILABLE: it can't know.",
    "The retry was answered with the stored order; there is one order.",
    "It was replayed, not executed.",
    "One was executed; all others waited for it or were replayed.",
    "All 50 got the same reply.",
    "It was refused, in words and in an ErrorInfo that a program can read.",
    "The late duplicate got the first reply.",
    "It did not undo the newer change.",
    "The payment was refused, and its first step undone: the order is pending, and no credit is gone.",
    "A repeat got the same refusal, without another try.",
    *(
        PAYING := (
            "Another process finished the payment, from the step at which the killed one had stopped.",
            "It was paid once.",
        )
    ),
    "Another process replayed the reply of the one that was killed.",
    *(
        DOUBT := (
            "The card was not charged again: the client was told that nobody can know.",
            "Now it gets the answer that the operator has found out.",
        )
    ),
    "Every operation left its rows once.",
)


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """No terminal, but wide enough that no promise is broken into two lines; temporary files go to ``tmp_path``."""
    usual = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    return usual | {"COLUMNS": "110", "TMPDIR": str(tmp_path), "PYTHONIOENCODING": "utf-8"} | more


def demo(tmp_path: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """The demo as ``make demo`` runs it."""
    command = [sys.executable, "-m", "shop.demo", *arguments]
    return subprocess.run(
        command, env=environment(tmp_path, **more), capture_output=True, text=True, encoding="utf-8", timeout=100
    )


def demo_against(tmp_path: Path, server: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """The demo against another server."""
    code = f"import sys; from shop.demo.main import main; sys.exit(main({list(server)!r}))"
    return subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, timeout=100
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
    """One run of the demo."""
    return demo(tmp_path_factory.mktemp("demo"))


def test_every_promise_of_the_story_holds(played: "subprocess.CompletedProcess[str]") -> None:
    """``make demo`` shows each promise with a check mark, and exits with 0."""
    assert played.returncode == 0, played.stdout + played.stderr
    for promise in PROMISES:
        assert f"✓ {promise}" in played.stdout
    assert f"All {len(PROMISES)} promises held." in played.stdout
    assert "✗" not in played.stdout
    assert played.stderr == ""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter: PostgreSQL does not run as root."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no Valkey")
@pytest.mark.parametrize("store", ["postgresql", "redis"])
def test_the_story_on_two_hosts(open_folder: Path, store: str) -> None:
    """``make demo STORE=postgresql``: the retry goes to the other host, and every promise holds; nothing is left."""
    played = demo(open_folder, "--store", store)
    assert played.returncode == 0, played.stdout + played.stderr
    unplayed = PAYING if store == "redis" else ()  # the shop's writes are opaque there
    assert f"All {len(PROMISES) - len(unplayed)} promises held." in played.stdout
    assert played.stderr == ""
    steps = re.findall(
        r"host [AB] stores|leads to host [AB] now|half of them to host [AB]|host [AB] process", played.stdout
    )
    assert steps == [
        "host A stores",
        "leads to host B now",
        "half of them to host A",
        "host B process",
        "leads to host A now",
    ]
    assert not list(open_folder.iterdir())


def test_what_a_person_sees_of_it(played: "subprocess.CompletedProcess[str]") -> None:
    """The story's figures are there, the first reply's id comes again and again, and no whole id is printed."""
    story = played.stdout
    assert "cust_123: SKU001 \N{MULTIPLICATION SIGN} 2, SKU002 \N{MULTIPLICATION SIGN} 1; 55.99 USD" in story
    first = re.search(r"stores (order-[0-9a-f]{8}…)", story)
    assert first is not None
    assert story.count(f"gets {first[1]}") == 2
    assert "reason: KEY_REUSED, domain: grpc-idempotency" in story
    assert not re.search(r"[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-", story)


@pytest.mark.parametrize(
    "terminal",
    [
        pytest.param({"COLUMNS": "20"}, id="narrow"),
        pytest.param({"NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "xterm"}, id="NO_COLOR"),
        pytest.param({"PYTHONIOENCODING": "ascii"}, id="ascii"),
    ],
)
def test_it_plays_in_any_terminal(tmp_path: Path, terminal: dict[str, str]) -> None:
    """Narrow, without colour, without a check mark to print: the story ends well all the same."""
    played = demo(tmp_path, **terminal)
    assert played.returncode == 0, played.stdout + played.stderr
    assert f"All {len(PROMISES)} promises held." in played.stdout
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", played.stdout)
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", played.stdout).splitlines())) <= max(
        30, int(terminal.get("COLUMNS", "110"))
    )


def test_broken_promises_are_told(tmp_path: Path) -> None:
    """Against a server that ignores keys the demo plays on to its end, names what broke, and exits with 1."""
    played = demo_against(tmp_path, [sys.executable, str(FORGETFUL)])
    assert played.returncode == 1, played.stdout + played.stderr
    verdict = played.stdout[played.stdout.index(" broken, ") :]
    for promise in {*PROMISES[1:]} - {*DOUBT}:
        assert f"✗ {promise}" in verdict
    for promise in DOUBT:  # its server is another one
        assert f"✓ {promise}" in played.stdout
    assert f"✓ {PROMISES[0]}" in played.stdout


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    """A server that ends before it is ready is told as such, with what it said, and exit code 1."""
    server = [sys.executable, "-c", "raise SystemExit('the disk is on fire')"]
    played = demo_against(tmp_path, server)
    assert played.returncode == 1
    assert "The server ended before it was ready." in played.stdout
    assert "the disk is on fire" in played.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to send")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_its_server_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    """A demo that is ended in the middle ends its server too, and leaves no file behind."""
    with subprocess.Popen(
        [sys.executable, "-m", "shop.demo"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as running:
        assert running.stdout is not None
        address = next(filter(None, (re.search(r"A shop on (\S+),", line) for line in running.stdout)))
        running.send_signal(number)
        rest = running.stdout.read()
    assert running.returncode == 1, rest
    assert "The demo was interrupted." in rest
    assert "Traceback" not in rest
    assert not list(tmp_path.iterdir())
    assert not _answers(address[1])


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
def test_nobody_reads_on(tmp_path: Path) -> None:
    """``make demo | head`` ends the server too, without a word."""
    with subprocess.Popen(
        [sys.executable, "-m", "shop.demo"], env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 1
    assert not list(tmp_path.iterdir())


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True
