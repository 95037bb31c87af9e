"""The commands of a request: calls of scripts, each on the keys of one hash tag."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from grpc_idempotency.stores._calls.requests import Request
from grpc_idempotency.stores._redis.scripts import Script

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
