"""Which calls of a client get a key, and which key, for both kinds of channel."""

import hashlib
import secrets
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from grpc_idempotency import _checks
from grpc_idempotency._checks import checked_by_name
from grpc_idempotency._methods.names import REQUEST_ID, is_grpcs_own
from grpc_idempotency._methods.resolve import Methods
from grpc_idempotency._operation.scope import Scope, Ticket
from grpc_idempotency._wire.fingerprint import MESSAGE_COUNT
from grpc_idempotency._wire.key import Metadata, carries_key
from grpc_idempotency.errors import PolicyError
from grpc_idempotency.policy import Policy, checked_headers

UNCLEAR = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
    }
)
"""The statuses after which the same call, if it is made again at once, counts as a retry."""

_LISTS: tuple[type[Iterable[Any]], ...] = (list, tuple, type(iter([])), type(iter(())))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPolicy:
    """How a client's calls of a method get their keys.

    Raises:
        PolicyError: A field has a wrong type or is out of range; the message names the field.
    """

    keyed: bool | None = None
    """True if calls get a key. ``None``: all calls, except bidirectional streams and methods whose proto says
    ``NO_SIDE_EFFECTS``. Calls of gRPC's own services (health, reflection, channelz) get a key only if a policy names
    the method exactly."""
    headers: tuple[str, ...] | None = None
    """The metadata names of keys, lower case. A new key goes under the first name; a caller's key under any of them is
    kept. ``None``: as the method's proto says, else ``idempotency-key``."""
    count_up_to: int = 0
    """How many messages of a client-stream of unknown length are read before the call begins, to count them. A longer
    stream is not counted. Zero reads nothing beforehand."""

    def __post_init__(self) -> None:
        _checks.number("ClientPolicy.count_up_to", self.count_up_to)
        if self.keyed is not None:
            _checks.flag("ClientPolicy.keyed", self.keyed)
        if self.headers is not None:
            object.__setattr__(self, "headers", checked_headers(self.headers, "ClientPolicy"))


_UNKEYED = ClientPolicy(keyed=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules for the calls of one method."""

    method: str
    keyed: bool
    reads: bool
    """True if it has no side effects: its proto says so, or it belongs to gRPC's own services."""
    headers: tuple[str, ...]
    count_up_to: int


class Clients:
    """The configuration of a client's interceptors, strongest source first: Python by name, by glob; the proto."""

    def __init__(self, policy: ClientPolicy, methods: Mapping[str, ClientPolicy] | None) -> None:
        self._default = _checks.one_of("policy", policy, ClientPolicy)
        self._by_name = checked_by_name(methods, ClientPolicy)
        # As on a server, a method of gRPC's own services that is named here is like any other.
        named = {name: Policy() for name in self._by_name if is_grpcs_own(name)}
        self._protos = Methods(Policy(), named, lambda _: None)
        self._known: dict[tuple[str, bool], Rules] = {}

    def rules(self, name: str | bytes, *, bidirectional: bool) -> Rules:
        """Returns the rules for a method's calls. grpc.aio passes the name as bytes."""
        method = name.decode() if isinstance(name, bytes) else name
        rules = self._known.get((method, bidirectional))
        if rules is None:
            rules = self._known[method, bidirectional] = self._find(method, bidirectional=bidirectional)
        return rules

    def _find(self, method: str, *, bidirectional: bool) -> Rules:
        policy = self._policy(method)
        try:
            known = self._protos[method]
        except PolicyError:  # the server reports a proto's policy that can't be met
            known = replace(self._protos["/"], name=method)
        return Rules(
            method=method,
            keyed=not (bidirectional or known.passes) if policy.keyed is None else policy.keyed,
            reads=known.passes,
            headers=policy.headers or known.policy.headers,
            count_up_to=policy.count_up_to,
        )

    def _policy(self, method: str) -> ClientPolicy:
        if method in self._by_name:
            return self._by_name[method]
        if is_grpcs_own(method):
            return _UNKEYED
        found = (policy for pattern, policy in self._by_name.items() if fnmatchcase(method, pattern))
        return next(found, self._default)


def readable(metadata: Any) -> Metadata | None:
    """Returns the caller's metadata in a form that can be read more than once.

    gRPC takes any iterable. Looking for a key would use a generator up, and the call would then lack its entries.
    """
    if metadata is None or isinstance(metadata, tuple | list | grpc.aio.Metadata):
        return metadata
    return tuple(metadata)


def prepare(
    rules: Rules, metadata: Metadata | None, requests: Any, count: int | None, scope: Scope | None
) -> tuple[list[tuple[str, str]], Ticket | None]:
    """Returns the metadata to add to a call, and the call's ticket in its scope if its key is derived there.

    Raises:
        ConcurrentCalls: Another call of the scope is running.
    """
    ours: list[tuple[str, str]] = []
    ticket: Ticket | None = None
    given = carries_key(metadata, rules.headers) or _has_request_id(requests)
    if rules.keyed and not given:
        if scope is not None:
            ticket = scope.begin(rules.method, fingerprint_of(requests))
        ours.append((rules.headers[0], ticket.key if ticket is not None else mint()))
    if scope is not None:
        scope.vouch(given or rules.keyed or rules.reads)
    if count is not None and not carries_key(metadata, (MESSAGE_COUNT,)):
        ours.append((MESSAGE_COUNT, str(count)))
    return ours, ticket


def wants_count(rules: Rules, metadata: Metadata | None) -> bool:
    """Returns whether a client-stream must announce the number of its messages (4.8), and does not yet."""
    keyed = rules.keyed or carries_key(metadata, rules.headers)
    return keyed and not carries_key(metadata, (MESSAGE_COUNT,))


def known_count(messages: Any) -> tuple[Any, int | None]:
    """Returns a stream's messages, and their number if they are in a collection. Lists and tuples are copied."""
    if isinstance(messages, _LISTS):
        messages = tuple(messages)
    return messages, len(messages) if isinstance(messages, Sized) else None


def _has_request_id(request: Any) -> bool:
    value = getattr(request, REQUEST_ID, None)
    return isinstance(value, str) and value != ""


def fingerprint_of(requests: Any) -> bytes | None:
    """Returns the digest of a request, or of a tuple of them; ``None`` if they are not known beforehand."""
    parts: Sequence[Any] = requests if isinstance(requests, tuple) else (requests,)
    digest = hashlib.sha256()
    for part in parts:
        raw = part.SerializeToString(deterministic=True) if isinstance(part, Message) else part
        if not isinstance(raw, bytes):
            return None
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.digest()


def mint() -> str:
    """Returns a new key: a UUID of version 7 (RFC 9562, 5.7), so that keys of one time are adjacent in an index."""
    random = secrets.randbits(74)
    stamp = time.time_ns() // 1_000_000
    value = stamp << 80 | 0x7 << 76 | random >> 62 << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=value))
