"""The settings of an engine, and the connections that are made with them."""

import logging
import select
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ConnStatus

from grpc_idempotency.errors import StoreUnusable
from grpc_idempotency.stores._postgres import faults
from grpc_idempotency.stores._postgres.sql import SERVER_CLOCK

_log = logging.getLogger("grpc_idempotency.stores.postgres")
Connection = psycopg.Connection[Any]

_DEFAULTS = {
    "application_name": "grpc-idempotency",
    "connect_timeout": 5,
    # A host that vanished is noticed within some ten seconds, and not after minutes.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_PLANS = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")
"""The planner's settings that are off for the store's own statements, where the engine has them.

Of a table that was never analysed, the planner thinks that it is small. It would read all of it for each batch, and
keep this plan. And it thinks that a third of all rows have expired. A list would take all rows of a method by a bitmap,
and sort them. A plan that can't do without what is off has a very high cost. So the engine would compile it each time,
in some 100 ms: compilation is off, too.
"""
_PLAN_CACHE = ("plan_cache_mode", "force_generic_plan")
"""Keeps one plan for each statement. The cost of a plan for few operations looks lower than that of any number, so the
engine would plan again for each small group: 900 µs of its processor time for a claim and a completion, instead of 615.
"""
_RISKS = ("fsync", "full_page_writes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of an engine. Stores with equal ones share it."""

    conninfo: str = field(repr=False)
    """It may contain a password."""
    schema: str
    lock_timeout: float
    """Seconds that a statement waits for a lock."""
    max_connections: int
    """The maximum number of transactions at a time."""
    transaction_pooler: bool
    """True if a pooler gives a connection to each transaction: no session's state lasts."""
    migrate: bool
    clock: str = SERVER_CLOCK

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of ``psycopg.connect``."""
        return _DEFAULTS | conninfo_to_dict(self.conninfo) | {"autocommit": True}

    @property
    def place(self) -> str:
        """The server and the database, without the password, for errors."""
        given = conninfo_to_dict(self.conninfo)
        host, port = given.get("host", "the local server"), given.get("port", "")
        return f"{host}{':' if port else ''}{port}/{given.get('dbname', '')}"


class Sessions:
    """Sets up the sessions of connections, in the way that server and pooler need."""

    def __init__(self, settings: Settings) -> None:
        self.pooled = settings.transaction_pooler
        """True if session state does not last: settings are made for each transaction, and nothing is prepared."""
        self._patience = f"{int(settings.lock_timeout * 1000)}ms"
        self._known: Mapping[str, str] | None = None
        self._place = settings.place
        self._begun: weakref.WeakKeyDictionary[object, float] = weakref.WeakKeyDictionary()
        self._read_only_at = 0.0

    def learn(self, db: Connection) -> None:
        """Finds out, once, whether there is a pooler, and what the server's settings are. Warns of risks.

        A pooler answers with a number of its own where a server gives the id of its process.
        """
        if not psycopg.Pipeline.is_supported():
            raise StoreUnusable("the PostgreSQL store needs libpq 14 or newer: install psycopg[binary]")
        if self._known is not None:
            return
        (backend,) = db.execute("SELECT pg_backend_pid()").fetchone() or (None,)
        if not self.pooled and backend != db.info.backend_pid:
            _log.info("%s is behind a pooler", self._place)
            self.pooled = True
        names = [*_PLANS, _PLAN_CACHE[0], *_RISKS, "synchronous_commit", "lock_timeout"]
        self._known = dict(db.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [names]).fetchall())
        for name in _RISKS:
            if self._known.get(name) == "off":
                _log.warning("%s has %s off: when its machine fails, outcomes can be lost", self._place, name)
        if self._known.get("synchronous_commit") == "off":
            _log.warning("%s has synchronous_commit off: this store sets it on for its own connections", self._place)

    def session(self, *, own: bool, durable: bool = True) -> tuple[bytes, list[Any]]:
        """Returns the statement that makes the settings of a session. See :meth:`local` for the arguments."""
        return _configuring(self._wanted(own=own, durable=durable), local=False)

    def local(self, *, own: bool, durable: bool = True) -> tuple[bytes, list[Any]]:
        """Returns the statement that makes settings for one transaction.

        Args:
            own: True if the session runs the store's statements alone.
            durable: False if its commit need not wait for the disk.
        """
        return _configuring(self._wanted(own=own, durable=durable), local=True)

    def _wanted(self, *, own: bool, durable: bool) -> list[tuple[str, str]]:
        known = self._known or {}
        wanted = [("lock_timeout", self._patience)] if "lock_timeout" in known else []
        if not durable:
            wanted.append(("synchronous_commit", "off"))
        elif known.get("synchronous_commit") == "off":
            wanted.append(("synchronous_commit", "on"))
        if own:
            wanted += [(name, "off") for name in _PLANS if name in known]
            if _PLAN_CACHE[0] in known:
                wanted.append(_PLAN_CACHE)
            wanted.append(("default_transaction_isolation", "read committed"))
        return wanted

    def noted(self, error: BaseException) -> bool:
        """Returns ``True`` if a connection is of no use after this error.

        If its server is read-only since a failover, all connections that were there before it are.
        """
        if faults.state_of(error) == faults.READ_ONLY:
            self._read_only_at = time.monotonic()
        return faults.is_broken(error) or self.fell_back(error)

    def is_stale(self, db: object) -> bool:
        """Returns ``True`` if a connection may lead to a server that has become read-only."""
        return self._begun.get(db, 0.0) < self._read_only_at

    def began(self, db: object) -> None:
        """Notes that a connection is new."""
        self._begun[db] = time.monotonic()

    def begin(self, db: Connection, *, own: bool, durable: bool = True) -> None:
        """Sets up a new connection. See :meth:`local` for the arguments."""
        self.began(db)
        self.learn(db)
        if self.pooled:
            db.prepare_threshold = None
        else:
            db.execute(*self.session(own=own, durable=durable))

    def fell_back(self, error: BaseException) -> bool:
        """Returns ``True`` if the error shows that there is a pooler. On new connections nothing is prepared then."""
        if not faults.lost_session(error):
            return False
        if not self.pooled:
            self.pooled = True
            _log.warning("%s is behind a pooler in transaction mode: give transaction_pooler=True", self._place)
        return True


def _configuring(wanted: Sequence[tuple[str, str]], *, local: bool) -> tuple[bytes, list[Any]]:
    names, values = [name for name, _ in wanted], [value for _, value in wanted]
    query = b"SELECT set_config(s.name, s.value, %s) FROM unnest(%s::text[], %s::text[]) AS s (name, value)"
    return query, [local, names, values]


def is_lost(db: Connection) -> bool:
    """Returns ``True`` if an idle connection is closed, or was lost meanwhile: its server or the network has ended it.

    It costs no round trip. What an idle connection may receive, such as changed settings, is read.
    """
    if db.closed:
        return True
    socket = select.poll()
    socket.register(db.fileno(), select.POLLIN)
    try:
        while socket.poll(0):
            db.pgconn.consume_input()
    except psycopg.Error:
        return True
    return db.pgconn.status != ConnStatus.OK
