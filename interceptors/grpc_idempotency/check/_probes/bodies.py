"""Requests and replies of special kinds."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message

from grpc_idempotency.check._judgement import COUNT, judged
from grpc_idempotency.check._outcomes import (
    DIFFERS,
    ERROR_NOT_KEPT,
    ORDER_MATTERS,
    TWICE,
    UNANSWERED,
    Outcome,
    failed,
    passed,
    skipped,
    unclear,
)
from grpc_idempotency.check._probes.base import Probe
from grpc_idempotency.check._session import Session, Trial
from grpc_idempotency.check._templates import Operation
from grpc_idempotency.check._types import is_map, is_repeated

_MAY_PASS = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "UNAUTHENTICATED", "PERMISSION_DENIED"}
"""Codes by which a server says that nothing has happened, so that it need not keep them."""
_OF_THE_REQUEST = {"INVALID_ARGUMENT", "UNIMPLEMENTED"}
"""Codes that the same request gets always, stored or not."""
_LARGE = 8 * 1024
_LONGER = 1000
"""How many elements a list of the request gets at most."""


class Error(Probe):
    id = "error"
    title = "an error is repeated"
    passes = (
        "A call that fails gets the same code, message and trailers again, and its key stays bound: the request that "
        "succeeds is refused under it, or gets the error, too. An INVALID_ARGUMENT whose key does not stay bound is "
        "unclear, since it comes again without being stored."
    )
    needs = "a request that fails: `--failing-request`, or an empty message"

    def run(self, session: Session) -> Outcome:
        operation = session.fresh(session.failing)
        first, again = session.call(operation), session.call(operation)
        effects = session.effects((operation,))
        if not session.settings.failing_request and (first.ok or first.code in _MAY_PASS):
            return skipped(f"No request that fails for good is known: --failing-request. An empty one got {first}.")
        if first.ok:
            return unclear("The request that should fail succeeds.", "Give one that fails: --failing-request.")
        if first.code in _MAY_PASS:
            return unclear(
                f"The call fails with {first.code}, by which a server says that nothing has happened.",
                "Give a request that fails for good: --failing-request.",
            )
        if effects is not None and effects.total > 1:
            return failed(f"A call that fails with {first.code} took effect each time.", TWICE)
        if how := session.difference(first, again):
            return failed(f"The error was not repeated: {how}.", ERROR_NOT_KEPT)
        valid = session.call(session.under(session.fresh(), operation.key))
        if valid.ok and first.code in _OF_THE_REQUEST:
            return unclear(
                f"{first.code} was repeated, and then another request under the same key was executed. A server that "
                "checks requests before keys does so, too.",
                "Give a request whose error depends on more than the request, as NOT_FOUND does: --failing-request.",
            )
        if valid.ok:
            return failed(f"After {first.code}, another request under the same key was executed.", ERROR_NOT_KEPT)
        if session.settings.refused("key-reused", valid.code) or not session.difference(first, valid):
            return passed(f"{first.code} was repeated exactly, and its key stays bound.")
        return unclear(
            f"{first.code} was repeated exactly. Another request under its key got {valid}.",
            f"If that is the refusal of a used key: --refusal key-reused={valid.code}.",
        )


class MapOrder(Probe):
    id = "map-order"
    title = "the entries of a map in another order"
    passes = "A retry whose maps are serialized in another order counts as the same request."
    needs = "a request with a map of two entries"

    def skips(self, session: Session) -> str:
        messages = session.template.messages("key", "marker")
        return "" if any(map(_has_map, messages)) else "The request has no map with two entries."

    def run(self, session: Session) -> Outcome:
        first = session.fresh()
        messages = [session.method.request.FromString(request) for request in first.requests]
        one, other = (
            replace(first, requests=tuple(_serialized(message, backwards) for message in messages))
            for backwards in (False, True)
        )
        replies = [session.answer(one), session.answer(other)]
        if replies[0].ok and session.settings.refused("key-reused", replies[1].code):
            return failed(f"The retry was refused as another request: {replies[1].code}.", ORDER_MATTERS)
        trial = Trial(operation=first, replies=replies)
        return judged(session, "A call was repeated with its maps in another order", [trial], replies_prove=True)


class LargeReply(Probe):
    id = "large-reply"
    title = "a large reply is repeated"
    passes = "A reply of 8 KiB or more is repeated exactly, or the retry is refused. There is one effect."
    needs = "a large reply: `--large-request`, or a reply that grows with the request's lists"

    def run(self, session: Session) -> Outcome:
        operation = self._large(session)
        if operation is None:
            return skipped("No request with a large reply is known: --large-request.")
        first = session.answer(operation)
        size = sum(map(len, first.messages))
        if not first.ok or size < _LARGE:
            got = f"{size} bytes" if first.ok else str(first)
            if session.large is not None:
                return unclear(
                    f"The reply to --large-request is {got}.", "Give a request whose reply has 8 KiB or more."
                )
            return skipped(f"No request with a large reply is known: --large-request. A longer request got {got}.")
        before = session.effects((operation,))
        again = session.answer(operation)
        # A request without the marker has effects that are not seen.
        after = session.effects((operation,)) if before is not None and before.total else None
        if before is not None and after is not None and after.total > before.total:
            return failed("A call with a large reply was repeated, and took effect again.", TWICE)
        if not again.ok:
            # A server may keep that it succeeded, and not the reply.
            if after is not None and session.settings.refused("outcome-unknown", again.code):
                return passed(f"The retry was refused: {again.code}. There was one effect.")
            return failed(f"A call with a reply of {size} bytes was repeated: the retry got {again}.", UNANSWERED)
        if how := session.difference(first, again):
            return failed(f"A reply of {size} bytes was not repeated exactly: {how}.", DIFFERS)
        if after is None and not session.differing:
            return unclear("A large reply was repeated exactly, but fresh calls do not differ.", COUNT)
        return passed("A large reply was repeated exactly.")

    def _large(self, session: Session) -> Operation | None:
        if session.large is not None:
            return session.fresh(session.large)
        operation = session.fresh()
        messages = [session.method.request.FromString(request) for request in operation.requests]
        longer = [_lengthened(message) for message in messages]
        if not any(longer):
            return None
        return replace(operation, requests=tuple(one.SerializeToString() for one in messages))


class RequestId(Probe):
    id = "request-id"
    title = "the key as the field request_id"
    passes = "A call that is repeated with the same `request_id`, and no key in metadata, takes effect once (AIP-155)."
    needs = "a request with a text field `request_id`"

    def skips(self, session: Session) -> str:
        if session.settings.key_field:
            return "The key of every probe is a field of the request."
        if session.method.takes_stream:
            return "The method takes a stream."
        field = session.method.request.DESCRIPTOR.fields_by_name.get("request_id")
        text = field is not None and field.type == field.TYPE_STRING and not is_repeated(field)
        return "" if text else "The request has no text field request_id."

    def run(self, session: Session) -> Outcome:
        operation = session.fresh()
        message = session.method.request.FromString(operation.requests[0])
        message.request_id = str(uuid.uuid4())
        operation = replace(operation, requests=(message.SerializeToString(),))
        trial = Trial(operation=operation, replies=[session.answer(operation, key=()) for _ in range(3)])
        return judged(session, "A call was repeated twice with one request_id", [trial], replies_prove=True)


# Messages


def _has_map(message: Any) -> bool:
    return any(is_map(field) and len(value) > 1 for field, value in message.ListFields()) or any(
        map(_has_map, _inner(message))
    )


def _inner(message: Any) -> Iterator[Any]:
    """Yields the messages in a message's fields."""
    for field, value in message.ListFields():
        if field.message_type is not None and not is_map(field):
            yield from value if is_repeated(field) else (value,)


