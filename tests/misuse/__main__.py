"""``make misuse CASES=20000``: the campaign, with its progress and a table of what was seen."""

import argparse
import logging
import sys
import time
from collections import Counter

from .campaign import Report, run
from .grammar import case

BATCH = 500


def main() -> int:
    """Runs the command; 0 when no promise was broken."""
    parser = argparse.ArgumentParser(prog="make misuse", description="Handlers that misbehave, on stores that fail.")
    parser.add_argument("--cases", type=int, default=2000, metavar="N", help="how many (2000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the first case's seed (1)")
    parser.add_argument("--only", type=int, metavar="SEED", help="one case, shown and played by itself")
    parser.add_argument("--fault-rate", type=float, default=0.04, metavar="P", help="how many store calls fail (0.04)")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if given.only is not None:
        print(case(given.only))
    first, cases = (given.only, 1) if given.only is not None else (given.seed, given.cases)
    began, whole, promises = time.monotonic(), Report(), Counter[str]()
    for at in range(first, first + cases, BATCH):
        report = run(range(at, min(at + BATCH, first + cases)), fault_rate=given.fault_rate)
        for finding in report.findings:
            promises[finding.promise] += 1
            if promises[finding.promise] <= 3:
                print(f"BROKEN: {finding.promise}\n  {finding.case}\n  {finding.seen}", flush=True)
        whole.cases += report.cases
        whole.calls += report.calls
        whole.runs += report.runs
        whole.faults += report.faults
        whole.codes += report.codes
        whole.states += report.states
        print(
            f"{whole.cases} of {cases} cases, {whole.calls} calls, {whole.runs} runs, {whole.faults} faults, "
            f"{promises.total()} broken, {time.monotonic() - began:.0f} s",
            flush=True,
        )
    print("answers:", ", ".join(f"{name} {count}" for name, count in whole.codes.most_common()))
    print("records:", ", ".join(f"{name} {count}" for name, count in whole.states.most_common()))
    for promise, count in promises.most_common():
        print(f"broken {count} times: {promise}")
    print("No promise was broken." if not promises else "Promises were broken.")
    return 1 if promises else 0


if __name__ == "__main__":
    sys.exit(main())
