"""Receives messages about runs that have ended in other processes, for calls of this process that wait for them (4.3).

A process that waits registers its channel with the operations. The script that ends a run publishes the operation's
name to the channels that are registered with it. So nothing is published where nobody waits. A message may be lost: the
poll of the waiting calls finds the change 50 ms later.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence

from grpc_idempotency import _jitter
from grpc_idempotency.stores._redis.keys import Keys
from grpc_idempotency.stores._redis.nodes import Connection, Nodes

WATCHED_MS = 10_000
"""How long the server keeps a registration, in milliseconds."""
_REGISTER_EVERY = WATCHED_MS / 2000
_LOOK_EVERY = 0.25
_IDLE_FOR = 5.0
"""How long the thread continues without listeners, in seconds."""
_log = logging.getLogger("grpc_idempotency.stores.redis")


class Watch:
    """The channel of one store, and the thread that listens to it while calls wait.

    Args:
        keys: The names of the store's keys.
    """

    def __init__(self, keys: Keys) -> None:
        self.channel = keys.channels + uuid.uuid4().hex.encode()
        self._lock = threading.Lock()
        self._listeners: dict[object, Callable[[], object]] = {}
        self._registered: dict[bytes, float] = {}
        """When each operation was registered last."""
        self._subscribed = False
        """True while the server has confirmed the subscription."""
        self._nodes: Nodes | None = None
        self._runs = False
        self._stopped = False

    def add(self, changed: Callable[[], object], nodes: Nodes) -> Callable[[], object]:
        """Adds a function that is called in the thread when a registered operation has changed.

        Args:
            changed: The function, which does not block.
            nodes: The servers.

        Returns:
            A function that removes it.

        Raises:
            RuntimeError: No thread can be started.
        """
        key = object()
        with self._lock:
            self._listeners[key] = changed
            starts = not self._runs
            self._nodes, self._runs, self._stopped = nodes, True, False
        if starts:
            try:
                threading.Thread(target=self._run, name="grpc-idempotency watch", daemon=True).start()
            except RuntimeError:  # no thread can be started: the next caller tries again
                self._runs = False
                del self._listeners[key]
                raise
        return lambda: self._listeners.pop(key, None)

    def stop(self) -> None:
        """Ends the thread soon. It takes no lock: the garbage collector may call it."""
        self._stopped = True

    def leave_behind(self) -> None:
        """Begins anew in a forked child, in which the thread does not run."""
        self._lock = threading.Lock()
        self._listeners, self._registered = {}, {}
        self._subscribed = self._runs = False

    def to_register(self, names: Iterable[bytes]) -> Sequence[bytes]:
        """Returns those of the operations that have to be registered now, and takes them for registered."""
        if not (self._subscribed and self._listeners):
            return ()
        now = time.monotonic()
        with self._lock:
            since = now - _REGISTER_EVERY
            self._registered = {name: at for name, at in self._registered.items() if at > since}
            found = [name for name in names if name not in self._registered]
            self._registered.update(dict.fromkeys(found, now))
        return found

    # -- within

    def _run(self) -> None:
        connection: Connection | None = None
        used = time.monotonic()
        while self._goes_on(used):
            if self._listeners:
                used = time.monotonic()
            try:
                if connection is None:
                    connection = self._connected()
                    connection.send_packed_command(connection.pack_commands([(b"SUBSCRIBE", self.channel)]))
                if connection.can_read(_LOOK_EVERY):
                    self._receive(connection.read_response())
            except Exception:  # the server's, or a listener's: the thread must go on for the others
                _log.info("the ends of runs are found by polls alone for a while", exc_info=True)
                self._forget()
                if connection is not None:
                    connection.disconnect()
                    connection = None
                time.sleep(_LOOK_EVERY)
        if connection is not None:
            connection.disconnect()

    def _connected(self) -> Connection:
        """Returns a connection to any server: in a cluster each of them passes messages on."""
        nodes = self._nodes
        assert nodes is not None
        connection = nodes.connection(_jitter.choice(nodes.addresses))
        connection.connect()
        return connection

    def _goes_on(self, used: float) -> bool:
        with self._lock:
            idle = not self._listeners and time.monotonic() - used > _IDLE_FOR
            self._runs = not (self._stopped or idle)
            if not self._runs:
                self._subscribed = False
                self._registered.clear()
            return self._runs

    def _forget(self) -> None:
        with self._lock:
            self._subscribed = False
            self._registered.clear()

    def _receive(self, message: Sequence[bytes]) -> None:
        kind, _, name = message
        if kind == b"subscribe":
            self._subscribed = True
            return
        with self._lock:
            self._registered.pop(name, None)
        for changed in [*self._listeners.values()]:
            changed()
