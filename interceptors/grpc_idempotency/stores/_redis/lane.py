"""Sends commands to the servers: a writer for each server, which sends all that waits in one pipeline.

A caller can't cancel what a writer sends, since it waits for a future and not for the connection.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, ReadOnlyError, ResponseError

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.stores._calls.batches import Batches
from grpc_idempotency.stores._calls.requests import Gathering, Request
from grpc_idempotency.stores._redis.commands import Command
from grpc_idempotency.stores._redis.faults import DRIVER, translated
from grpc_idempotency.stores._redis.keys import Keys
from grpc_idempotency.stores._redis.nodes import Connection, Nodes

_MOST_COMMANDS = 256
_MOST_BYTES = 4 << 20
"""The size after which a pipeline gets no further command."""
_MOST_HOPS = 5
_ASKING = (b"ASKING",)
_ELSEWHERE = (AskError, ClusterDownError, ReadOnlyError)
"""Replies after which another server may have the tag."""
# As in common.lua, it begins with a write that needs no memory.
_MARK = b"redis.call('PERSIST', KEYS[1]) return redis.call('SET', KEYS[1], '')"
_log = logging.getLogger("grpc_idempotency.stores.redis")


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """How many replicas have to confirm a write."""

    replicas: int
    """The number of replicas; 0: none."""
    timeout_ms: int
    """How long to wait for them."""


class Lane:
    """The writers of one engine for one kind of requests, so that those of another kind do not wait behind them.

    Args:
        nodes: The servers.
        keys: The names of the store's keys.
        confirmation: Which replicas have to confirm a write.
        deliver: Called with requests that are answered.
        batches: Told of each pipeline that was answered.
    """

    def __init__(
        self,
        nodes: Nodes,
        keys: Keys,
        confirmation: Confirmation,
        deliver: Callable[[list[Request[Any]]], None],
        batches: Batches,
    ) -> None:
        self.nodes = nodes
        self.deliver = deliver
        self.batches = batches
        self._keys = keys
        self._confirmation = confirmation
        self._lock = threading.Lock()
        self._writers: dict[str, Writer] = {}

    def send(self, command: Command, address: str | None = None) -> None:
        """Passes a command to the writer of its tag's server, or of the server at another address."""
        if address is None:
            address = self.nodes.addresses[command.tag]
        writer = self._writers.get(address)
        if writer is None:
            with self._lock:
                writer = self._writers.get(address)
                if writer is None:
                    writer = self._writers[address] = Writer(self, address)
        writer.queue.put(command)

    def stop(self) -> None:
        """Ends the writers, after what they have been passed. It takes no lock: the garbage collector may call it."""
        for writer in [*self._writers.values()]:
            writer.queue.put(None)

    def confirming(self, group: Sequence[Command]) -> Sequence[Sequence[bytes]]:
        """Returns the commands that make replicas confirm what the group has written or seen; none if that is not set.

        WAIT answers for the last write of its own connection. A retried completion may write nothing, since it meets
        its own record, and so may a claim that returns another one's. So there is always a last write: a mark.
        """
        wanted = self._confirmation
        tag = next((command.tag for command in group if command.script.writes), None) if wanted.replicas else None
        if tag is None:
            return ()
        wait = (b"WAIT", b"%d" % wanted.replicas, b"%d" % wanted.timeout_ms)
        return ((b"EVAL", _MARK, b"1", self._keys.mark[tag]), wait)

    def confirm(self, group: Sequence[Command], replies: Sequence[tuple[Any, Exception | None]]) -> None:
        """Makes the writes of a group fail if too few replicas have confirmed them."""
        (_, error), (confirmed, _) = replies
        wanted = self._confirmation.replicas
        if error is None and confirmed is not None and confirmed >= wanted:
            return
        for command in group:
            if command.script.writes and command.error is None:
                told = f"{confirmed or 0} of {wanted} replicas have confirmed the write in time"
                command.error = StoreUnavailable(told, landed=None)


