"""Finds the policy of each method (7)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TypeVar

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from grpc_idempotency import _checks
from grpc_idempotency._checks import checked_by_name
from grpc_idempotency._methods.names import REQUEST_ID, is_grpcs_own
from grpc_idempotency._methods.option import option_of, overlay
from grpc_idempotency._protocol.rules import needs_no_claim
from grpc_idempotency.errors import PolicyError
from grpc_idempotency.policy import Policy
from grpc_idempotency.records import Effects

T = TypeVar("T")

MOST_METHODS = 4096
"""How many methods are kept in memory at once. A server that accepts any name, as a proxy does, has no fixed number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How one method is treated."""

    name: str
    """``/package.Service/Method``."""
    policy: Policy
    passes: bool
    """True if all its calls, keyed or not, pass through: it has no side effects, and its answers are not kept."""
    has_request_id: bool
    """True if its request message has the string field of AIP-155."""
    grpcs_own: bool = False
    """True if it passes through because it belongs to gRPC's own services, and no policy names it exactly (2.5)."""
    recovers: bool = field(init=False)
    """``policy.recovers``, which each call asks for."""
    needs_no_claim: bool = field(init=False)
    """:func:`~grpc_idempotency._protocol.rules.needs_no_claim`, which each call asks for."""

    def __post_init__(self) -> None:
        recovers = self.policy.recovers
        object.__setattr__(self, "recovers", recovers)
        object.__setattr__(self, "needs_no_claim", needs_no_claim(self.policy.effects, recovers=recovers))


