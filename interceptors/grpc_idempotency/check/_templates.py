"""Requests as JSON templates, and the operations that are made of them."""

import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from google.protobuf import json_format

from grpc_idempotency.check._results import WrongUsage
from grpc_idempotency.check._types import Method

_VARIABLE = re.compile(r"{{\s*(\w+)\s*}}")
_VARIABLES = {"uuid", "marker", "key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One logical call: a key, and the requests that each of its retries repeats."""

    key: str
    marker: str
    """A text that no other operation has. Its effects are found by it."""
    requests: tuple[bytes, ...]
    """The serialized messages."""


class Markers:
    """Makes markers. All of them have one length, so that none is a part of another."""

    def __init__(self) -> None:
        self._run = secrets.token_hex(3)
        self._numbers = count()
        self.pattern = re.compile(rf"check{self._run}x\d{{5}}")

    def fresh(self) -> str:
        """Returns a marker that no other operation has, in this run or another."""
        return f"check{self._run}x{next(self._numbers):05}"


class Template:
    """The messages of a call, with variables."""

    def __init__(self, method: Method, texts: Sequence[str], option: str, key_field: str = "") -> None:
        """Makes a template.

        Args:
            method: The method whose requests it makes.
            texts: One JSON text for each message.
            option: The option that the texts are from, for errors.
            key_field: The field that gets the key, if it is not sent as metadata.

        Raises:
            WrongUsage: The texts are not requests of the method.
        """
        self.method = method
        self._texts = texts
        self._option = option
        self._key_field = key_field
        if len(texts) != 1 and not method.takes_stream:
            raise WrongUsage(f"{option}: {method.name} takes one message, and {len(texts)} were given.")
        unknown = {name for text in texts for name in _VARIABLE.findall(text)} - _VARIABLES
        if unknown:
            raise WrongUsage(f"{option}: there is no variable {{{{{min(unknown)}}}}}. There are uuid, marker and key.")
        self.messages(str(uuid.uuid4()), "marker")

    def varies(self, *variables: str) -> bool:
        """Returns whether it has one of these variables."""
        return any(name in variables for text in self._texts for name in _VARIABLE.findall(text))

    def messages(self, key: str, marker: str) -> list[Any]:
        """Returns the messages of one operation.

        Raises:
            WrongUsage: The texts are not requests of the method.
        """
        made = []
        for text in self._texts:
            values = {"uuid": str(uuid.uuid4()), "marker": marker, "key": key}
            try:
                message = self.method.request()
                pool = message.DESCRIPTOR.file.pool  # which has the types of values in an Any
                json_format.Parse(_filled(text, values), message, descriptor_pool=pool)
                if self._key_field:
                    setattr(message, self._key_field, key)
            except (json_format.ParseError, AttributeError, TypeError) as error:
                name = self.method.request.DESCRIPTOR.full_name
                raise WrongUsage(f"{self._option} is no {name}: {error}") from error
            made.append(message)
        return made

    def operation(self, key: str, marker: str) -> Operation:
        """Returns an operation with this key and marker."""
        messages = self.messages(key, marker)
        return Operation(key=key, marker=marker, requests=tuple(one.SerializeToString() for one in messages))


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: values[found[1]], text)
