"""Admission: turns an incoming call into a keyed call or a refusal, checked in the order of the table (2.3)."""

import functools
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from grpc_idempotency import _checks
from grpc_idempotency._methods.names import REQUEST_ID
from grpc_idempotency._methods.resolve import Method
from grpc_idempotency._protocol.effects import Call
from grpc_idempotency._protocol.refusals import Reason, Refusal
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.replays import Kept, Replays
from grpc_idempotency._server.target import Target
from grpc_idempotency._wire.canonical import canonical
from grpc_idempotency._wire.digest import hashed
from grpc_idempotency._wire.fingerprint import (
    MESSAGE_COUNT,
    InvalidCount,
    StreamFingerprint,
    fingerprint,
    message_count,
)
from grpc_idempotency._wire.key import InvalidKey, digest_name, find_key, parse_key
from grpc_idempotency.policy import Policy
from grpc_idempotency.principals import SHARED, PrincipalFunction, mtls_or_shared, principal_of
from grpc_idempotency.records import Code, Fingerprint, Outcome, StoredRequest

logger = logging.getLogger("grpc_idempotency")

MESSAGE_OVERHEAD = 64
"""Bytes that each message of a client-stream counts on top of its size, since an empty one takes memory too."""


class NotAdmitted(Exception):
    """The call is not admitted: it gets this answer, and its handler does not run."""

    def __init__(self, answer: Refusal | Outcome) -> None:
        super().__init__(answer)
        self.answer = answer


Named = tuple[bytes, bytes]
"""The name of an operation, and its principal."""


class Admitted(NamedTuple):
    """A call that is not refused."""

    call: Call | None
    """The keyed call; ``None`` if no key came and none is required."""
    messages: Sequence[Any]
    """The request messages as the handler sees them; empty if they were not parsed."""
    kept: Kept | None = None
    """The outcome that is kept in memory for this call, if any. Its reply is the answer then."""


class Admission:
    """Decides whether a call is keyed, and finds its name, principal and fingerprint.

    Args:
        principal: Returns the principal to whom a call's key belongs.
        secret: Makes names and fingerprints HMACs.
        replays: The outcomes that are kept in memory.
        one_commit: True if the store writes the record of an operation that was not claimed in the commit of its
            transaction (5.1).
        trace: Returns the trace context of the current call; ``None`` if nobody knows it.
    """

    def __init__(
        self,
        principal: PrincipalFunction,
        secret: bytes | None,
        replays: Replays,
        *,
        one_commit: bool,
        trace: Callable[[], bytes] | None = None,
    ) -> None:
        self._principal: PrincipalFunction = _checks.plain_function("principal", principal)
        self._secret = _checks.secret("secret", secret)
        self._one_commit = one_commit
        self._trace = trace
        self._shared = principal is mtls_or_shared
        """True if a call without a verified identity belongs to the shared principal."""
        self.replays = replays

    def admit(self, target: Target, snapshot: Snapshot, raw: bytes) -> Admitted:
        """Admits a call with one request message.

        A request whose reply is kept is not parsed: its bytes equal those of one that was admitted under the same name.

        Args:
            target: The handler.
            snapshot: The values taken from the live context.
            raw: The request's bytes.

        Raises:
            NotAdmitted: The call is refused.
        """
        method = target.method
        key = named = digest = None
        refused: NotAdmitted | None = None
        try:
            key = find_key(snapshot.caller.metadata, method.policy.headers)
            if key is not None:
                named = self._named(method, snapshot, key)
        except InvalidKey as exc:
            refused = _invalid(method.policy.headers[0], exc)
        except NotAdmitted as exc:
            refused = exc
        if named is not None and self.replays.may_have(named[0]):
            kept = self.replays.find(named[0])
            digest = hashed(raw, self._secret)
            if kept is not None and kept.digest == digest:
                return Admitted(None, (), kept)
        message = read(target, raw)
        request_id = getattr(message, REQUEST_ID, "") if method.has_request_id else ""
        if request_id and (refused is None or key is not None):
            asked = _request_id(request_id, key)
            if key is None:
                named = self._named(method, snapshot, asked)
        if refused is not None:
            raise refused
        if named is None:
            if method.policy.required:
                raise _missing(method)
            return Admitted(None, (message,))
        prints = fingerprint(raw, message, method.policy.fingerprint_exclude, self._secret, digest)
        stored = (raw,) if method.recovers and not _tells_key(method, message, self._secret) else None
        trace = b"" if self._trace is None else self._trace()
        call = _call(target, snapshot, named, prints, stored, one_commit=self._one_commit, trace=trace)
        return Admitted(call, (message,))

    def stream(self, target: Target, snapshot: Snapshot) -> "Intake":
        """Admits a call with a stream of request messages, which has a key or needs one.

        Raises:
            NotAdmitted: The call is refused.
        """
        method = target.method
        try:
            key = find_key(snapshot.caller.metadata, method.policy.headers)
        except InvalidKey as exc:
            raise _invalid(method.policy.headers[0], exc) from None
        if key is None:
            raise _missing(method)
        named = self._named(method, snapshot, key)
        if target.response_streams:
            raise NotAdmitted(Refusal(reason=Reason.STREAMING_UNSUPPORTED, variables={"method": method.name}))
        trace = b"" if self._trace is None else self._trace()
        return Intake(target, snapshot, named, self._secret, one_commit=self._one_commit, trace=trace)

    def leaves_to_clients(self, method: Method) -> bool:
        """True if recovery is on for a method, but can't finish its operations whose key came in the request."""
        return method.has_request_id and method.policy.recovers and self._secret is not None

    def _named(self, method: Method, snapshot: Snapshot, key: str) -> Named:
        shared = self._shared and not snapshot.caller.peer_identities
        principal = SHARED if shared else principal_of(self._principal, snapshot.caller)
        if not principal:
            raise NotAdmitted(Refusal(reason=Reason.PRINCIPAL_REQUIRED, variables={"method": method.name}))
        return digest_name(principal, method.name, key, self._secret), principal


