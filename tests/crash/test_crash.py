"""The crash lab: 25 kills do no harm, and its checker finds every fault that it is there to find."""

from pathlib import Path

import pytest

from crash.checker import Checker
from crash.faults import FAULTS
from crash.lab import LEASE, Lab, Plan

SEEDS = (1, 2, 3)


async def test_kills_do_no_harm(tmp_path: Path) -> None:
    """Two real servers, 40 calls in flight, 25 kills: no effect twice, no reply that differs, money conserved."""
    await Lab(Plan(kills=25), tmp_path).run()
    checker = Checker(tmp_path, LEASE)
    assert checker.findings == []
    assert checker.figures["kills"] == 25


async def test_servers_that_share_a_file_take_over(tmp_path: Path) -> None:
    """Two servers for each service; some are killed, some come back after their leases and must change nothing."""
    await Lab(Plan(kills=6, peers=2, pauses=0.5, clients=20), tmp_path).run()
    checker = Checker(tmp_path, LEASE)
    assert checker.findings == []
    assert checker.figures["pauses"]


@pytest.mark.parametrize("name", FAULTS)
async def test_the_checker_finds(name: str, tmp_path: Path) -> None:
    """A fault that was put into the servers is found in a small run; when it takes place is chance, so one of three."""
    fault = FAULTS[name]
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        folder.mkdir()
        plan = Plan(kills=4, seed=seed, clients=24, peers=fault.peers, pauses=fault.pauses, fault=name, patience=8)
        await Lab(plan, folder).run()
        if Checker(folder, LEASE).findings:
            return
    pytest.fail(f"the checker has not found: {name}")
