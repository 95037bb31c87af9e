"""The canonical form of a request: equal messages have equal bytes (3.2).

protobuf's deterministic serialization sorts maps, but treats an ``Any`` as bytes. So an ``Any`` of a known type is
unpacked, put into canonical form and packed again. In two cases equal messages still have different bytes, so that a
retry is refused with ``KEY_REUSED``, which fails safe: an ``Any`` of an unknown type, or one that is nested too deep,
keeps its bytes; and unknown fields keep the order in which they came.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

_ANY = "google.protobuf.Any"
_MOST_ANYS = 8
"""How deep Anys may be nested in Anys: each level is parsed and serialized once more."""
_MOST_LEVELS = 100
"""How deep messages may be nested: as deep as protobuf itself allows."""
_MOST_TYPES = 4096


def canonical(raw: bytes, message: object, excluded: Sequence[str]) -> bytes:
    """Returns the canonical form of a message, without the fields that are left out.

    The canonical form of an object that is not a protobuf message is ``raw``, its bytes as they came.
    """
    if not isinstance(message, Message):
        return raw
    holds_any = may_hold_any(message.DESCRIPTOR)
    if excluded or holds_any:
        copy = type(message)()
        copy.CopyFrom(message)
        for path in excluded:
            _clear(copy, path)
        if holds_any:
            _settle(copy, _MOST_ANYS, _MOST_LEVELS)
        message = copy
    return message.SerializePartialToString(deterministic=True)


def _clear(message: Message, path: str) -> None:
    name, _, rest = path.partition(".")
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        return
    if not rest:
        message.ClearField(name)
    elif isinstance(field.default_value, list):
        for element in getattr(message, name):
            if isinstance(element, Message):
                _clear(element, rest)
    elif message.HasField(name):
        _clear(getattr(message, name), rest)


@lru_cache(maxsize=_MOST_TYPES)
def may_hold_any(descriptor: Descriptor) -> bool:
    """Returns whether messages of this type can contain an Any, at any depth. An extension can be anything."""
    seen, left = {descriptor.full_name}, [descriptor]
    while left:
        one = left.pop()
        if one.full_name == _ANY or one.is_extendable:
            return True
        inner = [field.message_type for field in one.fields if field.message_type is not None]
        left += [each for each in inner if each.full_name not in seen]
        seen.update(each.full_name for each in inner)
    return False


def _settle(message: Message, anys: int, levels: int) -> None:
    """Puts every Any in the message into canonical form, down to ``anys`` nested Anys and ``levels`` of messages."""
    if not levels or not may_hold_any(message.DESCRIPTOR):
        return
    if message.DESCRIPTOR.full_name == _ANY:
        if anys:
            _settle_any(message, anys - 1, levels - 1)
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in _messages(field.message_type, value):
                _settle(inner, anys, levels - 1)


def _messages(kind: Descriptor, value: Any) -> Sequence[Message]:
    """Returns the messages in a field's value: one, those of a list, or those of a map."""
    if isinstance(value, Message):
        return (value,)
    if not kind.GetOptions().map_entry:
        return tuple(value)
    return tuple(value.values()) if kind.fields_by_name["value"].message_type is not None else ()


def _settle_any(message: Any, anys: int, levels: int) -> None:
    pool: Any = message.DESCRIPTOR.file.pool
    try:
        kind = pool.FindMessageTypeByName(message.TypeName())
        inner = message_factory.GetMessageClass(kind).FromString(message.value)
    except (KeyError, DecodeError):
        return  # of an unknown type, or not a message of its type: it keeps its bytes
    _settle(inner, anys, levels)
    message.value = inner.SerializePartialToString(deterministic=True)