def _request_id(request_id: str, key: str | None) -> str:
    """Returns the key from the request's field ``request_id``. A key in the metadata must equal it."""
    try:
        asked = parse_key(request_id)
        if key is not None and key != asked:
            raise InvalidKey("another key came in the metadata, and the two differ")
    except InvalidKey as exc:
        raise _invalid(REQUEST_ID, exc) from None
    return asked


def _invalid(field: str, problem: InvalidKey) -> NotAdmitted:
    return NotAdmitted(Refusal(reason=Reason.KEY_INVALID, variables={"field": field, "problem": str(problem)}))


def _missing(method: Method) -> NotAdmitted:
    variables = {"field": method.policy.headers[0], "method": method.name}
    return NotAdmitted(Refusal(reason=Reason.KEY_REQUIRED, variables=variables))


class Intake:
    """The messages of a keyed client-stream, whose handler runs only once all of them have come (4.8).

    Each message is parsed and digested when it comes, so that no work piles up until the last one. Its bytes are kept
    only if a run without the client may need them. Each method raises :class:`NotAdmitted` if the stream is refused.
    """

    def __init__(
        self,
        target: Target,
        snapshot: Snapshot,
        named: Named,
        secret: bytes | None,
        *,
        one_commit: bool,
        trace: bytes,
    ) -> None:
        self._target = target
        self._method = target.method
        self._snapshot = snapshot
        self._named = named
        self.name = named[0]
        """The operation's name."""
        self._secret = secret
        self._one_commit = one_commit
        self._trace = trace
        self._prints = StreamFingerprint(secret)
        self._raws: list[bytes] | None = [] if target.method.policy.recovers else None
        """The messages to store for recovery; ``None`` if none are stored."""
        self.messages: list[Any] = []
        """The messages that have come, as the handler sees them."""
        try:
            self._announced = message_count(snapshot.caller.metadata)
        except InvalidCount as exc:
            raise self._wrong_length(str(exc)) from None
        self._room = target.method.policy.max_request_bytes
        self._take_room(self._announced * MESSAGE_OVERHEAD)

    def take(self, raw: bytes) -> None:
        """Takes in one more message."""
        if len(self.messages) == self._announced:
            raise self._wrong_length(f"{self._announced} were announced, and more came")
        self._take_room(len(raw))
        message = read(self._target, raw)
        self.messages.append(message)
        self._prints.add(raw, canonical(raw, message, self._method.policy.fingerprint_exclude))
        if self._raws is not None:
            self._raws.append(raw)
            if _tells_key(self._method, message, self._secret):
                self._raws = None

    def end(self) -> Call:
        """Returns the call when the stream has ended. A stream that was cut off ends the same way, but is too short."""
        if len(self.messages) < self._announced:
            variables = {
                "method": self._method.name,
                "received": str(len(self.messages)),
                "announced": str(self._announced),
            }
            raise NotAdmitted(Refusal(reason=Reason.STREAM_TRUNCATED, variables=variables))
        prints = self._prints.end()
        return _call(
            self._target,
            self._snapshot,
            self._named,
            prints,
            self._raws,
            one_commit=self._one_commit,
            trace=self._trace,
        )

    def _take_room(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            details = (
                f"The messages of a keyed call to {self._method.name} may have "
                f"{self._method.policy.max_request_bytes} bytes in all, where each counts {MESSAGE_OVERHEAD} more than "
                f"it has, and the {self._announced} that were announced have more."
            )
            raise NotAdmitted(Outcome(status=Code.RESOURCE_EXHAUSTED, details=details))

    def _wrong_length(self, problem: str) -> NotAdmitted:
        variables = {"method": self._method.name, "field": MESSAGE_COUNT, "problem": problem}
        return NotAdmitted(Refusal(reason=Reason.STREAM_LENGTH_REQUIRED, variables=variables))


def read(target: Target, raw: bytes) -> Any:
    """Returns the message as the handler sees it.

    Raises:
        NotAdmitted: The bytes can't be parsed. The answer is the same as gRPC's own.
    """
    try:
        return raw if target.deserialize is None else target.deserialize(raw)
    except Exception:
        logger.exception("a request to %s could not be deserialized", target.method.name)
        raise NotAdmitted(Outcome(status=Code.INTERNAL, details="Exception deserializing request!")) from None


def _call(
    target: Target,
    snapshot: Snapshot,
    named: Named,
    prints: Fingerprint,
    stored: Sequence[bytes] | None,
    *,
    one_commit: bool,
    trace: bytes,
) -> Call:
    policy = target.method.policy
    until = time.monotonic() + policy.wait.total_seconds()
    if snapshot.deadline is not None:
        until = min(until, snapshot.deadline - policy.wait_margin.total_seconds())
    return Call(
        named[0],
        target.method.name,
        prints,
        policy,
        until,
        target.response_streams,
        named[1],
        None if stored is None else _stored(policy, snapshot, named[1], stored),
        owner=process_name(),
        unclaimed=one_commit and target.method.needs_no_claim,
        trace=trace,
    )


@functools.cache
def process_name() -> str:
    """Returns ``host:pid`` of this process, in ASCII, so that every store can keep it."""
    return f"{socket.gethostname().encode('ascii', 'backslashreplace').decode()}:{os.getpid()}"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=process_name.cache_clear)


def _tells_key(method: Method, message: Any, secret: bytes | None) -> bool:
    """True if a request must not be stored, since it has a key in it: its own or, in a stream, another call's (6.5)."""
    return secret is not None and method.has_request_id and getattr(message, REQUEST_ID, "") != ""


def _stored(policy: Policy, snapshot: Snapshot, principal: bytes, raws: Sequence[bytes]) -> StoredRequest:
    """Returns the request that is stored for a run without the client (5.4)."""
    metadata = tuple((name, value) for name, value in snapshot.caller.metadata if name in policy.kept_metadata)
    return StoredRequest(principal=principal, metadata=metadata, messages=tuple(raws))
