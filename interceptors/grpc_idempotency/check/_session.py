"""What probes work with: calls under keys, their trials, and counted effects."""

import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from grpc_idempotency.check._oracle import Oracle
from grpc_idempotency.check._replies import Reply, difference
from grpc_idempotency.check._settings import Metadata, Settings
from grpc_idempotency.check._target import Call, Target
from grpc_idempotency.check._templates import Markers, Operation, Template
from grpc_idempotency.check._types import Method, Types

_PAUSE = 0.05
"""Seconds before a call is repeated that was told to come again, unless the server names a delay."""
_LONGEST_PAUSE = 1.0
_QUICK, _SLOW = 0.1, 0.3
"""The least seconds in which a late effect may show: where one call follows another, and where one was cut short."""


@dataclass(slots=True, kw_only=True)
class Trial:
    """One operation, and all replies that its calls got."""

    operation: Operation
    replies: list[Reply] = field(default_factory=list)
    note: str = ""
    """What was special in this trial, as "cancelled after 4.0 ms"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Counted effects, where 1 is what one call does."""

    total: Fraction
    each: Mapping[str, Fraction] | None
    """By marker, if they can be told apart."""


class Session:
    """A server, a method, and what calibration has found out."""

    def __init__(self, settings: Settings, target: Target, types: Types) -> None:
        self.settings = settings
        self.target = target
        self.types = types
        self.method: Method = types.method(settings.method)
        self.template = Template(self.method, settings.requests, "--request", settings.key_field)
        self.other_body, self.failing, self.large = (
            Template(self.method, texts, option, settings.key_field) if texts else None
            for texts, option in (
                (settings.other_body, "--other-body"),
                (settings.failing_request or ("{}",), "--failing-request"),
                (settings.large_request, "--large-request"),
            )
        )
        """More requests of the method, if they are given."""
        self.other = self._of_another_method()
        """Requests of another method, if one is given."""
        self.markers = Markers()
        self.metadata: Metadata = settings.caller()
        self.oracle: Oracle | None = None
        if settings.count is not None:
            counter = types.method(settings.count.method, beside=self.method)
            marked = self.template.varies("marker")
            self.oracle = Oracle(settings.count, counter, target, self.markers, self.metadata, marked=marked)
        self.random = random.Random(settings.seed)  # noqa: S311  # instants of cuts, which a seed repeats
        self.takes_keys = True
        """False if the method is a bidirectional stream that is refused with a key."""
        self.differing = False
        """True if two calls under fresh keys with the same request get replies that differ."""
        self.latency = 0.0
        """Seconds that a fresh call takes, in the median."""
        self.lag = 0.0
        """Seconds after which an effect can be counted."""
        self.unit = 1
        """By how much one call changes the count."""
        self._before = 0

    def _of_another_method(self) -> Template | None:
        if not self.settings.other_method:
            return None
        method = self.types.method(self.settings.other_method, beside=self.method)
        return Template(method, self.settings.other_request, "--other-request", self.settings.key_field)

    def begin(self, probe: str) -> None:
        """Prepares for a probe: its random numbers do not depend on the probes before it."""
        self.random.seed(f"{self.settings.seed} {probe}")
        self.rebase()

    def rebase(self) -> None:
        """Lets :meth:`effects` count from now on."""
        if self.oracle is not None and not (self.oracle.by_request or self.oracle.by_element):
            self._before = self.oracle.read(()).total

    # Calls

    def fresh(self, template: Template | None = None) -> Operation:
        """Returns an operation with a new key."""
        return (template or self.template).operation(str(uuid.uuid4()), self.markers.fresh())

    def under(self, operation: Operation, key: str) -> Operation:
        """Returns the same requests under another key."""
        if not self.settings.key_field:
            return replace(operation, key=key)
        requests = []
        for request in operation.requests:
            message = self.method.request.FromString(request)
            setattr(message, self.settings.key_field, key)
            requests.append(message.SerializeToString())
        return replace(operation, key=key, requests=tuple(requests))

    def key(self, *keys: str) -> Metadata:
        """Returns the metadata that has these keys."""
        return () if self.settings.key_field else tuple((self.settings.header, key) for key in keys)

    def start(
        self,
        operation: Operation,
        *,
        target: Target | None = None,
        method: Method | None = None,
        caller: Metadata | None = None,
        key: Metadata | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Call:
        """Sends a call.

        Args:
            operation: Its key and requests.
            target: Another connection than the session's.
            method: Another method than the checked one.
            caller: The metadata of a caller, in place of the first one's.
            key: The metadata with the key, in place of the operation's.
            timeout: Its deadline in seconds.
            options: As :meth:`Target.start` takes them.
        """
        method = method or self.method
        metadata = [
            *self.settings.caller(caller),
            *(self.key(operation.key) if key is None else key),
        ]
        if method.takes_stream:
            metadata.append((self.settings.message_count_header, str(len(operation.requests))))
        return (target or self.target).start(
            method, operation.requests, metadata=metadata, timeout=timeout or self.settings.timeout, **options
        )

    def call(self, operation: Operation, **options: Any) -> Reply:
        """Makes one call. The options are those of :meth:`start`."""
        return self.start(operation, **options).reply()

    def answer(self, operation: Operation, **options: Any) -> Reply:
        """Calls until the answer is final: as a client does that retries."""
        end = time.monotonic() + self.settings.timeout
        pause = _PAUSE
        while True:
            reply = self.call(operation, timeout=max(end - time.monotonic(), 0.1), **options)
            if not self.comes_again(reply) or time.monotonic() + pause >= end:
                return reply
            time.sleep(_asked_pause(reply) or pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def comes_again(self, reply: Reply) -> bool:
        """Returns whether a client repeats the call after this reply."""
        return reply.code == "UNAVAILABLE" or self.settings.refused("still-running", reply.code)

    def instants(self, number: int, most: float) -> list[float]:
        """Returns instants over 0 to ``most`` times the latency of a call, evenly spread and jittered by the seed."""
        return [most * self.latency * (n + self.random.random()) / number for n in range(number)]

    def difference(self, one: Reply, other: Reply) -> str:
        """Returns in which way two replies of the checked method differ; empty if they do not."""
        return difference(self.method, one, other, self.settings.ignored_trailers)

    # Effects

    def shows(self, operations: Sequence[Operation]) -> bool:
        """Returns whether effects of all these operations can be counted."""
        assert self.oracle is not None
        count = self.oracle.read(operations)
        return all(count.each.values()) if count.each is not None else count.total > self._before

    def effects(self, operations: Sequence[Operation], *, late: bool = False) -> Effects | None:
        """Counts the effects of these operations, which are all that the probe has sent so far.

        Args:
            operations: The operations.
            late: True if a call that was cut short may still be running.

        Returns:
            The effects, or ``None`` if they are not counted.
        """
        if self.oracle is None:
            return None
        settle = max(_SLOW, 3 * self.latency) if late else max(_QUICK, self.latency)
        time.sleep(max(settle, 2 * self.lag))
        count = self.oracle.read(operations)
        if count.each is None:
            return Effects(total=Fraction(count.total - self._before, self.unit), each=None)
        each = {marker: Fraction(found, self.unit) for marker, found in count.each.items()}
        return Effects(total=sum(each.values(), Fraction()), each=each)


def _asked_pause(reply: Reply) -> float:
    """Returns the delay in seconds that the server names; 0 if it names none."""
    for name, value in reply.trailers:
        if name == "grpc-retry-pushback-ms" and isinstance(value, str) and value.isdecimal():
            return min(int(value) / 1000, _LONGEST_PAUSE)
    return 0.0
