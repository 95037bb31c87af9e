"""The scopes in which keys are derived instead of minted (5.3): an operation, each of its steps, and a retried block.

A scope derives the key of each call made in it from its secret, the method, and the call's number within the scope. If
a scope with the same secret is opened again and the same calls are made, they get the same keys. So the calls in one
scope must come one after the other: the numbers of concurrent calls would not be stable.
"""

import contextvars
import hmac
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from grpc_idempotency._operation.ambient import HOLDER
from grpc_idempotency.errors import ConcurrentCalls, UnkeyedRetry

CURRENT: contextvars.ContextVar["Scope | None"] = contextvars.ContextVar("grpc_idempotency_scope", default=None)
"""The scope of a step or of a retried block; ``None``: the scope is that of the operation, if there is one."""


class Ticket:
    """One call's place in a scope."""

    __slots__ = ("_call", "fingerprint", "key", "known_ended", "method", "number", "unclear")

    def __init__(self, key: str, method: str, number: int, fingerprint: bytes | None) -> None:
        self.key: str = key
        self.method: str = method
        self.number: int = number
        self.fingerprint: bytes | None = fingerprint
        """The digest of the call's requests, if they are known beforehand."""
        self._call: Callable[[], Any] | None = None
        self.known_ended: bool = False
        """True if the call has ended; used when there is no call object to ask."""
        self.unclear: bool = False
        """True if the call has ended, and nobody knows whether it took effect."""

    def begun(self, call: Any, *, weakly: bool = False) -> None:
        """Notes that the call has begun.

        Args:
            call: The call object of grpc.
            weakly: ``True`` keeps a weak reference, since grpc cancels a call that its caller has dropped.
        """
        self._call = lambda: call
        if weakly:
            with suppress(TypeError):
                self._call = weakref.ref(call)

    @property
    def call(self) -> Any:
        """The call object, once the call has begun and while the object is alive."""
        return self._call() if self._call is not None else None

    @property
    def ended(self) -> bool:
        """True if the call is not under way any more."""
        if self.known_ended or self._call is None:
            return self.known_ended
        done = getattr(self._call(), "done", None)  # an interceptor may have put something else in the call's place
        return done is None or bool(done())

    def abandon(self) -> None:
        """Notes that the call could not be begun, or was cancelled while it began."""
        self.known_ended = self.unclear = True


class Scope:
    """The calls that are made one after the other in one run of an operation, a step or a retried block."""

    def __init__(self, secret: bytes, *, outer: "Scope | None" = None, until: float | None = None) -> None:
        """Makes a scope.

        Args:
            secret: The bytes from which its keys are derived.
            outer: The scope in which this one is opened. Its ``until`` bounds the calls too.
            until: When the calls must have ended, in seconds of the monotonic clock; ``None``: no limit.
        """
        bounds = [bound for bound in (until, outer.until if outer is not None else None) if bound is not None]
        self._secret = secret
        self._outer = outer
        self.until: float | None = min(bounds, default=None)
        self._lock = threading.Lock()
        self._vouched: bool | None = None
        self.last: Ticket | None = None
        """The latest call that was given a key."""
        self.ended: bool = False
        """True once its operation, step or block has ended. Tasks left behind then make calls with new keys."""

    def child(self, name: str) -> "Scope":
        """Returns the scope of the step of this name, which numbers its calls separately."""
        return Scope(_derive(self._secret, b"scope", name.encode()), outer=self)

    @contextmanager
    def opened(self) -> Iterator["Scope"]:
        """Makes this the current scope in a ``with`` block. Tasks started there have it until the block ends, too."""
        token = CURRENT.set(self)
        try:
            yield self
        finally:
            self.ended = True
            CURRENT.reset(token)

    def begin(self, method: str, fingerprint: bytes | None = None) -> Ticket:
        """Gives the next call its number and key.

        If the last call's outcome is unclear, and this is the same method with the same request, it is a retry,
        whichever code makes it: it gets the same number and key.

        Args:
            method: The full method name.
            fingerprint: The digest of the requests, if they are known beforehand.

        Raises:
            ConcurrentCalls: The last call is still under way.
        """
        with self._lock:
            number = 0
            if self.last is not None:
                if not self.last.ended:
                    raise ConcurrentCalls(_CONCURRENT.format(method=method, other=self.last.method))
                number = self.last.number + (not self._repeats(self.last, method, fingerprint))
            self.last = Ticket(self._key(method, number), method, number, fingerprint)
            return self.last

    @staticmethod
    def _repeats(last: Ticket, method: str, fingerprint: bytes | None) -> bool:
        return last.unclear and fingerprint is not None and (last.method, last.fingerprint) == (method, fingerprint)

    def _key(self, method: str, number: int) -> str:
        return "d1-" + _derive(self._secret, b"call", method.encode(), str(number).encode()).hex()[:40]

    def timeout(self, given: float | None) -> float | None:
        """Returns the timeout of a call in seconds: ``given``, but no more than the scope has left."""
        if self.until is None:
            return given
        left = max(0.0, self.until - time.monotonic())
        return left if given is None else min(given, left)

    def vouch(self, safe: bool) -> None:
        """Notes that a call was made, and whether it is safe to repeat: it has a key, or no side effects."""
        self._vouched = safe and self._vouched is not False
        if self._outer is not None:
            self._outer.vouch(safe)

    def check_repeatable(self, error: BaseException) -> None:
        """Checks that the block which failed with this error may be repeated.

        Raises:
            UnkeyedRetry: A call without a key was made, or no call was seen.
        """
        if not self._vouched:
            raise UnkeyedRetry(_UNSEEN if self._vouched is None else _UNKEYED) from error


class Block:
    """A block that is retried as a whole until it succeeds. Each attempt makes its calls with the same keys."""

    def __init__(self) -> None:
        outer = current_scope()
        self._place = outer.begin("retry") if outer is not None else None
        self._outer = outer
        self._secret = self._place.key.encode() if self._place is not None else secrets.token_bytes(32)

    def attempt(self, until: float | None) -> Scope:
        """Returns the scope of the next attempt."""
        return Scope(self._secret, outer=self._outer, until=until)

    def __enter__(self) -> "Block":
        return self

    def __exit__(self, *_: object) -> None:
        if self._place is not None:
            self._place.known_ended = True


def current_scope() -> Scope | None:
    """Returns the scope of calls made now; ``None`` if their keys are minted."""
    scope = CURRENT.get()
    if scope is None:
        holder = HOLDER.get()
        if holder is not None and not holder.operation.ended:
            scope = holder.operation.scope
    return None if scope is None or scope.ended else scope


def scope_of(operation: bytes) -> Scope:
    """Returns the scope of an operation, outside of its steps."""
    return Scope(operation)


def _derive(secret: bytes, *parts: bytes) -> bytes:
    return hmac.digest(secret, b"".join(len(part).to_bytes(8, "big") + part for part in parts), "sha256")


_CONCURRENT = (
    "{method} is called while {other}, called before it in the same place, is still under way. Calls there carry keys "
    "that follow from their order, so that every run has the same, and concurrent calls have none. Wait for the first "
    "one's end (read a stream to its end, or cancel it), or make each of the calls in a step of its own."
)
_UNSEEN = (
    "A call that failed is not made again, since no call with an idempotency key was seen: make the channel with "
    "grpc.intercept_channel(channel, ClientInterceptor()) or with interceptors=aio.client_interceptors()."
)
_UNKEYED = (
    "A call that failed is not made again, since a call was made without an idempotency key. Let its ClientPolicy say "
    "keyed=True, or keep it out of what is retried."
)
