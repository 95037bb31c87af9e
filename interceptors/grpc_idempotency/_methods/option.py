"""Applies a method's own option, ``(grpc_idempotency.v1.policy)``, over the default policy (7)."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration

from grpc_idempotency.errors import PolicyError
from grpc_idempotency.policy import Disposition, Policy
from grpc_idempotency.records import Code, Effects
from grpc_idempotency.v1 import policy_pb2

_OPTION: Any = policy_pb2.policy
"""The extension. It is ``Any``, since protoc and mypy give it types that do not fit each other."""

_EFFECTS: dict[int, Effects] = {
    policy_pb2.EFFECTS_OPAQUE: Effects.OPAQUE,
    policy_pb2.EFFECTS_TRANSACTIONAL: Effects.TRANSACTIONAL,
    policy_pb2.EFFECTS_REPEATABLE: Effects.REPEATABLE,
}


def option_of(method: MethodDescriptor) -> policy_pb2.Policy | None:
    """Returns the method's option, or ``None`` if it has none."""
    options = method.GetOptions()
    return options.Extensions[_OPTION] if options.HasExtension(_OPTION) else None


def overlay(policy: Policy, option: policy_pb2.Policy) -> Policy:
    """Returns the policy with every field that the option sets.

    Raises:
        PolicyError: The option can't be met, or has fields that this version does not know.
    """
    known = policy_pb2.Policy()
    known.CopyFrom(option)
    known.DiscardUnknownFields()
    if known.ByteSize() != option.ByteSize():
        raise PolicyError("it has fields that this version of grpc-idempotency does not know.")
    statuses = {**policy.statuses, **_statuses(option)}
    return replace(policy, statuses=statuses, **dict(_settings(option)))


def _settings(option: policy_pb2.Policy) -> Iterator[tuple[str, Any]]:
    """Yields the fields that are set, as names and values of :class:`Policy`."""
    for field, value in option.ListFields():
        if field.name == "effects":
            if value != policy_pb2.EFFECTS_UNSPECIFIED:
                yield field.name, _effects(value)
        elif isinstance(value, Duration):
            yield field.name, _timedelta(field.name, value)
        elif field.name in ("headers", "fingerprint_exclude", "kept_metadata"):
            yield field.name, tuple(value)
        elif field.name not in ("stored", "released"):
            yield field.name, value


def _effects(number: int) -> Effects:
    if number not in _EFFECTS:
        raise PolicyError(f"effects: this version of grpc-idempotency does not know the number {number}.")
    return _EFFECTS[number]


def _timedelta(name: str, value: Duration) -> timedelta:
    try:
        return value.ToTimedelta()
    except (OverflowError, ValueError) as exc:
        raise PolicyError(f"{name}: a duration of {value.seconds} seconds is out of range.") from exc


def _statuses(option: policy_pb2.Policy) -> dict[Code, Disposition]:
    stored, released = set(map(_code, option.stored)), set(map(_code, option.released))
    for code in stored & released:
        raise PolicyError(f"{code.name} is both stored and released.")
    return {**dict.fromkeys(stored, Disposition.STORE), **dict.fromkeys(released, Disposition.RELEASE)}


def _code(number: int) -> Code:
    if number not in list(Code) or number == Code.OK:
        raise PolicyError(f"stored, released: no status other than OK has the number {number}.")
    return Code(number)