class Methods(dict[str, Method]):
    """Finds how a method is treated. Strongest source first: Python by name, by glob; its proto's options; the default.

    Args:
        default: The policy of methods that ``by_name`` does not name.
        by_name: Policies by full method name or glob.
        check: A function that raises :class:`PolicyError` for a policy that the store can't meet.

    Raises:
        PolicyError: One of the policies can't be met.
    """

    def __init__(self, default: Policy, by_name: Mapping[str, Policy] | None, check: Callable[[Policy], None]) -> None:
        self._default = _checks.one_of("policy", default, Policy)
        self._by_name = by_name = checked_by_name(by_name, Policy)
        for policy in (default, *by_name.values()):
            check(policy)
        self._globs = [(pattern, policy) for pattern, policy in by_name.items() if any(c in pattern for c in "*?[")]
        self._check = check
        self._unmet_policies: dict[str, str] = {}

    def __missing__(self, name: str) -> Method:
        """Finds how a method of this name is treated, whether the server has one or not, at its first call.

        Raises:
            PolicyError: Its policy can't be met. Raised each time.
        """
        if len(self) + len(self._unmet_policies) >= MOST_METHODS:
            self.clear()
            self._unmet_policies.clear()
        if name not in self._unmet_policies:
            try:
                method = self[name] = self._find(name)
            except PolicyError as exc:
                self._unmet_policies[name] = f"The policy of {name} can't be met: {exc}"
            else:
                return method
        raise PolicyError(self._unmet_policies[name])

    def _find(self, name: str) -> Method:
        if self._is_left_out(name):
            return Method(name=name, policy=self._default, passes=True, has_request_id=False, grpcs_own=True)
        descriptor = _descriptor(name)
        level = descriptor.GetOptions().idempotency_level if descriptor else MethodOptions.IDEMPOTENCY_UNKNOWN
        _, policy = self._configured(name)
        if policy is None:
            policy = self._by_proto(descriptor, level) if descriptor else self._default
        elif name in self._by_name and descriptor:
            _check_paths(policy.fingerprint_exclude, descriptor)
        reads = level == MethodOptions.NO_SIDE_EFFECTS
        if reads and policy.replay_reads:
            policy = replace(policy, effects=Effects.REPEATABLE)
        return Method(
            name=name,
            policy=policy,
            passes=reads and not policy.replay_reads,
            has_request_id=descriptor is not None and _has_request_id(descriptor),
        )

    def _is_left_out(self, name: str) -> bool:
        """Returns whether neither the default policy nor a glob applies, since the method is gRPC's own."""
        return is_grpcs_own(name) and name not in self._by_name

    def _configured(self, name: str) -> tuple[str, Policy | None]:
        """Returns the name or glob in the settings that matches the method, and its policy; an empty name if none."""
        if name in self._by_name:
            return name, self._by_name[name]
        return next(((pattern, policy) for pattern, policy in self._globs if fnmatchcase(name, pattern)), ("", None))

    def _by_proto(self, descriptor: MethodDescriptor, level: int) -> Policy:
        """Returns the default policy with the options of the method's proto applied over it."""
        policy = self._default
        if level == MethodOptions.IDEMPOTENT:
            policy = replace(policy, effects=Effects.REPEATABLE)
        option = option_of(descriptor)
        if option is None:
            return policy
        policy = overlay(policy, option)
        if level == MethodOptions.NO_SIDE_EFFECTS and option.effects and policy.effects is not Effects.REPEATABLE:
            raise PolicyError(f"it is NO_SIDE_EFFECTS, and its effects are {policy.effects.name}.")
        if option.fingerprint_exclude:
            _check_paths(policy.fingerprint_exclude, descriptor)
        self._check(policy)
        return policy

    def check(self, names: set[str]) -> None:
        """Checks all policies for a server that has exactly these methods.

        Raises:
            PolicyError: Some can't be met; the message names all of them.
        """
        problems = [*self._unmatched(names), *self._unmet(names), *self._useless_paths(names)]
        if problems:
            raise PolicyError(" ".join(problems))

    def _unmatched(self, names: set[str]) -> Iterator[str]:
        """Yields a problem for each name and glob that matches none of these methods. Most likely it is misspelt."""
        for pattern in self._by_name:
            if not any(pattern == name or fnmatchcase(name, pattern) for name in names):
                yield f"There is a policy for {pattern}, but the server has no such method."

    def _unmet(self, names: set[str]) -> Iterator[str]:
        for name in sorted(names):
            try:
                self[name]
            except PolicyError as exc:
                yield str(exc)

    def _useless_paths(self, names: set[str]) -> Iterator[str]:
        """Yields a problem for each left-out path, of the default or a glob, that no request of its methods has."""
        governed: dict[str, list[MethodDescriptor | None]] = {}
        for name in names:
            if self._is_left_out(name):
                continue
            governed.setdefault(self._configured(name)[0], []).append(_descriptor(name))
        for pattern, policy in (("", self._default), *self._globs):
            methods = governed.get(pattern, [])
            known = [method for method in methods if method is not None]
            if known and len(known) == len(methods):
                for path in policy.fingerprint_exclude:
                    if not any(_leads(path, method.input_type) for method in known):
                        whose = f"the policy for {pattern}" if pattern else "the default policy"
                        yield (
                            f"Policy.fingerprint_exclude: none of the methods of {whose} has a field {path!r} in its "
                            "request."
                        )


def _check_paths(paths: tuple[str, ...], method: MethodDescriptor) -> None:
    for path in paths:
        if not _leads(path, method.input_type):
            raise PolicyError(
                f"fingerprint_exclude: {method.input_type.full_name} has no field {path!r} that can be excluded."
            )


def _leads(path: str, message: Descriptor) -> bool:
    """Returns whether a dotted path names a field of a message. It may lead through repeated messages, but not maps."""
    name, _, rest = path.partition(".")
    field = message.fields_by_name.get(name)
    if field is None or not rest:
        return field is not None
    inner = field.message_type
    return inner is not None and not inner.GetOptions().map_entry and _leads(rest, inner)


def _descriptor(name: str) -> MethodDescriptor | None:
    """Returns the method's descriptor if it is in the default pool, where protoc's code puts it."""
    try:
        return descriptor_pool.Default().FindMethodByName(name.lstrip("/").replace("/", "."))
    except KeyError:
        return None


def _has_request_id(method: MethodDescriptor) -> bool:
    field = method.input_type.fields_by_name.get(REQUEST_ID)
    # A repeated field's default is a list; the attributes that say so come and go between versions of protobuf.
    return field is not None and field.type == FieldDescriptor.TYPE_STRING and isinstance(field.default_value, str)
