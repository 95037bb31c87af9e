"""Policies: how a server treats the keyed calls of its methods (7)."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import partial
from types import MappingProxyType

from grpc_idempotency import _checks
from grpc_idempotency.errors import PolicyError
from grpc_idempotency.records import Code, Effects

_MAX_HEADER = 128


class Disposition(enum.Enum):
    """The fate of a record after an answer with some status (4.6)."""

    STORE = "store"
    """The answer is stored, and every later call with the key gets it."""
    RELEASE = "release"
    """The record is deleted, so that a retry runs the handler again. The handler asserts that nothing happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the keyed calls of a method are treated. The defaults are safe for a handler of which nothing is known.

    Raises:
        PolicyError: A field has a wrong type or is out of range; the message names the field. No duration may be longer
            than a hundred years, and no value means "for ever".
    """

    effects: Effects = Effects.OPAQUE
    """The kind of effects that the handler has. It decides every hard case (4.5)."""
    required: bool = False
    """``True`` refuses a call without a key (``KEY_REQUIRED``)."""
    headers: tuple[str, ...] = ("idempotency-key",)
    """The metadata names from which the key is read, lower case. All keys that come must agree."""
    ttl: timedelta = timedelta(hours=24)
    """How long an outcome is kept, from its completion on."""
    lease: timedelta = timedelta(seconds=15)
    """How long a server may be silent before its operation may be taken over."""
    renew_every: timedelta = timedelta(seconds=5)
    """How often a running handler's lease is renewed."""
    wait: timedelta = timedelta(seconds=30)
    """How long a duplicate of a running operation waits for its outcome. Zero refuses it at once. The default is longer
    than a lease, so that a retry after a server's death sees the take-over."""
    wait_margin: timedelta = timedelta(milliseconds=100)
    """How long before its own deadline a waiting duplicate is refused, so that it learns why."""
    execution_limit: timedelta = timedelta(minutes=10)
    """How long a handler may run."""
    max_request_bytes: int = 4 * 1024 * 1024
    """The most bytes of a keyed client-stream that are buffered, where each message counts 64 bytes more than its size.
    A longer stream is refused before the handler runs."""
    max_response_bytes: int = 4 * 1024 * 1024
    """The largest response that is kept. A larger one is sent once, and a repeat gets ``RESPONSE_NOT_RETAINED``."""
    max_trailer_bytes: int = 6 * 1024
    """The most bytes that an outcome's status message and trailing metadata may take when they are sent. A peer counts
    32 bytes more for each trailer. What exceeds it is dropped."""
    statuses: Mapping[Code, Disposition] = field(default_factory=lambda: MappingProxyType({}))
    """Exceptions to what each status does to the record (4.6). OK is always stored."""
    max_tries: int = 5
    """After how many failed runs an operation with finished steps is given up and undone; and how often an undo is
    tried before the operation is held."""
    retry_delay: timedelta = timedelta(seconds=1)
    """The delay before the second run of an operation with finished steps; twice as long before each further run."""
    recover: bool | None = None
    """``True`` finishes an operation whose server is gone, or that is waiting, without its client (5.4), from its
    stored request. ``None``: ``True`` if ``effects`` is repeatable. A transactional method with recovery needs a claim
    before its handler, and so two commits for each call (5.1)."""
    kept_metadata: tuple[str, ...] = ()
    """The names of the invocation metadata that is stored with the request for recovery. Names of keys are refused; do
    not name tokens."""
    fingerprint_exclude: tuple[str, ...] = ()
    """Fields of the request, as dotted paths, that may differ between a call and its retry: a client's timestamp."""
    pass_bidirectional: bool = False
    """``True`` passes a keyed bidirectional stream through as if it had no key, instead of refusing it (4.8)."""
    replay_reads: bool = False
    """``True`` lets keyed calls of a method without side effects share one execution, and replays its outcome for
    ``ttl``, instead of passing them through."""
    unprotected: bool = False
    """``True`` lets a call through unprotected while the store is down, instead of refusing it (5.5)."""

    @property
    def recovers(self) -> bool:
        """True if what recovery needs is stored: ``recover``, or its default where it is ``None``."""
        return self.effects is Effects.REPEATABLE if self.recover is None else self.recover

    def __post_init__(self) -> None:
        _checks.one_of("Policy.effects", self.effects, Effects)
        for name in ("required", "pass_bidirectional", "replay_reads", "unprotected"):
            _checks.flag(f"Policy.{name}", getattr(self, name))
        if self.recover is not None:
            _checks.flag("Policy.recover", self.recover)
        for name in ("ttl", "lease", "renew_every", "execution_limit", "retry_delay"):
            _checks.duration(f"Policy.{name}", getattr(self, name), zero=False)
        for name in ("wait", "wait_margin"):
            _checks.duration(f"Policy.{name}", getattr(self, name))
        _checks.number("Policy.max_tries", self.max_tries, least=1)
        for name in ("max_request_bytes", "max_response_bytes", "max_trailer_bytes"):
            _checks.number(f"Policy.{name}", getattr(self, name))
        if self.renew_every * 2 > self.lease:
            raise PolicyError(
                f"Policy.renew_every ({self.renew_every}) must be at most half of Policy.lease ({self.lease}), so that "
                "one renewal may fail."
            )
        for name in ("kept_metadata", "fingerprint_exclude"):
            object.__setattr__(self, name, _checks.names(f"Policy.{name}", getattr(self, name)))
        object.__setattr__(self, "headers", checked_headers(self.headers))
        for name in self.kept_metadata:
            if name in self.headers:
                raise PolicyError(f"Policy.kept_metadata: {name!r} carries keys, which are never stored.")
            if name != name.lower():
                raise PolicyError(f"Policy.kept_metadata: {name!r} is not a lower-case metadata name.")
        object.__setattr__(self, "statuses", MappingProxyType(_checked_statuses(self.statuses)))

    def __reduce__(self) -> tuple[Callable[[], "Policy"], tuple[()]]:
        """Copies and pickles it by its arguments, since a read-only mapping can't be pickled."""
        given = {one.name: getattr(self, one.name) for one in fields(self)} | {"statuses": dict(self.statuses)}
        return partial(type(self), **given), ()


