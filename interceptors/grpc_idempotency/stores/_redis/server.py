"""Connects to a server or a cluster, and checks that it keeps what it is given."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis.backoff
import redis.cluster
import redis.retry

import redis
from grpc_idempotency.errors import StoreError, StoreUnavailable, StoreUnusable
from grpc_idempotency.stores._redis.faults import DRIVER, translated
from grpc_idempotency.stores._redis.keys import Keys
from grpc_idempotency.stores._redis.nodes import ClusterNodes, Nodes, SingleNode

_VERSION = b"1"
"""The version of the format of keys and values."""
_log = logging.getLogger("grpc_idempotency.stores.redis")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server is, and how to connect to it."""

    urls: Sequence[str]
    """URLs of one server, or of nodes of one cluster."""
    timeout: float
    """How long a connection and a reply may take, in seconds."""
    options: Mapping[str, Any]
    """Further arguments for redis-py's connections."""

    def pool(self, url: str) -> "redis.ConnectionPool":
        """Returns redis-py's pool for a URL, without connecting.

        Raises:
            ValueError: The URL is malformed.
            TypeError: An option does not exist.
        """
        retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        return redis.ConnectionPool.from_url(url, retry=retry, **self._options())

    def connected(self, keys: Keys, replicas: int, *, migrate: bool) -> tuple[Nodes, str]:
        """Connects to the first URL that answers, and checks the server.

        Args:
            keys: The names of the store's keys.
            replicas: The number of replicas that have to confirm a write.
            migrate: ``False`` to refuse keys under which no store was opened yet.

        Returns:
            The servers, and the store's identity.

        Raises:
            StoreUnavailable: No server answers.
            StoreUnusable: The server is not configured for this store.
        """
        failure: StoreError | None = None
        for url in self.urls:
            pool = self.pool(url)
            where = _address(pool.connection_kwargs)
            try:
                return self._connected(url, pool, where, keys, replicas, migrate)
            except BaseException as exc:
                pool.disconnect()
                if not isinstance(exc, DRIVER):
                    raise
                failure = failure or translated(exc, where, sent=False)
        assert failure is not None
        raise failure

    def _connected(
        self, url: str, pool: Any, where: str, keys: Keys, replicas: int, migrate: bool
    ) -> tuple[Nodes, str]:
        client = redis.Redis(connection_pool=pool)
        if not client.info("cluster").get("cluster_enabled"):
            _check_policy(client, where)
            _check_role(client, where, replicas)
            return SingleNode(pool, where), _identity(client, keys, migrate)
        pool.disconnect()
        retry = redis.retry.Retry(redis.backoff.NoBackoff(), 1)
        cluster = redis.cluster.RedisCluster.from_url(url, retry=retry, **self._options())
        try:
            for node in cluster.get_primaries():
                _check_policy(cluster.get_redis_connection(node), node.name)
                _check_role(cluster.get_redis_connection(node), node.name, replicas)
            for node in cluster.get_replicas():  # each may become a primary; one that is down is not missed now
                with suppress(*DRIVER):
                    _check_policy(cluster.get_redis_connection(node), node.name)
            return ClusterNodes(cluster), _identity(cluster, keys, migrate)
        except BaseException:
            cluster.close()
            raise

    def _options(self) -> dict[str, Any]:
        timeouts = {"socket_timeout": self.timeout, "socket_connect_timeout": self.timeout}
        # Replies are bytes. RESP2 has no messages that come by themselves between replies.
        return {**timeouts, **self.options, "decode_responses": False, "protocol": 2}


def _address(options: Mapping[str, Any]) -> str:
    """Returns the address in a connection's arguments, without user and password."""
    path = options.get("path")
    return str(path) if path else f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"


def _check_policy(client: Any, where: str) -> None:
    """Refuses a server that deletes keys when its memory is full."""
    policy = client.info("memory").get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        raise StoreUnusable(
            f"Redis at {where} has the maxmemory-policy {policy}: under memory pressure it would delete operations, "
            "and a retry would run again. Set maxmemory-policy to noeviction."
        )


def _check_role(client: Any, where: str, replicas: int) -> None:
    """Refuses a replica, and logs what a primary may lose."""
    persistence, replication = client.info("persistence"), client.info("replication")
    if replication.get("role") == "slave":
        raise StoreUnavailable(f"Redis at {where} is a replica: give the URL of the primary")
    connected = replication.get("connected_slaves", 0)
    if replicas > connected:
        _log.warning("Redis at %s has %d replicas: writes that %d have to confirm fail", where, connected, replicas)
    if not persistence.get("aof_enabled"):
        _log.warning("Redis at %s has no append-only file: a restart loses the operations since its snapshot", where)
    if connected and not replicas:
        _log.warning(
            "Redis at %s replicates asynchronously: a failover loses the operations that had not reached the replica, "
            "and a retry of those runs again; replicas=1 makes a write wait for a replica",
            where,
        )


def _identity(client: Any, keys: Keys, migrate: bool) -> str:
    """Returns the store's identity, which its first opener draws."""
    if migrate:
        client.hsetnx(keys.meta, "version", _VERSION)
        client.hsetnx(keys.meta, "id", uuid.uuid4().hex)
    version, identity = client.hmget(keys.meta, "version", "id")
    if version is None or identity is None:
        raise StoreUnusable("no store was opened yet under the keys with this prefix")
    if version != _VERSION:
        raise StoreUnusable(
            f"the keys with this prefix have format {version.decode()}, and this release knows {_VERSION.decode()}: "
            "use the release that wrote them, or another prefix"
        )
    return str(identity.decode())
