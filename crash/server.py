"""A server of the lab: the shop's server on the lab's store. ``python -m crash.server`` starts one for each input line.

It imports everything once, and forks for each server before grpc is used. So a restart takes less than a second.
"""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import shop.server
from crash.audit import Audit
from crash.beside import Beside
from crash.faults import FAULTS, Fault
from crash.files import AUDIT, Journal
from crash.misuse import Misuse, misbehave
from crash.points import Point
from crash.store import PostgresLab, RedisLab
from grpc_idempotency import Effects, Policy
from grpc_idempotency._operation.aio import AsyncRunning
from grpc_idempotency._operation.running import Running
from grpc_idempotency._protocol import rules as _protocol
from grpc_idempotency._server.aio.run import AioRun
from shop.config import Config

OPAQUE = "/shop.orders.v1.OrderService/CancelOrder"
"""The lab's opaque method. The shop has none."""
TRANSACTIONAL = {
    "users": tuple(
        f"/shop.users.v1.UserService/{method}"
        for method in ("CreateUser", "AddCredit", "ReserveCredit", "CaptureReservation", "ReleaseReservation")
    ),
    "orders": tuple(f"/shop.orders.v1.OrderService/{method}" for method in ("CreateOrder", "AddItem", "Checkout")),
}
"""The methods that are transactional without recovery in some servers of the lab, by service.

Other servers claim the operations of these methods before the handlers run. Then an operation of Checkout is
repeatable, as in the shop; otherwise it is claimed at its first step.
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The settings of one server, sent as a line of JSON."""

    folder: str
    services: Sequence[str]
    engine: str
    """The name of the engine of the store."""
    store: str
    """The place of the store, as its engine says it."""
    file: str
    """The SQLite file of the rows, if not of the operations too."""
    port: int
    users: str
    lease: float
    claims: Sequence[str] = ()
    """The methods of ``TRANSACTIONAL`` whose operations are claimed before their handlers run."""
    point: str = ""
    nth: int = 1
    fault: str = ""
    misuse: float = 0.0
    """The share of transactions that misbehave."""


def main() -> None:
    """Starts servers, one at a time, until the input ends."""
    while line := _line():
        job = Job(**json.loads(line))
        child = os.fork()
        if not child:
            _child(job)
        _, status = os.waitpid(child, 0)
        _say(f"ended {status}")


def _child(job: Job) -> None:
    try:
        asyncio.run(_serve(job))
    except BaseException as error:
        _say(f"failed {error!r}")
        raise
    finally:
        os._exit(1)


async def _serve(job: Job) -> None:
    log = os.open(Path(job.folder) / "server.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 2)
    # The lab never writes while a server runs, so input means that the lab has ended. Then this process ends too.
    asyncio.get_running_loop().add_reader(0, os._exit, 0)
    _equip(job)
    config = Config(
        port=job.port,
        store=job.store if job.engine == "postgresql" else f"sqlite:///{job.file}",
        lease=timedelta(seconds=job.lease),
        services=frozenset(job.services),
        users=job.users,
        shares_port=True,  # with the socket that keeps the port for it
    )
    async with shop.server.serving(config):
        _say(f"listening {os.getpid()}")
        await asyncio.Event().wait()


def _equip(job: Job) -> None:
    """Gives the shop the lab's store, and records the runs of its handlers, without changing the shop's code."""
    fault = FAULTS.get(job.fault, Fault())
    audit: Any = Audit
    audit.journal = journal = Journal(Path(job.folder) / AUDIT)
    audit.point = Point(job.point, job.nth)
    audit.misuse = misuse = Misuse(journal, job.misuse, job.engine)
    serving: Any = shop.server
    serving.store_from_url = lambda _: _store(job, fault)
    policies = serving._policies

    def short(config: Config, services: Sequence[str]) -> dict[str, Policy]:
        made = {
            name: replace(one, retry_delay=timedelta(seconds=0.1)) for name, one in policies(config, services).items()
        }
        for service in config.services:
            for method in TRANSACTIONAL[service]:
                policy = made.get(method, made[f"{method.rpartition('/')[0]}/*"])
                if job.engine == "redis":  # rows and records are not in one database
                    made[method] = replace(policy, effects=Effects.REPEATABLE)
                    continue
                claimed = method in job.claims
                effects = policy.effects if claimed else Effects.TRANSACTIONAL
                made[method] = replace(policy, effects=effects, recover=claimed)
        if "orders" in config.services:
            made[OPAQUE] = replace(made["/shop.orders.v1.OrderService/*"], effects=Effects.OPAQUE)
        return made

    serving._policies = short
    # Servers die all the time here. With the usual back-off of up to a minute, the lab would mostly wait.
    protocol: Any = _protocol
    protocol._LONGEST_DELAY = timedelta(seconds=1)
    _watch_runs(journal)
    _watch_steps(journal)
    if job.misuse:
        misbehave(misuse)
    fault.patch()


def _store(job: Job, fault: Fault) -> Audit:
    (service,) = job.services
    Beside.file = Path(job.file)
    match job.engine:
        case "postgresql":
            return PostgresLab(job.store)
        case "redis":
            return RedisLab(job.store, prefix=service)
        case _:
            return fault.store(job.store)


def _watch_runs(journal: Journal) -> None:
    to_end = AioRun.to_end

    async def watched(self: AioRun, operation: Running | None) -> Any:
        if operation is None:
            return await to_end(self, operation)
        what = {"name": operation.name.hex(), "fence": operation.fence.hex()}
        claimed = operation.claim is None
        journal.write("run", **what, method=operation.method, claimed=claimed, pid=os.getpid())
        ended = await to_end(self, operation)
        journal.write("ran", **what)
        return ended

    patched: Any = AioRun
    patched.to_end = watched


def _watch_steps(journal: Journal) -> None:
    run = AsyncRunning._run

    async def watched(self: AsyncRunning, name: str, fn: Callable[..., Any], transaction: bool) -> Any:
        what = {"name": self.name.hex(), "fence": self.fence.hex(), "step": name}
        journal.write("began", **what)
        result = await run(self, name, fn, transaction)
        journal.write("finished", **what)
        return result

    patched: Any = AsyncRunning
    patched._run = watched


def _line() -> str:
    """Reads the next line, byte by byte: a forked child must not inherit bytes that were read ahead."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return ""
        line += byte
    return line.decode()


def _say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


if __name__ == "__main__":
    main()