def checked_headers(headers: tuple[str, ...], whose: str = "Policy") -> tuple[str, ...]:
    """Checks the names of headers that carry keys.

    Args:
        headers: The names.
        whose: The class that has the setting, for the error.

    Returns:
        The names as a tuple.

    Raises:
        PolicyError: There is no name, or one of them can't carry a key.
    """
    headers = _checks.names(f"{whose}.headers", headers)
    if not headers:
        raise PolicyError(f'{whose}.headers must be a tuple of one or more names, such as ("idempotency-key",).')
    for name in headers:
        plain = name.replace("-", "").replace("_", "").replace(".", "")
        if not (plain.isascii() and plain.isalnum() and name == name.lower() and len(name) <= _MAX_HEADER):
            raise PolicyError(f"{whose}.headers: {name!r} is not a lower-case metadata name.")
        if name.endswith("-bin") or name.startswith("grpc-"):
            raise PolicyError(f"{whose}.headers: {name!r} can't carry a key: it is binary or gRPC's own.")
    return headers


def _checked_statuses(statuses: Mapping[Code, Disposition]) -> dict[Code, Disposition]:
    _checks.one_of("Policy.statuses", statuses, Mapping)
    for code, disposition in statuses.items():
        if (type(code), type(disposition)) != (Code, Disposition):
            raise PolicyError("Policy.statuses must map a grpc_idempotency.Code to a grpc_idempotency.Disposition.")
        if code is Code.OK and disposition is not Disposition.STORE:
            raise PolicyError("Policy.statuses can't release OK: an effect that took place would be repeated.")
    return dict(statuses)
