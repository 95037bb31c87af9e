"""What an operator does with operations: sees them, and says of held ones what became of them (6.4).

``grpc-idempotency`` is these functions as a command. They work on any store whose calls block; one that
:func:`open_store` opens can be used beside the servers on it.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from grpc_idempotency import _checks
from grpc_idempotency._wire.framing import frame, is_framed
from grpc_idempotency.errors import InvalidOutcome, NotHeld, OperationNotFound, PolicyError, StoreUnusable
from grpc_idempotency.records import Code, Outcome, Record, State
from grpc_idempotency.store import Store
from grpc_idempotency.stores._sqlite.connection import open_read_only
from grpc_idempotency.stores.sqlite import SQLiteStore

TTL = timedelta(hours=24)
"""How long what an operator says of an operation is kept, if nothing else is said."""

_AT_ONCE = 100
_SQLITE = re.compile(r"sqlite:///(?P<path>[^?#]+)\Z")
_NOT_YET = {"postgresql": "PostgreSQL", "postgres": "PostgreSQL", "redis": "Redis", "rediss": "Redis"}
_DIGITS = re.compile(r"[0-9a-f]{1,32}\Z")
_WHOLE_NAME = 32


@contextmanager
def open_store(url: str, *, table_prefix: str = "grpc_idempotency_", read_only: bool = False) -> Iterator[Store]:
    """The store at ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, open until the end of the block.

    It has to be there: neither a file nor tables are made.

    Args:
        url: Where the store is.
        table_prefix: What the names of its tables begin with.
        read_only: Whether operations are only looked at. Then nothing at all is changed or made, not even a file beside
            the store's.

    Raises:
        PolicyError: It is no store's URL.
        StoreUnavailable: The store is not there, or can't be opened.
    """
    path = _sqlite_path(url)
    store = SQLiteStore(path, table_prefix=table_prefix, read_only=read_only)
    _check_there(path, table_prefix)
    try:
        store.open()
        yield store
    finally:
        store.close()


def operations(store: Store, *, state: State | None = None, method: str | None = None) -> Iterator[Record]:
    """All operations, oldest claim first, page by page; of one state, of one method or those that a glob names."""
    is_glob = method is not None and any(character in method for character in "*?[")
    last: Record | None = None
    while page := store.list(state=state, method=None if is_glob else method, after=last, limit=_AT_ONCE):
        for record in page:
            if not is_glob or method is None or fnmatchcase(record.method, method):
                yield record
        last = page[-1]


def operation(store: Store, name: str) -> Record:
    """The operation of this name in hex, or the only one whose name begins so.

    Raises :class:`~grpc_idempotency.errors.OperationNotFound`, also where there are several.
    """
    name = name.lower()
    if not _DIGITS.match(name):
        raise OperationNotFound(f"an operation's name is up to {_WHOLE_NAME} hexadecimal digits, and {name!r} is not")
    if len(name) == _WHOLE_NAME:
        record = store.get(bytes.fromhex(name))
        found = [] if record is None else [record]
    else:
        found = [record for record in operations(store) if record.name.hex().startswith(name)]
    if not found:
        raise OperationNotFound(f"there is no operation {name} (any more)")
    if len(found) > 1:
        raise OperationNotFound(f"there are {len(found)} operations whose names begin with {name}: give more of it")
    return found[0]


def framed(messages: Iterable[bytes]) -> bytes:
    """Returns the serialized messages of a stream as the one ``message`` of an outcome."""
    return frame(messages)


def completed(store: Store, record: Record, outcome: Outcome, ttl: timedelta = TTL) -> None:
    """Resolves a held operation as completed: retries get this outcome.

    Args:
        store: Where the operation is kept.
        record: The operation as it was read.
        outcome: What retries get. Its message is the serialized response, for a method that answers with a stream
            :func:`framed` messages. With the status OK and no message they learn that it succeeded, and that its
            response is not there (``RESPONSE_NOT_RETAINED``).
        ttl: How long the outcome is kept.

    Raises:
        NotHeld: It is not held, or has changed since ``record`` was read.
        InvalidOutcome: The message is not of the operation's kind of call, or there is one with a failure.
    """
    if record.streams:
        if outcome.message is not None and not is_framed(outcome.message):
            raise InvalidOutcome(f"{record.method} answers with a stream: its outcome's message is framed(messages)")
    elif outcome.message is not None and outcome.status is not Code.OK:
        raise InvalidOutcome(
            "an outcome has a message only with the status OK, unless the method answers with a stream"
        )
    _resolve(store, record, outcome, ttl)


def never_happened(store: Store, record: Record) -> None:
    """Resolves a held operation as one that had no effect: it is absent again, and the next call with its key runs.

    Raises:
        NotHeld: It is not held, or has changed since ``record`` was read.
    """
    _resolve(store, record, None, TTL)


def _resolve(store: Store, record: Record, outcome: Outcome | None, ttl: timedelta) -> None:
    name = record.name.hex()
    _checks.duration("ttl", ttl, zero=False)
    if record.state is not State.HELD:
        raise NotHeld(f"operation {name} is {record.state.value}, not held: there is nothing to resolve")
    if not store.resolve(record.name, record.fence, outcome, ttl):
        raise NotHeld(f"operation {name} has changed meanwhile, and was left as it is: look at it again")


def _sqlite_path(url: str) -> Path:
    scheme = url.partition(":")[0].lower()
    if scheme in _NOT_YET:
        raise PolicyError(f"{_NOT_YET[scheme]} stores ({scheme}://) are not built in yet.")
    match = _SQLITE.match(url)
    if not match:
        raise PolicyError("A store's URL is sqlite:///FILE, for a file in this folder, or sqlite:////FOLDER/FILE.")
    return Path(unquote(match["path"]))


def _check_there(path: Path, table_prefix: str) -> None:
    """Looks without a trace: opening a store makes what is not there."""
    try:
        with closing(open_read_only(str(path.resolve()))) as db:
            sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
            found = db.execute(sql, (f"{table_prefix}operations",)).fetchone()
    except sqlite3.Error as exc:
        raise StoreUnusable(f"{path} can't be read: {exc}") from exc
    if found is None:
        raise StoreUnusable(f"{path} holds no operations whose tables begin with {table_prefix}")
