"""Functions for operators: to list, count and read operations, to resolve held ones and to forget others (6.4).

The command ``grpc-idempotency`` calls these functions. They work on any
:class:`~grpc_idempotency.operator_store.OperatorStore`. A store that :func:`open_store` opens may be used while servers
use it. Whatever changes an operation leaves a note with it: ``store.notes(record.name)`` reads them.
"""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, cast

from grpc_idempotency import _checks
from grpc_idempotency._wire.framing import frame, is_framed
from grpc_idempotency._wire.key import digest_name, parse_key
from grpc_idempotency.errors import InvalidOutcome, NotForgotten, NotHeld, OperationNotFound, PolicyError
from grpc_idempotency.operator_store import OperatorStore
from grpc_idempotency.records import Code, Note, Outcome, Record, State
from grpc_idempotency.urls import store_from_url

TTL = timedelta(hours=24)
"""How long an outcome that an operator gives is kept by default."""

_AT_ONCE = 100
_DIGITS = re.compile(r"[0-9a-fA-F]{1,32}\Z")
_WHOLE_NAME = 32
_CALLS = ("list", "find", "count", "methods", "notes", "resolve", "forget")


@contextmanager
def open_store(url: str, *, read_only: bool = False) -> Iterator[OperatorStore]:
    """Opens an existing store until the end of the ``with`` block. Creates neither a file nor tables.

    Args:
        url: Where the store is, as in :func:`grpc_idempotency.store_from_url`.
        read_only: ``True`` if operations are only read. Where the store allows, nothing is changed or created then, not
            even a file beside the store's.

    Yields:
        The open store.

    Raises:
        PolicyError: The URL is not that of a store, or this kind of store lacks the calls of operators.
        StoreUnavailable: The store does not exist, or can't be opened.
    """
    store = store_from_url(url, migrate=False, read_only=read_only)
    missing = [call for call in _CALLS if not hasattr(store, call)]
    if missing:
        raise PolicyError(f"{type(store).__name__} is not for operators: it has no {', '.join(missing)}")
    try:
        store.open()
        yield cast(OperatorStore, store)
    finally:
        store.close()


def schema(url: str, *, since: int = 0) -> str:
    """Returns the SQL that creates or migrates a store's tables. Opens nothing.

    Args:
        url: Where the store is, as in :func:`grpc_idempotency.store_from_url`. It need not exist.
        since: The version of the tables that exist; 0 if there are none.

    Returns:
        Statements, which are one transaction.

    Raises:
        PolicyError: The URL is not that of a store with tables, or there is no such version.
    """
    ddl = getattr(store_from_url(url), "ddl", None)
    if ddl is None:
        raise PolicyError("this kind of store has no tables that SQL could create")
    sql: str = ddl(since=since)
    return sql


