"""The commands of a request: calls of scripts, each on the keys of one hash tag."""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

from grpc_idempotency.stores._calls.requests import Request
from grpc_idempotency.stores._redis.keys import Keys, tag_of
from grpc_idempotency.stores._redis.scripts import NAMES, Script, script

T = TypeVar("T")


class Command:
    """One call of a script. The writer that sends it sets its reply or its error.

    Args:
        tag: The number of the hash tag of its keys.
        script: The script.
        keys: The names of the keys.
        args: The other arguments.
    """

    __slots__ = ("answer", "args", "asking", "error", "hops", "reply", "script", "sent", "size", "tag")

    answer: Callable[[], Request[Any] | None]
    """Called by the writer once the command is answered. Returns the request if that was its last command."""

    def __init__(self, tag: int, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> None:
        self.tag = tag
        self.script = script
        self.args = (b"EVALSHA", script.digest, b"%d" % len(keys), *keys, *args)
        self.size = sum(map(len, args))
        self.reply: Any = None
        self.error: Exception | None = None
        self.sent = False
        """True if the server may have got it."""
        self.hops = 0
        """How often it was passed on to another server."""
        self.asking = False
        """True if the server has to be told that it is to answer for a slot that is moving to it."""


Plan = Generator[Sequence[Command], Any, T]
"""A request as a generator: it yields commands that are independent of each other, and is sent their replies."""


class Commands:
    """Makes the commands of one store.

    Args:
        keys: The names of the store's keys.
        clock: Returns the time in milliseconds, for tests; ``None``: the server's clock decides.
    """

    def __init__(self, keys: Keys, clock: Callable[[], int] | None) -> None:
        self._keys = keys
        self._clock = clock
        self._scripts = {name: script(name) for name in NAMES}

    def at(self, tag: int, script_name: str, keys: Sequence[bytes], *args: bytes) -> Command:
        """Returns a command on keys of one tag."""
        return Command(tag, self._scripts[script_name], keys, (self._now(), *args))

    def on(
        self, name: bytes, script_name: str, own: Iterable[Sequence[bytes]], shared: Sequence[bytes], *args: bytes
    ) -> Command:
        """Returns a command on an operation: on keys of its own, and on keys that its tag's operations share."""
        tag = tag_of(name)
        return self.at(tag, script_name, [*(kind[tag] + name for kind in own), *shared], name, *args)

    def reading(self, name: bytes, *, requested: bool = False) -> Command:
        """Returns a command that reads a record, and its request if it is wanted."""
        own = (self._keys.value, self._keys.request) if requested else (self._keys.value,)
        return self.on(name, "read", own, ())

    def _now(self) -> bytes:
        return b"" if self._clock is None else b"%d" % self._clock()
