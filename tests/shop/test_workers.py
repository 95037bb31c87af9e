"""``SHOP_WORKERS``: several processes that serve one port, and the one that starts and stops them."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from tests.shop.helpers import create_order, trailer
from tests.shop.test_command import COMMAND, complaint, environment

from shop.config import Config
from shop.orders.v1.orders_pb2 import Order, WatchOrderRequest
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="a port can't be shared here"),
]

ENGINES = ["sqlite", "postgresql", "redis"]
START_LIMIT = 60
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


class Workers:
    """A shop of several processes, and what it logs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address = ""
        self.log: list[str] = []

    async def logged(self, pattern: str) -> "re.Match[str]":
        """The next line of the log that has this."""
        assert self.process.stderr is not None
        while line := (await asyncio.wait_for(self.process.stderr.readline(), START_LIMIT)).decode():
            self.log.append(line)
            if match := re.search(pattern, line):
                return match
        raise AssertionError("".join(self.log))

    async def serving(self) -> int:
        """The id of the next worker that is ready."""
        return int((await self.logged(r"worker (\d+) serves"))[1])

    async def stopped(self, number: int = signal.SIGTERM) -> int | None:
        """The exit code after a signal. All processes have ended: no other one has the log open."""
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int | None:
        assert self.process.stderr is not None
        self.log += (await asyncio.wait_for(self.process.stderr.read(), START_LIMIT)).decode().splitlines()
        return await self.process.wait()


@asynccontextmanager
async def workers(folder: Path, *, count: int = 2, **settings: str) -> AsyncIterator[tuple[Workers, list[int]]]:
    """A shop with so many workers, and their ids."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        cwd=folder,
        env=environment(SHOP_WORKERS=str(count), **settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    shop = Workers(process)
    try:
        pids = [await shop.serving() for _ in range(count)]
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), START_LIMIT)).decode()
        assert line.startswith("listening on ")
        shop.address = line.split()[-1]
        yield shop, pids
    finally:
        if process.returncode is None:
            process.kill()
            await shop.ended()


async def create(address: str) -> tuple[Order, str | None]:
    """A call under the one key, on a connection of its own."""
    async with grpc.aio.insecure_channel(address, options=OWN_CONNECTION) as channel:
        call = OrderServiceStub(channel).CreateOrder(
            create_order(), metadata=(("idempotency-key", "k"),), timeout=20, wait_for_ready=True
        )
        return await call, trailer(await call.trailing_metadata(), "idempotency-status")


async def test_another_worker_replays(tmp_path: Path, config: Config) -> None:
    """Connections are spread over the workers, and a retry that comes to another one gets the first reply."""
    database = config.database or ""
    async with workers(tmp_path, SHOP_STORE=config.store, SHOP_DATABASE=database) as (shop, pids):
        answers = [await create(shop.address) for _ in range(40)]
        assert len({order.id for order, _ in answers}) == 1
        assert [how for _, how in answers] == ["executed", *["replayed"] * 39]
        assert await shop.stopped() == 0
    calls = [re.search(r" (\d+) INFO shop.calls .* (executed|replayed) ", line) for line in shop.log]
    served = [(int(call[1]), call[2]) for call in calls if call]
    ((first, _),) = [one for one in served if one[1] == "executed"]
    assert {pid for pid, how in served if how == "replayed"} == set(pids)
    assert first in pids


async def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    """A worker that is killed, or that stops by itself, is replaced; the others and the port stay."""
    async with workers(tmp_path) as (shop, pids):
        first = await create(shop.address)
        for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 0)):
            victim = pids.pop(0)
            os.kill(victim, number)
            told = await shop.logged(r"worker (\d+) has ended with (-?\d+): another one starts in")
            assert (int(told[1]), int(told[2])) == (victim, code)
            pids.append(await shop.serving())
            assert (await create(shop.address))[0] == first[0]
        assert await shop.stopped(signal.SIGINT) == 0


async def test_what_runs_ends_first(tmp_path: Path) -> None:
    """At a stop each worker ends its calls, as one process does: a watch is told that the server stops."""
    async with workers(tmp_path) as (shop, _), AsyncExitStack() as stack:
        order, _how = await create(shop.address)
        watches = []
        for _ in range(4):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(shop.address, options=OWN_CONNECTION))
            watches.append(OrderServiceStub(channel).WatchOrder(WatchOrderRequest(id=order.id)))
            assert await watches[-1].read() == order
        assert await shop.stopped() == 0
        for watch in watches:
            assert await watch.code() is grpc.StatusCode.UNAVAILABLE
            assert "stopping" in await watch.details()


async def test_no_worker_outlives_its_supervisor(tmp_path: Path) -> None:
    """Where the supervisor is killed, the workers notice, and stop."""
    async with workers(tmp_path) as (shop, _):
        shop.process.kill()
        assert await shop.ended() == -9  # and the log has ended: nobody has it open


async def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    """A second signal kills the workers, even if calls run."""
    async with workers(tmp_path) as (shop, pids):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # nothing else would end them
        shop.process.send_signal(signal.SIGTERM)
        await shop.logged("stopping")
        assert await shop.stopped() == 1


async def test_a_stop_during_the_start(tmp_path: Path) -> None:
    """A stop that comes before all workers are started starts no further ones, and is no failure."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        cwd=tmp_path,
        env=environment(SHOP_WORKERS="3"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    shop = Workers(process)
    await shop.serving()
    assert await shop.stopped() == 0
    assert process.stdout is not None
    assert await process.stdout.read() == b""


async def test_a_worker_that_dies_again_and_again(tmp_path: Path) -> None:
    """The pauses before another start grow."""
    async with workers(tmp_path) as (shop, pids):
        pauses = []
        for _ in range(3):
            os.kill(pids[0], signal.SIGKILL)
            pauses.append(float((await shop.logged(r"another one starts in ([\d.]+) s"))[1]))
            pids[0] = await shop.serving()
        assert pauses == [0.1, 0.2, 0.4]
        assert await shop.stopped() == 0


@pytest.mark.parametrize("count", ["1", "2"])
async def test_the_port_is_not_shared_with_another_shop(tmp_path: Path, count: str) -> None:
    """A port that another shop's workers share is taken, for one process and for several."""
    async with workers(tmp_path) as (shop, _):
        code, line = await asyncio.to_thread(complaint, tmp_path, SHOP_LISTEN=shop.address, SHOP_WORKERS=count)
        assert (code, shop.address in line) == (1, True)
        assert await shop.stopped() == 0


def test_workers_that_can_not_start(tmp_path: Path) -> None:
    """What is wrong is said by one worker, in one line, and its exit code is that of all."""
    (tmp_path / "shop.db").mkdir()
    code, line = complaint(tmp_path, SHOP_STORE="sqlite:///shop.db", SHOP_WORKERS="3")
    assert (code, "shop.db" in line) == (1, True)