def operations(
    store: OperatorStore,
    *,
    state: State | None = None,
    method: str | None = None,
    newest_first: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
    stuck: bool = False,
    limit: int | None = None,
) -> Iterator[Record]:
    """Reads operations in the order of their first claims, page by page.

    Args:
        store: Where the operations are kept.
        state: Only operations in this state.
        method: Only operations of the method with this full name, or of those that match this glob.
        newest_first: True to begin with the latest claim.
        since: Only operations that were first claimed at this time or later; timezone-aware.
        until: Only operations that were first claimed before this time; timezone-aware.
        stuck: True for held and lapsed operations alone.
        limit: The maximum number of operations; ``None``: all.

    Yields:
        Their records.
    """
    chosen = {"state": state, "newest_first": newest_first, "since": since, "until": until, "stuck": stuck}
    most = _AT_ONCE if limit is None else max(1, min(limit, _AT_ONCE))
    if method is None or not any(character in method for character in "*?["):
        yield from islice(_pages(store, most, method=method, **chosen), limit)
        return
    names = [name for name in store.methods() if fnmatchcase(name, method)]
    at_once = max(1, most // max(1, len(names)))
    pages = [_pages(store, at_once, method=name, **chosen) for name in names]
    merged = heapq.merge(*pages, key=lambda record: (record.created_at, record.name), reverse=newest_first)
    yield from islice(merged, limit)


def operation(store: OperatorStore, name: str) -> Record:
    """Reads one operation.

    Args:
        store: Where the operation is kept.
        name: Its name in hex, or a unique prefix of it.

    Returns:
        Its record.

    Raises:
        OperationNotFound: No operation has such a name, or several have.
    """
    if not _DIGITS.match(name):
        raise OperationNotFound(f"an operation's name has up to {_WHOLE_NAME} hexadecimal digits, unlike {name!r}")
    if len(name) == _WHOLE_NAME:
        record = store.get(bytes.fromhex(name))
        found: Sequence[Record] = [] if record is None else [record]
    else:
        found = store.find(name, limit=2)
    if not found:
        raise OperationNotFound(f"there is no operation {name}, or it has expired")
    if len(found) > 1:
        raise OperationNotFound(f"the names of several operations begin with {name}: give more digits")
    return found[0]


def counts(store: OperatorStore) -> Mapping[tuple[str, State], int]:
    """Counts the operations of each method and state.

    Args:
        store: Where the operations are kept.

    Returns:
        The counts by the full name of the method and the state, without zeros.
    """
    return store.count()


def name_of(principal: str | bytes, method: str, key: str, secret: bytes | None = None) -> bytes:
    """Computes the name of the operation of a call (3.1).

    Args:
        principal: What the server's principal function returns for the caller;
            :data:`grpc_idempotency.principals.SHARED` if the server has none and the caller has no verified identity.
        method: The full method name, ``/package.Service/Method``.
        key: The call's idempotency key, as the client sent it.
        secret: The server's secret, if it has one.

    Returns:
        The operation's name: 16 bytes.

    Raises:
        ValueError: The key is not valid, or the principal is empty.
        PolicyError: The secret is too short.
    """
    if not principal:
        raise ValueError("the principal is empty")
    try:
        parsed = parse_key(key)
    except ValueError as exc:
        raise ValueError(f"the key is not valid: {exc}") from exc
    named = principal.encode() if isinstance(principal, str) else principal
    return digest_name(named, method, parsed, _checks.secret("secret", secret))


def framed(messages: Iterable[bytes]) -> bytes:
    """Joins the serialized messages of a stream to the one ``message`` of an outcome.

    Args:
        messages: The messages, in their order.

    Returns:
        The messages, each behind its length in four bytes.
    """
    return frame(messages)


def completed(
    store: OperatorStore, record: Record, outcome: Outcome, ttl: timedelta = TTL, *, by: str = "", reason: str = ""
) -> None:
    """Resolves a held operation as completed: retries get this outcome.

    Args:
        store: Where the operation is kept.
        record: The operation as it was read.
        outcome: The answer to retries. Its message is the serialized response, or :func:`framed` messages if the method
            answers with a stream. With the status OK and no message, retries learn that the operation succeeded, and
            that its response is missing (``RESPONSE_NOT_RETAINED``).
        ttl: How long the outcome is kept.
        by: Who resolves it.
        reason: Why.

    Raises:
        NotHeld: The operation is not held, or has changed since ``record`` was read.
        InvalidOutcome: The message does not fit the operation's kind of call, or a failure has a message.
    """
    if record.streams:
        if outcome.message is not None and not is_framed(outcome.message):
            raise InvalidOutcome(f"{record.method} answers with a stream: the message must be framed(messages)")
    elif outcome.message is not None and outcome.status is not Code.OK:
        raise InvalidOutcome(
            "an outcome has a message only with the status OK, unless the method answers with a stream"
        )
    _resolve(store, record, outcome, ttl, Note(by=by, action="completed", reason=reason))


def never_happened(store: OperatorStore, record: Record, *, by: str = "", reason: str = "") -> None:
    """Resolves a held operation as one that had no effect: it is absent again, and the next call with its key runs.

    Args:
        store: Where the operation is kept.
        record: The operation as it was read.
        by: Who resolves it.
        reason: Why.

    Raises:
        NotHeld: The operation is not held, or has changed since ``record`` was read.
    """
    _resolve(store, record, None, TTL, Note(by=by, action="never happened", reason=reason))


def forget(store: OperatorStore, record: Record, *, by: str = "", reason: str = "") -> None:
    """Makes an operation absent: the next call with its key runs, whatever this one did.

    An interceptor that has the outcome of a completed operation in its memory replays it for a minute more at most.

    Args:
        store: Where the operation is kept.
        record: The operation as it was read: completed, held, waiting, or with a lease that has run out.
        by: Who forgets it.
        reason: Why.

    Raises:
        NotForgotten: The operation's lease holds, or it has changed since ``record`` was read.
    """
    check_idle(record)
    name = record.name.hex()
    if not store.forget(record.name, record.fence, Note(by=by, action="forgotten", reason=reason)):
        raise NotForgotten(
            f"operation {name} has changed meanwhile, or is at work again, and was left as it is: read it again"
        )


def _pages(store: OperatorStore, at_once: int, **chosen: Any) -> Iterator[Record]:
    last: Record | None = None
    while True:
        page = store.list(after=last, limit=at_once, **chosen)
        yield from page
        if len(page) < at_once:
            return
        last = page[-1]


def check_held(record: Record) -> None:
    """Checks that an operation can be resolved.

    Args:
        record: The operation as it was read.

    Raises:
        NotHeld: It is not held.
    """
    if record.state is not State.HELD:
        raise NotHeld(f"operation {record.name.hex()} is {record.state.value}, not held: there is nothing to resolve")


def check_idle(record: Record) -> None:
    """Checks that an operation can be forgotten.

    Args:
        record: The operation as it was read.

    Raises:
        NotForgotten: It is at work: its lease holds.
    """
    if record.state in (State.RUNNING, State.UNDOING) and not record.lapsed:
        raise NotForgotten(f"operation {record.name.hex()} is {record.state.value} and its lease holds: it is at work")


def _resolve(store: OperatorStore, record: Record, outcome: Outcome | None, ttl: timedelta, note: Note) -> None:
    _checks.duration("ttl", ttl, zero=False)
    check_held(record)
    if not store.resolve(record.name, record.fence, outcome, ttl, note):
        raise NotHeld(f"operation {record.name.hex()} has changed meanwhile, and was left as it is: read it again")