class Writer:
    """The thread that owns the connection to one server."""

    def __init__(self, lane: Lane, address: str) -> None:
        self.queue: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._lane = lane
        self._address = address
        self._connection: Connection | None = None
        threading.Thread(target=self._run, name=f"grpc-idempotency {address}", daemon=True).start()

    def _run(self) -> None:
        gathering, more = Gathering(self.queue.qsize), True
        while more:
            more, group = self._next()
            if group:
                began = time.monotonic()
                self._answer(group)
                together = len(group) + self.queue.qsize()
                if self._lane.batches.observers:
                    self._lane.batches.tell(len(group), time.monotonic() - began)
                if more:
                    gathering.wait(len(group), together)
        if self._connection is not None:
            self._connection.disconnect()

    def _next(self) -> tuple[bool, list[Command]]:
        """Waits for commands. Returns all that wait, up to some size, and whether others may follow."""
        command = self.queue.get()
        group: list[Command] = []
        size = 0
        while command is not None:
            group.append(command)
            size += command.size
            if len(group) >= _MOST_COMMANDS or size >= _MOST_BYTES:
                return True, group
            try:
                command = self.queue.get_nowait()
            except queue.Empty:
                return True, group
        return False, group

    def _answer(self, group: Sequence[Command]) -> None:
        """Sends commands, and answers those that need not go to another server."""
        seen = self._lane.nodes.addresses
        try:
            self._exchange(group)
            forgotten = [command for command in group if isinstance(command.error, NoScriptError)]
            if forgotten:  # the server was restarted, is another one since a failover, or never had the scripts
                self._exchange(forgotten, load=True)
        except Exception as exc:  # a bug must not leave callers without an answer, nor with that of another command
            _log.exception("commands to Redis at %s failed", self._address)
            _fail(group, exc)
            if self._connection is not None:
                self._connection.disconnect()
        finished = [request for command in group if (request := self._finish(command, seen)) is not None]
        if finished:
            self._lane.deliver(finished)

    def _finish(self, command: Command, seen: Sequence[str]) -> Request[Any] | None:
        """Answers a command, or passes it on. Returns the request if it is answered."""
        if command.error is not None:
            try:
                if self._passed_on(command, seen):
                    return None
            except RuntimeError as exc:  # no thread can be started for the other server's writer
                command.error = exc
            command.error = translated(command.error, self._address, sent=command.sent)
        return command.answer()

    def _exchange(self, group: Sequence[Command], *, load: bool = False) -> None:
        """Sends commands in one pipeline, and sets their replies and errors."""
        try:
            connection = self._connected()
        except DRIVER as exc:
            _fail(group, exc)
            return
        scripts = {command.script.digest: command.script.text for command in group} if load else {}
        lines: list[Sequence[bytes]] = [(b"SCRIPT", b"LOAD", text) for text in scripts.values()]
        for command in group:
            command.error, command.sent = None, True
            lines += [_ASKING, command.args] if command.asking else [command.args]
        confirms = self._lane.confirming(group)
        answered = 0
        try:
            connection.send_packed_command(connection.pack_commands([*lines, *confirms]))
            for _ in scripts:
                _reply(connection)
            for command in group:
                if command.asking:
                    _reply(connection)
                command.reply, command.error = _reply(connection)
                answered += 1
            if confirms:
                self._lane.confirm(group, [_reply(connection) for _ in confirms])
        except DRIVER as exc:
            connection.disconnect()
            # Those whose replies are missing; and without the confirmation no write is confirmed.
            lost = [one for n, one in enumerate(group) if n >= answered or (confirms and one.script.writes)]
            _fail([one for one in lost if one.error is None], exc)
            return
        if any(isinstance(command.error, ReadOnlyError) for command in group):
            connection.disconnect()  # since a failover, the name of the server may lead to another one

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._lane.nodes.connection(self._address)
        connection = self._connection
        connection.connect()
        try:
            stale = connection.can_read()  # nothing was asked, so this is the end of the stream
        except DRIVER:
            stale = True
        if stale:
            connection.disconnect()
            connection.connect()
        return connection

    def _passed_on(self, command: Command, seen: Sequence[str]) -> bool:
        """Passes a command on that nobody has performed, if another server has its tag. Returns ``True`` if it did."""
        error, nodes = command.error, self._lane.nodes
        if isinstance(error, _ELSEWHERE) or (isinstance(error, DRIVER) and not isinstance(error, ResponseError)):
            nodes.refresh(seen)
        if isinstance(error, AskError):  # also MOVED
            address = f"{error.host}:{error.port}"
        else:
            address = nodes.addresses[command.tag]
            if address == self._address or (command.sent and not isinstance(error, ReadOnlyError)):
                return False
        if command.hops >= _MOST_HOPS:
            return False
        command.hops += 1
        command.asking = isinstance(error, AskError) and not isinstance(error, MovedError)
        command.error, command.sent = None, False
        self._lane.send(command, address)
        return True


def _reply(connection: Connection) -> tuple[Any, Exception | None]:
    """Returns the next reply and ``None``, or ``None`` and the error that it is."""
    try:
        return connection.read_response(), None
    except ResponseError as exc:
        return None, exc


def _fail(group: Sequence[Command], error: Exception) -> None:
    for command in group:
        command.error = error
