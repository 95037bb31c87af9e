"""Runs the servers and the clients, and kills servers."""

import asyncio
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from crash.clients import Shopping
from crash.engines import Engine, Killable
from crash.files import ENGINE, HISTORY, Journal
from crash.points import POINTS, UNDOING
from crash.report import Tell
from crash.server import TRANSACTIONAL, Job

LEASE = 1.0
_WARM_UP = 0.5
_FALLS = 0.35
"""The share of kills from outside that hit the engine."""
SETTLED_WITHIN = 2 * LEASE + 8.0
"""The maximum time in seconds until all operations have ended, once no more servers are killed."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a run."""

    kills: int = 25
    seed: int = 1
    clients: int = 40
    users: int = 8
    peers: int = 1
    """The number of servers of each service, which share one file."""
    pauses: float = 0.0
    """The share of kills that only pause a server, for longer than its lease."""
    misuse: float = 0.03
    """The share of transactions that misbehave."""
    claims: float = 0.5
    """The share of transactional methods whose operations a server claims. Each start chooses the methods again."""
    fault: str = ""
    patience: float = 120.0
    """Seconds after which a client gives up, which should never happen."""


class Server:
    """A server, with one process at a time."""

    def __init__(self, name: str, job: Job, journal: Journal) -> None:
        self.name = name
        self.job = job
        self._journal = journal
        self._process: asyncio.subprocess.Process | None = None
        self._pid = 0
        self._death: asyncio.Task[tuple[str, str]] | None = None
        self.up = False
        self.struck = False
        """True if it was killed from outside, and did not die at a named point."""

    async def open(self) -> None:
        """Starts the process that forks the servers."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "crash.server",
            cwd=Path(__file__).parents[1],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def start(self, point: str = "", nth: int = 1, *, claims: Sequence[str] = ()) -> None:
        """Starts a server that claims the operations of the given methods.

        With a point, the server kills itself there.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        self.job = replace(self.job, point=point, nth=nth, claims=claims)
        self._process.stdin.write((json.dumps(asdict(self.job)) + "\n").encode())
        self.struck = False
        word, rest = await self._word()
        if word == "failed":
            raise RuntimeError(f"{self.name} can't start: {rest}")
        if word == "listening":
            self._pid = int(rest)
            self._death = asyncio.create_task(self._word())
        else:  # a call came before that line, and the server has already died at its point
            self._death = asyncio.create_task(_said(word, rest))
        self.up = True
        self._journal.write("up", server=self.name)

    async def died(self, within: float | None = None) -> bool:
        """Waits until the process has died."""
        assert self._death is not None
        done, _ = await asyncio.wait((self._death,), timeout=within)
        if done:
            assert self._death.result()[0] == "ended", self._death.result()
            self.up = False
        return bool(done)

    def strike(self) -> None:
        """Kills the process as kill -9 does."""
        self.struck = True
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    async def kill(self) -> None:
        """Kills the process as kill -9 does, and waits until it has died."""
        self.strike()
        assert await self.died(30)

    @property
    def safe(self) -> bool:
        """True if the server is up, was not killed, and has no point at which it will die."""
        return self.up and not self.struck and not self.job.point

    async def pause(self, seconds: float) -> None:
        os.kill(self._pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(self._pid, signal.SIGCONT)

    async def close(self) -> None:
        if self._process is None:
            return
        try:
            if self.up:
                await self.kill()
        finally:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()

    async def _word(self) -> tuple[str, str]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode()
        word, _, rest = line.strip().partition(" ")
        return word, rest


class Lab:
    """One run of the lab."""

    def __init__(self, plan: Plan, folder: Path, engine: Engine, *, tell: Tell) -> None:
        self._plan = plan
        self._engine = engine
        self._tell = tell
        self._folder = folder
        self._rng = random.Random(plan.seed)
        self._journal = Journal(folder / HISTORY)
        self.killed = 0
        """How often a server was killed or paused so far."""
        self._meddling: list[asyncio.Task[None]] = []
        self._still = asyncio.Lock()
        """Held while a server starts, or while the engine is down: the shop does not start without its database."""
        self._reserved = ExitStack()
        """Keeps the servers' ports."""
        ports = reserve_ports(self._reserved, 2 * plan.peers)
        self._users = [f"127.0.0.1:{port}" for port in ports[: plan.peers]]
        self._orders = [f"127.0.0.1:{port}" for port in ports[plan.peers :]]
        self._servers = [
            *(self._server("users", address) for address in self._users),
            *(self._server("orders", address) for address in self._orders),
        ]

    def _server(self, service: str, address: str) -> Server:
        job = Job(
            folder=str(self._folder),
            services=[service],
            engine=self._engine.name,
            store=self._engine.store(service),
            file=str(self._engine.file(service)),
            port=int(address.rpartition(":")[2]),
            users="ipv4:" + ",".join(self._users),
            lease=LEASE,
            fault=self._plan.fault,
            misuse=self._plan.misuse,
        )
        return Server(f"{service} {address}", job, self._journal)

    async def run(self) -> None:
        """Starts servers and clients, kills servers, and lets all operations end, so that the checker can begin."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._reserved)
            self._tell("starting", 0)
            for server in self._servers:
                await server.open()
                stack.push_async_callback(server.close)
            for server in self._servers:
                await server.start(claims=self._claims(server))
            plan = self._plan
            shopping = Shopping(self._orders, self._users, self._journal, seed=plan.seed, patience=plan.patience)
            stack.push_async_callback(shopping.close)
            await shopping.begin(self._plan.users)
            clients = [asyncio.create_task(shopping.shop()) for _ in range(self._plan.clients)]
            await asyncio.sleep(_WARM_UP)
            keepers = [asyncio.create_task(self._keep(server)) for server in self._servers]
            await self._kill(shopping, keepers)
            await self._leave_alone(keepers)
            self._tell("letting all calls end", self.killed)
            shopping.stop = True
            await asyncio.gather(*clients, *self._meddling)
            await self._settled()
        self._journal.close()

    async def _keep(self, server: Server) -> None:
        """Restarts a server whenever it has died, with another point at which it may die."""
        while await server.died():
            self._journal.write("kill", server=server.name, how="anywhere" if server.struck else server.job.point)
            self.killed += 1
            await asyncio.sleep(self._rng.choice((0, 0, 0.1, 0.3)))
            point, nth = ("", 1) if self._enough else self._point(server)
            async with self._still:
                await server.start(point, nth, claims=self._claims(server))

    async def _kill(self, shopping: Shopping, keepers: Sequence[asyncio.Task[None]]) -> None:
        """Kills servers at random instants, in addition to the points, until there were enough deaths."""
        rounds = 0
        while not self._enough:
            await asyncio.sleep(self._rng.uniform(0.2, 1.0))
            for keeper in keepers:
                if keeper.done():
                    keeper.result()  # raises the error that ended the keeper
            rounds += 1
            if rounds % 4 == 0:
                self._meddle(shopping)
            server = self._rng.choice(self._servers)
            if self._engine.server is not None and (rounds == 1 or self._rng.random() < _FALLS):
                await self._fall(self._engine.server)
            elif server.up and self._rng.random() < self._plan.pauses:
                await server.pause(LEASE * 2.5)
                self._journal.write("pause", server=server.name)
                self.killed += 1
            elif server.up:
                server.strike()
            self._tell("killing", self.killed)

    async def _fall(self, engine: Killable) -> None:
        """Kills the engine, and starts it again."""
        async with self._still:
            await asyncio.to_thread(engine.kill)
            self._journal.write("kill", server=self._engine.name, how=ENGINE)
            self.killed += 1
            await asyncio.sleep(self._rng.choice((0, 0, 0.1, 0.3)))
            await asyncio.to_thread(engine.start)
            self._journal.write("up", server=self._engine.name)

    async def _leave_alone(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        """Makes sure that all servers are up, and that none will die at a point."""
        while not all(server.safe for server in self._servers):
            for server in self._servers:
                if server.up and not server.safe:
                    server.strike()
            await asyncio.sleep(0.1)
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        self._journal.write("peace")

    @property
    def _enough(self) -> bool:
        return self.killed >= self._plan.kills

    def _point(self, server: Server) -> tuple[str, int]:
        """Chooses where the server dies next: at the nth time that it reaches a point, or at a random instant."""
        if self._rng.random() < 0.4:
            return "", 1
        point = self._rng.choice(POINTS[server.job.services[0]])
        return point, 1 if point in UNDOING else self._rng.choice((1, 1, 2, 5, 20))

    def _claims(self, server: Server) -> list[str]:
        """Chooses the methods whose operations the server claims, as if servers of two versions took turns."""
        methods = TRANSACTIONAL[server.job.services[0]]
        return [method for method in methods if self._rng.random() < self._plan.claims]

    def _meddle(self, shopping: Shopping) -> None:
        """Releases a reservation that a checkout is about to capture, so that the checkout has to be undone."""
        sql = "SELECT id FROM shop_reservations WHERE state = 1 ORDER BY seq DESC LIMIT 1"
        for (found,) in self._engine.rows("users", sql):
            self._meddling.append(asyncio.create_task(shopping.release(found)))

    async def _settled(self) -> None:
        """Waits until all operations have ended, within the time limit."""
        until = asyncio.get_running_loop().time() + SETTLED_WITHIN
        while await asyncio.to_thread(self._engine.under_way) and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110  # others' work
            await asyncio.sleep(0.1)


async def _said(word: str, rest: str) -> tuple[str, str]:
    return word, rest


def reserve_ports(stack: ExitStack, count: int) -> list[int]:
    """Returns ports that nobody else on this machine gets until the stack is closed. Servers share them with it."""
    ports = []
    for _ in range(count):
        # It is bound and does not listen, so it gets no connections.
        holder = stack.enter_context(socket.socket())
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        ports.append(holder.getsockname()[1])
    return ports
