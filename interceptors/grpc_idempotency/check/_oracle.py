"""Counts effects, by a method of the server that reads them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from grpc_idempotency.check._replies import texts
from grpc_idempotency.check._results import CannotCheck, WrongUsage
from grpc_idempotency.check._settings import Counting, Metadata
from grpc_idempotency.check._target import Target
from grpc_idempotency.check._templates import Markers, Operation, Template
from grpc_idempotency.check._types import Method, is_repeated

_PAGE = 1000
"""How many elements are asked for at a time, where the request has a ``page_size`` (AIP-158)."""
_MOST_PAGES = 10_000
_TIMEOUT = 60.0
"""Seconds that a page may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What was counted."""

    total: int
    each: Mapping[str, int] | None
    """By marker. ``None`` if effects can't be told apart."""


class Oracle:
    """Counts effects."""

    def __init__(
        self, counting: Counting, method: Method, target: Target, markers: Markers, metadata: Metadata, *, marked: bool
    ) -> None:
        """Makes the oracle.

        Args:
            counting: How effects are counted.
            method: The method that counts.
            target: The server.
            markers: Finds markers in texts.
            metadata: Metadata of the counting calls.
            marked: True if requests of the checked method have markers.

        Raises:
            WrongUsage: The method can't count.
        """
        if method.takes_stream or method.gives_stream:
            raise WrongUsage(
                f"--count: {method.name} is a stream. Counting needs a method with one request and one reply."
            )
        self._template = Template(method, (counting.request,), "--count-request")
        self._path = counting.path.split(".")
        self._kind = _kind(method.response.DESCRIPTOR, self._path)
        self._method = method
        self._target, self._metadata = target, metadata
        self._markers = markers
        self.by_request = self._template.varies("marker")
        """True if each operation is counted by a call of its own."""
        self.by_element = self._kind == "list" and marked and not self.by_request
        """True if operations are told apart by the markers in the elements of one list."""

    def __str__(self) -> str:
        what = "the length of" if self._kind == "list" else "the difference of"
        return f"counted: {what} {'.'.join(self._path)} of {self._method.name[1:]}"

    def read(self, operations: Sequence[Operation]) -> Count:
        """Counts.

        Args:
            operations: The operations of interest.

        Raises:
            CannotCheck: The server does not answer the counting call.
        """
        if self.by_request:
            each = {one.marker: self._value(one.marker) for one in operations}
            return Count(total=sum(each.values()), each=each)
        if self.by_element:
            found: Counter[str] = Counter()
            for element in self._elements(""):
                found.update({marker for text in texts(element) for marker in self._markers.pattern.findall(text)})
            each = {one.marker: found[one.marker] for one in operations}
            return Count(total=sum(each.values()), each=each)
        return Count(total=self._value(""), each=None)

    def _value(self, marker: str) -> int:
        if self._kind == "list":
            return len(self._elements(marker))
        return int(_at(self._ask(self._template.messages("", marker)[0]), self._path))

    def _elements(self, marker: str) -> list[Any]:
        """Returns the elements of all pages."""
        (request,) = self._template.messages("", marker)
        fields = request.DESCRIPTOR.fields_by_name
        if "page_size" in fields and not request.page_size:
            request.page_size = _PAGE
        elements: list[Any] = []
        for _ in range(_MOST_PAGES):
            response = self._ask(request)
            found = _at(response, self._path)
            elements += found.items() if hasattr(found, "items") else found
            token = getattr(response, "next_page_token", "")
            if not token or "page_token" not in fields:
                return elements
            request.page_token = token
        raise CannotCheck(f"--count: {self._method.name} has more than {_MOST_PAGES} pages.")

    def _ask(self, request: Any) -> Any:
        reply = self._target.start(
            self._method, (request.SerializeToString(),), metadata=self._metadata, timeout=_TIMEOUT
        ).reply()
        if not reply.ok:
            raise CannotCheck(f"The effects can't be counted: {self._method.name} answers {reply}.")
        try:
            return self._method.response.FromString(reply.messages[0])
        except DecodeError as error:
            raise CannotCheck(f"The effects can't be counted: {self._method.name} gives no such message.") from error


def _kind(descriptor: Any, path: Sequence[str]) -> str:
    """Returns whether a path leads to a ``list`` or a ``number``.

    Raises:
        WrongUsage: It leads to neither.
    """
    for number, name in enumerate(path, 1):
        field = descriptor.fields_by_name.get(name)
        if field is None:
            raise WrongUsage(f"--count-path: {descriptor.full_name} has no field {name!r}.")
        if number == len(path):
            if is_repeated(field):
                return "list"
            if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT32, field.CPPTYPE_UINT64):
                return "number"
        elif field.message_type is not None and not is_repeated(field):
            descriptor = field.message_type
            continue
        raise WrongUsage(f"--count-path: {field.full_name} is neither a list nor a whole number, nor leads to one.")
    raise AssertionError("a path has a part")


def _at(message: Any, path: Sequence[str]) -> Any:
    for name in path:
        message = getattr(message, name)
    return message
