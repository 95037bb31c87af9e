"""``python -m crash``: runs the lab once, prints figures and findings, and exits with 1 if there are findings."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from crash.checker import Checker
from crash.engines import ENGINES, SQLite
from crash.faults import FAULTS, Fault
from crash.lab import LEASE, Lab, Plan
from crash.report import progress, show
from crash.walk import PLACES, walk


def main() -> int:
    """Runs the lab as the arguments say, and returns the exit code."""
    arguments = _arguments()
    asked = arguments.parse_args()
    if asked.store != SQLite.name and (asked.walk or asked.fault):
        arguments.error("--walk and --fault are for SQLite")
    if asked.faults:
        print("\n".join(FAULTS))
        return 0
    console = Console()
    if asked.walk:
        return _walk(console)
    fault = FAULTS.get(asked.fault, Fault())
    plan = Plan(
        kills=max(asked.kills, fault.kills),
        seed=asked.seed,
        clients=asked.clients,
        peers=max(asked.peers, fault.peers),
        pauses=max(asked.pauses, fault.pauses),
        misuse=max(asked.misuse, fault.misuse),
        claims=fault.claims if asked.claims is None else asked.claims,
        fault=asked.fault,
        patience=asked.patience,
    )
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="crash-"))
    print(f"{plan.kills} kills, {plan.clients} clients, seed {plan.seed}, {asked.store}, in {folder}", flush=True)
    with ExitStack() as stack:
        engine = ENGINES[asked.store](folder)
        if engine.server is not None:
            stack.callback(engine.server.discard)
        with progress(console, plan.kills, "kills") as tell:
            lab = Lab(plan, folder, engine, tell=tell)
            asyncio.run(lab.run())
            tell("checking", lab.killed)
            checker = Checker(folder, LEASE, engine)
        show(console, checker)
    for finding in checker.findings:
        print(finding)
    if checker.findings:
        print(f"{len(checker.findings)} findings; what there is to look at lies in {folder}")
        return 1
    print("0 duplicate effects, 0 differing replies, 0 stuck, money conserved")
    if asked.folder is None:
        shutil.rmtree(folder)
    return 0


def _walk(console: Console) -> int:
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    print(f"a checkout is killed at {len(PLACES)} places, in {folder}", flush=True)
    with progress(console, len(PLACES), "places") as tell:
        findings = asyncio.run(walk(folder, tell))
    for finding in findings:
        print(finding)
    if findings:
        return 1
    print(f"all or nothing at {len(PLACES)} places")
    shutil.rmtree(folder)
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crash",
        description="Kills real servers while clients call them, and proves that nothing went wrong.",
    )
    parser.add_argument("--kills", type=int, default=25, help="how often servers are killed (default: 25)")
    parser.add_argument(
        "--store",
        choices=ENGINES,
        default=SQLite.name,
        help="the engine of the servers' stores (default: sqlite)",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the clients' actions and of the kills")
    parser.add_argument("--clients", type=int, default=40, help="how many clients call at once")
    parser.add_argument("--peers", type=int, default=1, help="how many servers each service has, on one file")
    parser.add_argument("--pauses", type=float, default=0.0, help="share of kills that only pause a server")
    parser.add_argument("--misuse", type=float, default=0.03, help="share of transactions that misbehave")
    parser.add_argument("--claims", type=float, help="share of transactional methods with a claim (default: 0.5)")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds after which a client gives up")
    parser.add_argument("--walk", action="store_true", help="instead: kill one checkout at each of its points")
    parser.add_argument(
        "--folder", type=Path, help="folder to run in (default: a new one, deleted if nothing was found)"
    )
    parser.add_argument("--faults", action="store_true", help="instead: list the faults")
    parser.add_argument(
        "--fault", choices=sorted(FAULTS), default="", metavar="NAME", help="inject this fault, which has to be found"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
