"""``make drill``: plays the incident on both kinds of server, with the default lease, and tells when each step came."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from .drill import Incident

AFTER_LEASE = 5.0
"""Seconds after the end of the lease within which the client's retry has to get the resolved outcome."""


def main() -> int:
    """Runs the command; 0 when the incident was over in time on both kinds of server."""
    parser = argparse.ArgumentParser(
        prog="make drill", description="Kills a server in an opaque call, and resolves the operation as the docs tell."
    )
    parser.add_argument("--lease", type=int, default=15_000, metavar="MS", help="the lease of operations (15000)")
    given = parser.parse_args()
    console, late = Console(highlight=False), False
    for kind, server in (("async", "grpc.aio.server"), ("sync", "grpc.server")):
        console.print(f"[bold]{server}[/bold], a lease of {given.lease} ms")
        with tempfile.TemporaryDirectory() as folder:
            incident = Incident(
                Path(folder),
                kind,
                given.lease,
                lambda what, seconds: console.print(f"  {seconds:5.1f} s  {what}"),
            )
            took = asyncio.run(incident.play())
        limit = given.lease / 1000 + AFTER_LEASE
        late = late or took > limit
        verdict = "[green]in time[/green]" if took <= limit else "[red]too late[/red]"
        console.print(f"  {took:.1f} s from the kill to the reply, of {limit:g} s: {verdict}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