def _lengthened(message: Any) -> bool:
    """Repeats the elements of a message's lists. Returns False if it has none."""
    lists = [value for field, value in message.ListFields() if is_repeated(field) and not is_map(field)]
    for values in lists:
        elements = [*values]
        values.extend(elements * ((_LONGER - len(elements)) // len(elements)))
    return bool(lists)


def _serialized(message: Any, backwards: bool) -> bytes:
    """Serializes a message with the entries of its maps in the order of their keys, or in the other one."""
    parts = []
    for field, value in message.ListFields():
        if is_map(field):
            for key in sorted(value, reverse=backwards):
                parts.append(_entry(message, field, value, key))
        elif field.message_type is not None:
            for inner in value if is_repeated(field) else (value,):
                body = _serialized(inner, backwards)
                parts.append(_varint(field.number << 3 | 2) + _varint(len(body)) + body)
        else:
            alone = type(message)()
            if is_repeated(field):
                getattr(alone, field.name).extend(value)
            else:
                setattr(alone, field.name, value)
            parts.append(alone.SerializeToString())
    return b"".join(parts)


def _entry(message: Any, field: Any, value: Any, key: Any) -> bytes:
    """Serializes one entry of a map."""
    alone = type(message)()
    entries = getattr(alone, field.name)
    if isinstance(value[key], Message):
        entries[key].CopyFrom(value[key])
    else:
        entries[key] = value[key]
    return bytes(alone.SerializeToString())


def _varint(number: int) -> bytes:
    """Encodes a number as protobuf does."""
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)
