"""The settings of a check."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grpc_idempotency import Reason
from grpc_idempotency.check._results import WrongUsage

Metadata = Sequence[tuple[str, str]]

REFUSALS: Mapping[str, frozenset[str]] = {
    "key-invalid": frozenset({Reason.KEY_INVALID.status.name}),
    "key-required": frozenset({Reason.KEY_REQUIRED.status.name}),
    "key-reused": frozenset({Reason.KEY_REUSED.status.name, "ALREADY_EXISTS", "INVALID_ARGUMENT"}),
    "still-running": frozenset({Reason.IN_FLIGHT.status.name, "ABORTED"}),
    "outcome-unknown": frozenset({Reason.OUTCOME_UNKNOWN.status.name}),
    "streaming-unsupported": frozenset({Reason.STREAMING_UNSUPPORTED.status.name}),
}
"""The status codes that count as each kind of refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """How effects are counted: a call whose answer has a list of them, or a number."""

    method: str
    """A method that reads. A short name is a method of the checked method's service."""
    path: str
    """The field of its response, with dots: a list whose length counts, or a number whose difference counts."""
    request: str = "{}"
    """Its request as JSON. It may have ``{{marker}}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How the server is called over TLS. Each is the path of a file in PEM."""

    ca: str | None = None
    """The certificates to trust. ``None``: those that gRPC, and for the relay the system, trusts."""
    certificate: str | None = None
    """The client's certificate, if the server asks for one."""
    key: str | None = None
    """The private key of that certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is checked, and how.

    Requests are JSON, with ``{{uuid}}``, ``{{marker}}`` and ``{{key}}`` in strings. A method that takes a stream has
    one request for each message.
    """

    address: str
    """HOST:PORT of the server, or ``unix:PATH``."""
    method: str
    """The method to check: ``package.Service/Method``."""
    requests: Sequence[str] = ("{}",)
    """The messages of a call that takes effect."""
    count: Counting | None = None
    """How effects are counted. Without it, many probes can't tell."""
    metadata: Metadata = ()
    """Metadata of every call."""
    principals: Sequence[Metadata] = ()
    """Metadata by which the server knows a caller, at most two of them. The first one makes every call."""

    header: str = "idempotency-key"
    """The metadata entry that has the key."""
    key_field: str = ""
    """The request's field that has the key, in place of the metadata entry."""
    message_count_header: str = "idempotency-message-count"
    """The metadata entry that announces how many messages a client-stream has."""
    refusals: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The status codes that count as a refusal, for kinds that differ from :data:`REFUSALS`."""
    ignored_trailers: frozenset[str] = frozenset()
    """Trailers that may differ between a reply and its replay."""

    other_body: Sequence[str] = ()
    """Another valid request, for a key that is used twice. By default the request with another marker."""
    failing_request: Sequence[str] = ()
    """A request that the method refuses. By default an empty message."""
    large_request: Sequence[str] = ()
    """A request whose reply is large. By default the request with its lists made longer."""
    other_method: str = ""
    """Another method with an effect, for a key that is used for two methods."""
    other_request: Sequence[str] = ("{}",)
    """The messages of a call of ``other_method``."""

    restart: str = ""
    """A shell command that stops the server and starts it again."""
    kill: str = ""
    """A shell command that kills the server without warning and starts it again."""
    replica: str = ""
    """HOST:PORT of another server on the same data."""
    ttl: float = 0.0
    """How many seconds the server promises to keep outcomes. It is waited for."""

    only: Sequence[str] = ()
    """Ids or globs of the probes to run. Empty: all."""
    skip: Sequence[str] = ()
    """Ids or globs of probes not to run."""
    known_failing: frozenset[str] = frozenset()
    """Ids or globs of probes that are expected to fail."""
    wait: float = 5.0
    """How many seconds to wait until the server answers at all."""
    timeout: float = 60.0
    """How many seconds a call and its retries may take."""
    trials: int = 40
    """How many calls a sweep cuts short."""
    callers: int = 16
    """How many duplicates are sent at once."""
    seed: int = 0
    """The seed of the random instants."""
    descriptor_set: bytes = b""
    """A serialized ``FileDescriptorSet`` with the method's types. Empty: the server's reflection is asked."""
    tls: Tls | None = None
    """How to call over TLS. ``None``: in plain text."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            WrongUsage: An address is none, there are more than two callers, or a kind of refusal does not exist.
        """
        for address in filter(None, (self.address, self.replica)):
            if not address.startswith("unix:") and not address.rpartition(":")[2].isdecimal():
                raise WrongUsage(f"{address!r} is no address. Write HOST:PORT.")
        if len(self.principals) > 2:
            raise WrongUsage("There can be two callers at most.")
        if unknown := self.refusals.keys() - REFUSALS.keys():
            raise WrongUsage(f"There is no refusal {min(unknown)!r}. There are: {', '.join(REFUSALS)}.")

    def caller(self, caller: Metadata | None = None) -> Metadata:
        """Puts together the metadata of a caller's calls, without a key.

        Args:
            caller: The metadata that names the caller. ``None``: those of the first one.

        Returns:
            The metadata of every call, and then the caller's.
        """
        if caller is None:
            caller = self.principals[0] if self.principals else ()
        return (*self.metadata, *caller)

    def refused(self, kind: str, code: str) -> bool:
        """Tells whether a status code is a refusal of this kind.

        Args:
            kind: One of the kinds in :data:`REFUSALS`.
            code: The status code's name.

        Returns:
            True if the code counts as that refusal.
        """
        return code in self.refusals.get(kind, REFUSALS[kind])
