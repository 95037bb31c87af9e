"""The pictures of the pages are what their scripts draw now."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docsite.pages import FIGURES
from grpc_idempotency import Effects, State

from .pages import ROOT


def test_pictures_are_what_their_script_draws(tmp_path: Path) -> None:
    """``make docs-figures`` leaves the committed pictures as they are."""
    subprocess.run([sys.executable, "-m", "docsite.pictures", str(tmp_path)], cwd=ROOT, check=True, timeout=60)
    drawn = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert drawn == {name: (FIGURES / name).read_text() for name in ("call.svg", "guarantees.svg", "states.svg")}


def test_the_pictures_have_each_state_and_each_kind_of_effects() -> None:
    """No state of a record, and no guarantee, is missing."""
    states, tree = (FIGURES / "states.svg").read_text(), (FIGURES / "guarantees.svg").read_text()
    assert [state for state in State if f">{state.value}<" not in states] == []
    assert [effects for effects in Effects if effects.name not in tree] == []


@pytest.mark.slow
def test_the_recording_is_of_the_demo(tmp_path: Path) -> None:
    """A new recording has the acts and the promises of the committed one."""
    command = [sys.executable, "-m", "docsite.recording", str(tmp_path / "demo.svg")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert _told(tmp_path / "demo.svg") == _told(FIGURES / "demo.svg") != []


def _told(picture: Path) -> list[str]:
    """Returns the headlines and the promises of a recording, without their numbers."""
    texts = re.findall(r'<text class="demo-r\d+" [^>]*>(.*?)</text>', picture.read_text())
    lines = [text.replace("&#160;", " ").strip() for text in texts]
    return [re.sub(r"\d+", "#", line) for line in lines if re.match(r"\d  \w", line)]
