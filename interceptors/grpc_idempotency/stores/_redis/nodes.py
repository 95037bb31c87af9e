"""The servers of a store: one, or the nodes of a cluster, and which of them has which hash tag."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import redis.cluster

import redis
from grpc_idempotency.stores._redis.faults import DRIVER
from grpc_idempotency.stores._redis.keys import SLOTS, TAGS


class Connection(Protocol):
    """A connection of redis-py, as far as it is used here."""

    def connect(self) -> None:
        """Connects, unless it is connected."""

    def disconnect(self) -> None:
        """Closes the socket. The connection can be used again."""

    def can_read(self, timeout: float = 0) -> bool:
        """Returns ``True`` if there is something to read, such as the end of the stream."""

    def pack_commands(self, commands: Sequence[Sequence[bytes]]) -> Any:
        """Returns what ``send_packed_command`` sends."""

    def send_packed_command(self, command: Any) -> None:
        """Sends commands."""

    def read_response(self) -> Any:
        """Returns the next reply, or raises the error that it is."""


class Nodes(Protocol):
    """The servers of a store."""

    addresses: Sequence[str]
    """The address of the server that has a hash tag, by the tag's number. A refresh replaces the sequence."""

    def connection(self, address: str) -> Connection:
        """Returns a new connection to a server, which is not connected yet.

        Raises:
            RedisError: The server is not known.
        """

    def refresh(self, seen: Sequence[str]) -> None:
        """Finds out again which server has which tag, unless ``addresses`` is no longer the sequence ``seen``."""

    def close(self) -> None:
        """Closes the connections that the other methods have used."""


class SingleNode:
    """One server, which has all tags."""

    def __init__(self, pool: "redis.ConnectionPool", address: str) -> None:
        self._pool = pool
        self.addresses: Sequence[str] = (address,) * TAGS

    def connection(self, address: str) -> Connection:
        """See :class:`Nodes`."""
        connection: Connection = self._pool.make_connection()
        return connection

    def refresh(self, seen: Sequence[str]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """See :class:`Nodes`."""
        self._pool.disconnect()


class ClusterNodes:
    """The primaries of a cluster, as redis-py's client for clusters finds them."""

    def __init__(self, client: "redis.cluster.RedisCluster") -> None:
        self._client = client
        self._lock = threading.Lock()
        self._nodes: Mapping[str, Any] = {}
        self.addresses: Sequence[str] = ()
        self._look()

    def connection(self, address: str) -> Connection:
        """See :class:`Nodes`."""
        node = self._nodes.get(address) or self._client.get_node(node_name=address)
        if node is None:
            raise redis.RedisError(f"the cluster has no node {address}")
        connection: Connection = self._client.get_redis_connection(node).connection_pool.make_connection()
        return connection

    def refresh(self, seen: Sequence[str]) -> None:
        """See :class:`Nodes`."""
        with self._lock:
            if self.addresses is not seen:
                return
            try:
                self._client.nodes_manager.initialize()
                self._look()
            except DRIVER:  # no node answers, or a slot has none: what was known stays, and counts as found out again
                self.addresses = [*seen]

    def close(self) -> None:
        """See :class:`Nodes`."""
        self._client.close()

    def _look(self) -> None:
        owners = [self._client.nodes_manager.get_node_from_slot(slot) for slot in SLOTS]
        self._nodes = {owner.name: owner for owner in owners}
        self.addresses = [owner.name for owner in owners]
