"""The incident drill: the alert, the commands and the client's retry do what the pages say, one after the other."""

from pathlib import Path

import pytest

from ..harness.handlers import EACH_SERVER
from .drill import Incident


@pytest.mark.slow
@pytest.mark.parametrize("kind", EACH_SERVER)
async def test_an_incident_is_resolved_as_the_pages_tell(kind: str, tmp_path: Path) -> None:
    """From the kill to the client's reply, nothing is guessed and nothing runs twice. ``make drill`` measures it."""
    steps: list[str] = []
    incident = Incident(tmp_path, kind, 2000, lambda what, _seconds: steps.append(what))
    await incident.play()
    assert steps[-2:] == ["the client's retry gets the resolved outcome", "the alert ends"]
    assert len(incident.ledger.read_text().splitlines()) == 1
