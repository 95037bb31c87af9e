"""A client's half: which calls get a key, and which key. What both kinds of channel know of it."""

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
"""The statuses after which the same call, made again at once, is a retry."""

_LISTS: tuple[type[Iterable[Any]], ...] = (list, tuple, type(iter([])), type(iter(())))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPolicy:
    """How a client's calls of a method get their keys.

    Raises :class:`~grpc_idempotency.errors.PolicyError`, naming the field, for a value that can't be met.
    """

    keyed: bool | None = None
    """Whether calls get a key. ``None``: all but bidirectional streams, and but methods whose proto says that they have
    ``NO_SIDE_EFFECTS``. gRPC's own services (health, reflection, channelz) get one only where a policy names the method
    exactly."""
    headers: tuple[str, ...] | None = None
    """The metadata names of keys, lower case: ours goes under the first, and a caller's under any of them is kept.
    ``None``: as the method's proto says, else ``idempotency-key``."""
    count_up_to: int = 0
    """How many messages of a client-stream whose number is not known are read before the call begins, to be counted. A
    longer stream goes uncounted, and zero reads nothing beforehand."""

    def __post_init__(self) -> None:
        _checks.number("ClientPolicy.count_up_to", self.count_up_to)
        if self.keyed is not None:
            _checks.flag("ClientPolicy.keyed", self.keyed)
        if self.headers is not None:
            object.__setattr__(self, "headers", checked_headers(self.headers, "ClientPolicy"))


_UNKEYED = ClientPolicy(keyed=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for the calls of one method."""

    method: str
    keyed: bool
    reads: bool
    """Whether it has no side effects, as its proto says, or as gRPC's own services have none."""
    headers: tuple[str, ...]
    count_up_to: int


class Clients:
    """The configuration of a client's interceptors, strongest source first: Python by name, by glob; the proto."""

    def __init__(self, policy: ClientPolicy, methods: Mapping[str, ClientPolicy] | None) -> None:
        self._default = _checks.one_of("policy", policy, ClientPolicy)
        self._by_name = checked_by_name(methods, ClientPolicy)
        # One of gRPC's own methods is like any other where it is named, here as on a server.
        named = {name: Policy() for name in self._by_name if is_grpcs_own(name)}
        self._protos = Methods(Policy(), named, lambda _: None)
        self._known: dict[tuple[str, bool], Rules] = {}

    def rules(self, name: str | bytes, *, bidirectional: bool) -> Rules:
        """What holds for a method's calls; grpc.aio has names as bytes."""
        method = name.decode() if isinstance(name, bytes) else name
        rules = self._known.get((method, bidirectional))
        if rules is None:
            rules = self._known[method, bidirectional] = self._find(method, bidirectional=bidirectional)
        return rules

    def _find(self, method: str, *, bidirectional: bool) -> Rules:
        policy = self._policy(method)
        try:
            known = self._protos[method]
        except PolicyError:  # what a proto says that can't be met is the server's to complain of
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
    """The caller's metadata in a form that can be read more than once.

    gRPC takes any iterable. The first look for a key uses a generator up, and the call would then lack its entries.
    """
    if metadata is None or isinstance(metadata, tuple | list | grpc.aio.Metadata):
        return metadata
    return tuple(metadata)


def prepare(
    rules: Rules, metadata: Metadata | None, requests: Any, count: int | None, scope: Scope | None
) -> tuple[list[tuple[str, str]], Ticket | None]:
    """What a call's metadata gets from us, and the call's place in its scope, where its key is derived.

    Raises :class:`~grpc_idempotency.errors.ConcurrentCalls`.
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
    """Whether a client-stream is to announce the number of its messages (4.8)."""
    keyed = rules.keyed or carries_key(metadata, rules.headers)
    return keyed and not carries_key(metadata, (MESSAGE_COUNT,))


def known_count(messages: Any) -> tuple[Any, int | None]:
    """A stream's messages, and their number where they are in a collection; lists are kept as they are now."""
    if isinstance(messages, _LISTS):
        messages = tuple(messages)
    return messages, len(messages) if isinstance(messages, Sized) else None


def _has_request_id(request: Any) -> bool:
    value = getattr(request, REQUEST_ID, None)
    return isinstance(value, str) and value != ""


def fingerprint_of(requests: Any) -> bytes | None:
    """The digest of a request, or of a list of them; ``None`` where they are not known beforehand."""
    parts: Sequence[Any] = requests if isinstance(requests, tuple) else (requests,)
    digest = hashlib.sha256()
    for part in parts:
        raw = part.SerializeToString(deterministic=True) if isinstance(part, Message) else part
        if not isinstance(raw, bytes):
            return None
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.digest()


def mint() -> str:
    """A new key: a UUID of version 7 (RFC 9562, 5.7), so that keys of one time stand together in an index."""
    random = secrets.randbits(74)
    stamp = time.time_ns() // 1_000_000
    value = stamp << 80 | 0x7 << 76 | random >> 62 << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=value))
