"""The results of steps as bytes."""

import json
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from grpc_idempotency.errors import StepMisuse

_BYTES, _MESSAGE, _JSON = b"b", b"m", b"j"


def encode(value: object) -> bytes:
    """Serializes the result of a step: bytes, a protobuf message, or a JSON value.

    Raises:
        StepMisuse: The result is something else.
    """
    if isinstance(value, bytes):
        return _BYTES + value
    if isinstance(value, Message):
        _check_known(value.DESCRIPTOR.full_name)
        return _MESSAGE + value.DESCRIPTOR.full_name.encode() + b"\0" + value.SerializeToString()
    try:
        return _JSON + json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise StepMisuse(
            f"a step's result is kept as bytes, a protobuf message or a JSON value; {type(value).__name__} is none"
        ) from exc


def decode(data: bytes, pool: DescriptorPool | None = None) -> Any:
    """Returns the result that :func:`encode` serialized. Tuples have become lists, since JSON has no tuples.

    Args:
        data: The serialized result.
        pool: The messages that may occur; ``None``: those of the process.

    Raises:
        KeyError: The result is a message that the pool does not have.
    """
    kind, rest = data[:1], data[1:]
    if kind == _BYTES:
        return rest
    if kind == _JSON:
        return json.loads(rest)
    name, _, serialized = rest.partition(b"\0")
    known = pool or descriptor_pool.Default()
    message: Message = message_factory.GetMessageClass(known.FindMessageTypeByName(name.decode()))()
    message.ParseFromString(serialized)
    return message


def _check_known(name: str) -> None:
    try:
        descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError as exc:
        raise StepMisuse(
            f"a step's result can't be a {name}: no other run could read it, as it is in a pool of its own"
        ) from exc
