"""Functions for operators: to list and read operations, and to resolve held ones (6.4).

The command ``grpc-idempotency`` calls these functions. They work on any store whose calls block. A store that
:func:`open_store` opens may be used while servers use it.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase

from grpc_idempotency import _checks
from grpc_idempotency._wire.framing import frame, is_framed
from grpc_idempotency.errors import InvalidOutcome, NotHeld, OperationNotFound, PolicyError
from grpc_idempotency.records import Code, Outcome, Record, State
from grpc_idempotency.store import Store
from grpc_idempotency.urls import store_from_url

TTL = timedelta(hours=24)
"""How long an outcome that an operator gives is kept by default."""

_AT_ONCE = 100
_DIGITS = re.compile(r"[0-9a-f]{1,32}\Z")
_WHOLE_NAME = 32


@contextmanager
def open_store(url: str, *, read_only: bool = False) -> Iterator[Store]:
    """Opens an existing store until the end of the ``with`` block. Creates neither a file nor tables.

    Args:
        url: Where the store is, as in :func:`grpc_idempotency.store_from_url`.
        read_only: ``True`` if operations are only read. Where the store allows, nothing is changed or created then, not
            even a file beside the store's.

    Yields:
        The open store.

    Raises:
        PolicyError: The URL is not that of a store.
        StoreUnavailable: The store does not exist, or can't be opened.
    """
    store = store_from_url(url, migrate=False, read_only=read_only)
    try:
        store.open()
        yield store
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


def operations(store: Store, *, state: State | None = None, method: str | None = None) -> Iterator[Record]:
    """Reads operations, the oldest claims first, page by page.

    Args:
        store: Where the operations are kept.
        state: Only operations in this state.
        method: Only operations of the method with this full name, or of those that match this glob.

    Yields:
        Their records.
    """
    is_glob = method is not None and any(character in method for character in "*?[")
    last: Record | None = None
    while page := store.list(state=state, method=None if is_glob else method, after=last, limit=_AT_ONCE):
        for record in page:
            if not is_glob or method is None or fnmatchcase(record.method, method):
                yield record
        last = page[-1]


def operation(store: Store, name: str) -> Record:
    """Reads one operation.

    Args:
        store: Where the operation is kept.
        name: Its name in hex, or a unique prefix of it.

    Returns:
        Its record.

    Raises:
        OperationNotFound: No operation has such a name, or several have.
    """
    name = name.lower()
    if not _DIGITS.match(name):
        raise OperationNotFound(f"an operation's name has up to {_WHOLE_NAME} hexadecimal digits, unlike {name!r}")
    if len(name) == _WHOLE_NAME:
        record = store.get(bytes.fromhex(name))
        found = [] if record is None else [record]
    else:
        found = [record for record in operations(store) if record.name.hex().startswith(name)]
    if not found:
        raise OperationNotFound(f"there is no operation {name}, or it has expired")
    if len(found) > 1:
        raise OperationNotFound(f"the names of {len(found)} operations begin with {name}: give more digits")
    return found[0]


def framed(messages: Iterable[bytes]) -> bytes:
    """Joins the serialized messages of a stream to the one ``message`` of an outcome.

    Args:
        messages: The messages, in their order.

    Returns:
        The messages, each behind its length in four bytes.
    """
    return frame(messages)


def completed(store: Store, record: Record, outcome: Outcome, ttl: timedelta = TTL) -> None:
    """Resolves a held operation as completed: retries get this outcome.

    Args:
        store: Where the operation is kept.
        record: The operation as it was read.
        outcome: The answer to retries. Its message is the serialized response, or :func:`framed` messages if the method
            answers with a stream. With the status OK and no message, retries learn that the operation succeeded, and
            that its response is missing (``RESPONSE_NOT_RETAINED``).
        ttl: How long the outcome is kept.

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
    _resolve(store, record, outcome, ttl)


def never_happened(store: Store, record: Record) -> None:
    """Resolves a held operation as one that had no effect: it is absent again, and the next call with its key runs.

    Args:
        store: Where the operation is kept.
        record: The operation as it was read.

    Raises:
        NotHeld: The operation is not held, or has changed since ``record`` was read.
    """
    _resolve(store, record, None, TTL)


def _resolve(store: Store, record: Record, outcome: Outcome | None, ttl: timedelta) -> None:
    name = record.name.hex()
    _checks.duration("ttl", ttl, zero=False)
    if record.state is not State.HELD:
        raise NotHeld(f"operation {name} is {record.state.value}, not held: there is nothing to resolve")
    if not store.resolve(record.name, record.fence, outcome, ttl):
        raise NotHeld(f"operation {name} has changed meanwhile, and was left as it is: read it again")
