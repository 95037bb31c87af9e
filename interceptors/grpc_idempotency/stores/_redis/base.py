"""The part that the Redis stores for asyncio and for threads share: settings, and the opening of an engine."""

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from grpc_idempotency import _checks
from grpc_idempotency.errors import PolicyError, StoreError, StoreUnavailable
from grpc_idempotency.stores._calls.batches import Batches
from grpc_idempotency.stores._calls.requests import Engine as AnyEngine
from grpc_idempotency.stores._calls.requests import Request, deliver
from grpc_idempotency.stores._redis.engine import Engine
from grpc_idempotency.stores._redis.keys import Keys
from grpc_idempotency.stores._redis.lane import Confirmation
from grpc_idempotency.stores._redis.plans import Plans
from grpc_idempotency.stores._redis.server import Server
from grpc_idempotency.stores._redis.watch import Watch

_TIMEOUT = timedelta(seconds=3)
_LONGEST_TIMEOUT = timedelta(minutes=1)
_REPLICA_TIMEOUT = timedelta(milliseconds=500)
_stores: "weakref.WeakSet[RedisBase]" = weakref.WeakSet()
_left_behind: list[AnyEngine] = []
"""The engines that a fork has left behind, kept so that nothing of them is ever finalized."""


class RedisBase:
    """Keeps operations on a Redis or Valkey server, or on a cluster. It has no transactions (5.1).

    A claim and an outcome are as durable as the server makes them: see ``docs/how-to/redis.md`` for what a restart or a
    failover can lose. The server needs ``maxmemory-policy noeviction``; the store refuses to open otherwise.

    Each store has connections and threads of its own: for each server one that sends what waits in one pipeline, and
    one for lists, recovery and sweeps.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it; or several URLs, which are tried in turn.
            A server that is a node of a cluster leads to the whole cluster.
        prefix: The beginning of the names of all keys. Stores with equal prefixes share their operations.
        timeout: How long a connection or a reply may take before
            :class:`~grpc_idempotency.errors.StoreUnavailable` is raised; at most a minute.
        replicas: How many replicas have to confirm a write before it is acknowledged (``WAIT``). A write that is not
            confirmed raises ``StoreUnavailable``, and may have landed all the same.
        replica_timeout: How long to wait for them; less than ``timeout``.
        list_completed: ``False`` keeps completed operations out of ``list`` and out of the indexes, which saves memory.
            The server then deletes them by itself when they expire.
        migrate: ``False`` to refuse a prefix under which no store was opened yet, and to create nothing.
        options: Further arguments for redis-py's connections, such as ``ssl_ca_certs`` or ``credential_provider``.

    Raises:
        PolicyError: A setting has a wrong type or is out of range.
    """

    _opened: tuple[AnyEngine, Any] | None

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        prefix: str = "grpc_idempotency",
        timeout: timedelta = _TIMEOUT,
        replicas: int = 0,
        replica_timeout: timedelta = _REPLICA_TIMEOUT,
        list_completed: bool = True,
        migrate: bool = True,
        options: Mapping[str, Any] | None = None,
        _clock: Callable[[], int] | None = None,
    ) -> None:
        urls = (url,) if isinstance(url, str) else _checks.names("url", url)
        if not urls:
            raise PolicyError("url must have at least one URL.")
        if not _checks.one_of("prefix", prefix, str) or not prefix.isprintable() or set(prefix) & set("{}"):
            raise PolicyError(f"prefix must be printable text without braces, not {prefix!r}.")
        _checks.duration("timeout", timeout, zero=False, longest=_LONGEST_TIMEOUT)
        _checks.duration("replica_timeout", replica_timeout, zero=False)
        if replica_timeout >= timeout:
            raise PolicyError("replica_timeout must be less than timeout.")
        self._keys = Keys(prefix)
        self._server = Server(urls=urls, timeout=timeout.total_seconds(), options=dict(options or {}))
        self._migrate = _checks.flag("migrate", migrate)
        self._confirmation = Confirmation(
            replicas=_checks.number("replicas", replicas), timeout_ms=replica_timeout // timedelta(milliseconds=1) or 1
        )
        listed = _checks.flag("list_completed", list_completed)
        self._watch = Watch(self._keys)
        self._plans = Plans(self._keys, self._watch, list_completed=listed, clock=_clock)
        for one in urls:
            try:
                self._server.pool(one)
            except (TypeError, ValueError):
                # Without the text of the error, which may repeat a part of the password.
                raise PolicyError(
                    "url and options must be those of redis-py; in a password write %2F for /, %3F for ? and %23 for #"
                ) from None
        self._batches = Batches()
        self._lock = threading.Lock()
        self._opening: list[Request[Any]] = []
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._identity: str | None = None
        self._closings = 0
        """How often it was closed: an opening that was under way then is undone."""
        _stores.add(self)

    @property
    def identity(self) -> str | None:
        """The random id of the operations with this prefix; ``None`` before the store was opened first."""
        return self._identity

    def subscribe(self, changed: Callable[[], object]) -> Callable[[], object]:
        """See :class:`grpc_idempotency.store.NotifyingStore`: the script that ends a run publishes it."""
        opened = self._opened
        if opened is None:  # no call has asked a server for an operation yet
            return lambda: None
        engine = opened[0]
        assert isinstance(engine, Engine)
        return self._watch.add(changed, engine.nodes)

    def observe(self, committed: Callable[[int, float], object]) -> Callable[[], object]:
        """See :class:`grpc_idempotency.store.ObservableStore`: a pipeline is one batch."""
        return self._batches.add(committed)

    # -- within

    def _is_open(self) -> bool:
        return self._opened is not None and self._opened[0].failure is None

    def _open_for(self, request: Request[Any]) -> None:
        """Opens the store in a thread of its own, once for all that ask meanwhile, and answers the request."""
        with self._lock:
            self._opening.append(request)
            if len(self._opening) > 1:
                return
        try:
            threading.Thread(target=self._open, name="grpc-idempotency opening", daemon=True).start()
        except RuntimeError as exc:  # no thread can be started
            self._end_opening(StoreUnavailable(f"the store can't be opened: {exc}"))

    def _open(self) -> None:
        failure: Exception | None = None
        try:
            if not self._is_open():
                self._connect()
        except Exception as exc:
            failure = exc
        self._end_opening(failure)

    def _connect(self) -> None:
        closings = self._closings
        nodes, self._identity = self._server.connected(self._keys, self._confirmation.replicas, migrate=self._migrate)
        engine = Engine(nodes, self._keys, self._plans, self._confirmation, self._batches)
        with self._lock:
            if self._closings == closings:
                self._finalizer = weakref.finalize(self, _abandon, engine, self._watch)
                self._finalizer.atexit = False  # the writers are daemons, and nobody waits for them any more
                self._opened = engine, None
                return
        engine.close()

    def _end_opening(self, failure: Exception | None) -> None:
        """Answers all that wait for the opening."""
        with self._lock:
            waiting, self._opening = self._opening, []
        for request in waiting:
            request.value, request.error = None, failure
        deliver(waiting)

    def _leave(self) -> "Leaving | None":
        """Returns the engine for the last request of ``close``; ``None`` if the store is not open."""
        with self._lock:
            self._closings += 1
            opened, finalizer = self._opened, self._finalizer
            self._opened = self._finalizer = None
        if opened is None or finalizer is None or not finalizer.detach():
            return None
        engine = opened[0]
        assert isinstance(engine, Engine)
        self._watch.stop()
        return Leaving(engine)

    def _leave_behind(self) -> None:
        """Closes the store in a forked child, and sends nothing: locks, threads and connections are the parent's."""
        opened, finalizer = self._opened, self._finalizer
        self._opened = self._finalizer = None
        self._lock, self._opening = threading.Lock(), []
        self._watch.leave_behind()
        if finalizer is not None:
            finalizer.detach()
        if opened is not None:
            _left_behind.append(opened[0])


def _leave_all_behind() -> None:
    for store in [*_stores]:
        store._leave_behind()  # noqa: SLF001  # the two are one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_behind)


def _abandon(engine: Engine, watch: Watch) -> None:
    watch.stop()
    engine.abandon()


class Opening:
    """The engine for the request of ``open``."""

    failure: StoreError | None = None

    def __init__(self, store: RedisBase) -> None:
        self._store = store

    def submit(self, request: Request[Any]) -> None:
        """See :class:`grpc_idempotency.stores._calls.requests.Engine`."""
        self._store._open_for(request)  # noqa: SLF001  # the two are one


class Leaving:
    """The engine for the request of ``close``: it answers once all earlier requests are answered."""

    failure: StoreError | None = None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def submit(self, request: Request[Any]) -> None:
        """See :class:`grpc_idempotency.stores._calls.requests.Engine`."""
        request.value = None
        self._engine.close(request)
