"""What a server's methods say of themselves, and which policy each one gets (7)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from grpc_idempotency.errors import PolicyError
from grpc_idempotency.policy import Policy
from grpc_idempotency.records import Effects

REQUEST_ID = "request_id"
"""The field of AIP-155."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of the server, as far as idempotency goes."""

    name: str
    """``/package.Service/Method``."""
    policy: Policy
    passes: bool
    """Whether its calls, keyed or not, pass through: it has no side effects, and nothing of it is to be kept."""
    has_request_id: bool
    """Whether its request message has the string field of AIP-155."""


class Methods:
    """Finds a method's rules, strongest source first: Python by name, by glob; its proto's options; the default."""

    def __init__(self, default: Policy, by_name: Mapping[str, Policy]) -> None:
        for pattern in by_name:
            if not pattern.startswith("/"):
                raise PolicyError(
                    f"{pattern!r} names no method: write /package.Service/Method, or a glob of that form."
                )
        self._default = default
        self._by_name = dict(by_name)
        self._globs = [(pattern, policy) for pattern, policy in by_name.items() if any(c in pattern for c in "*?[")]
        self._known: dict[str, Method] = {}

    def __getitem__(self, name: str) -> Method:
        """The rules of a method of this name, whether there is one or not."""
        method = self._known.get(name)
        if method is None:
            method = self._find(name)
            self._known[name] = method
        return method

    def _find(self, name: str) -> Method:
        descriptor = _descriptor(name)
        level = descriptor.GetOptions().idempotency_level if descriptor else MethodOptions.IDEMPOTENCY_UNKNOWN
        policy = self._configured(name)
        if policy is None:
            policy = self._default
            if level == MethodOptions.IDEMPOTENT:
                policy = replace(policy, effects=Effects.REPEATABLE)
        reads = level == MethodOptions.NO_SIDE_EFFECTS
        if reads and policy.keep_reads:
            policy = replace(policy, effects=Effects.REPEATABLE)
        return Method(
            name=name,
            policy=policy,
            passes=reads and not policy.keep_reads,
            has_request_id=descriptor is not None and _has_request_id(descriptor),
        )

    def _configured(self, name: str) -> Policy | None:
        if name in self._by_name:
            return self._by_name[name]
        return next((policy for pattern, policy in self._globs if fnmatchcase(name, pattern)), None)

    def unmatched(self, names: set[str]) -> list[str]:
        """The configured names and globs that none of these methods answers to: a misspelling, most likely."""
        return [
            pattern
            for pattern in self._by_name
            if not any(pattern == name or fnmatchcase(name, pattern) for name in names)
        ]


def _descriptor(name: str) -> MethodDescriptor | None:
    """The method's descriptor, where its generated code uses the default pool, as protoc's does."""
    try:
        return descriptor_pool.Default().FindMethodByName(name.lstrip("/").replace("/", "."))
    except KeyError:
        return None


def _has_request_id(method: MethodDescriptor) -> bool:
    field = method.input_type.fields_by_name.get(REQUEST_ID)
    # A repeated field's default is a list; the attributes that say so come and go between versions of protobuf.
    return field is not None and field.type == FieldDescriptor.TYPE_STRING and isinstance(field.default_value, str)
