"""One group: all requests that wait, in one transaction, with one statement for each kind of request (6.2).

All statements are sent at once, in a pipeline. A group that is one statement is sent by itself: the server commits it.
A group that has only claims of transactional operations is committed without waiting for the disk, on a connection
whose session has ``synchronous_commit`` off. If the server fails and loses such a claim, then the transaction of its
handler is refused, and nothing has happened (5.1).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from grpc_idempotency import _jitter
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Effects
from grpc_idempotency.stores._calls.requests import ClaimRequest, Request
from grpc_idempotency.stores._postgres import faults, rows
from grpc_idempotency.stores._postgres.kinds import Answer, Kind, kind_of, name_of
from grpc_idempotency.stores._postgres.settings import Connection, Sessions
from grpc_idempotency.stores._postgres.sql import Sql

AnyRequest = Request[Any]
_MOST_ROWS = 256
"""The maximum number of rows in one statement."""
_MOST_BYTES = 4 << 20
"""The size in bytes after which a statement gets no further row."""
_TRIES = 5
"""How often a group is sent that meets conflicts."""
_ROUNDS = 20
"""How often a claim is made whose record appears and vanishes while it is made."""


@dataclass(slots=True)
class Work:
    """One statement."""

    kind: Kind
    requests: list[AnyRequest]
    columns: dict[str, list[Any]]
    size: int = 0
    found: dict[bytes, rows.Row] = field(default_factory=dict)
    """What the server has answered, by operation."""


class Group:
    """Sends requests on the writer's connections, and answers them.

    Args:
        connect: Returns the connection whose commits wait for the disk, or the one whose commits do not; a new one if
            there is none.
        drop: Closes the connections, when one is of no use any more.
        sql: The statements.
        sessions: The settings of the connections.
    """

    def __init__(
        self, connect: Callable[[bool], Connection], drop: Callable[[], None], sql: Sql, sessions: Sessions
    ) -> None:
        self._connect = connect
        self._drop = drop
        self._sql = sql
        self._sessions = sessions

    def run(self, requests: Sequence[AnyRequest]) -> list[AnyRequest]:
        """Answers requests, each with a value or an error.

        Returns:
            The requests whose records others have locked. They have no answer yet.
        """
        durable = not all(map(_needs_no_disk, requests))
        busy: list[AnyRequest] = []
        fresh: set[int] = set()
        left = list(requests)
        for _ in range(_ROUNDS):
            if not left:
                break
            left = self._round(left, fresh, busy, durable=durable)
            fresh |= set(map(id, left))
        for one in left:
            one.error = StoreUnavailable("the operation's record appears and vanishes all the time")
        return busy

    def _round(
        self, requests: list[AnyRequest], fresh: set[int], busy: list[AnyRequest], *, durable: bool
    ) -> list[AnyRequest]:
        """Makes requests once, and returns those that have to be made again."""
        again: list[AnyRequest] = []
        works = _works(requests, fresh)
        self._insist(works, durable=durable)
        for work in works:
            for one in work.requests:
                if one.error is not None:
                    continue
                answer = work.kind.answer(one, work.found.get(name_of(one)))
                if answer is Answer.BUSY:
                    busy.append(one)
                elif answer is Answer.AGAIN:
                    again.append(one)
        return again

    def _insist(self, works: list[Work], *, durable: bool) -> None:
        """Sends statements in one transaction. A request that can't be made gets an error."""
        sent = False
        for n in range(_TRIES):
            if not works:
                return
            try:
                self._send(works, durable=durable)
                return
            except (psycopg.Error, StoreUnavailable, ValueError, TypeError, OverflowError) as error:
                if faults.is_conflict(error):
                    time.sleep(_jitter.uniform(0, 0.01 * 2**n))
                elif isinstance(error, psycopg.Error) and self._sessions.fell_back(error):
                    self._drop()
                elif n == 0 and faults.is_broken(error):
                    # The connection was lost, perhaps while it was idle: a new one may do.
                    sent = faults.state_of(error) != faults.READ_ONLY
                    self._drop()
                    works = _repeatable(works, error) if sent else works
                else:
                    self._failed(works, error, sent=sent, durable=durable)
                    return
        self._failed(works, StoreUnavailable("conflicts with other transactions did not end"), durable=durable)

    def _failed(self, works: list[Work], error: BaseException, *, durable: bool, sent: bool = False) -> None:
        """Fails the requests, or makes each by itself if only one of them is at fault."""
        whose = [one for work in works for one in work.requests]
        if faults.is_fault(error) or faults.is_forbidden(error) or len(whose) == 1:
            if faults.is_broken(error):
                self._drop()
            for one in whose:
                one.error = faults.translated(error)
                if sent and isinstance(one.error, StoreUnavailable):
                    one.error.landed = None  # it had been sent before
            return
        for work in works:
            for at, one in enumerate(work.requests):
                columns = {name: values[at : at + 1] for name, values in work.columns.items()}
                alone = Work(work.kind, [one], columns)
                self._insist([alone], durable=durable)
                work.found |= alone.found

    def _send(self, works: list[Work], *, durable: bool) -> None:
        """Sends statements in one transaction, and keeps their answers."""
        db = self._connect(durable or self._sessions.pooled)
        pooled = self._sessions.pooled
        try:
            if len(works) == 1 and not pooled:
                answers = [self._execute(db, works[0])]
            else:
                with db.pipeline():
                    db.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                    if pooled:
                        db.execute(*self._sessions.local(own=True, durable=durable))
                    answers = [self._execute(db, work) for work in works]
                    db.execute("COMMIT")
            for work, cursor in zip(works, answers, strict=True):
                work.found = {row[0]: row for row in cursor.fetchall()}
        except psycopg.Error:
            if not db.closed:
                db.rollback()
            raise

    def _execute(self, db: Connection, work: Work) -> psycopg.Cursor[Any]:
        return db.execute(self._sql[work.kind.statement], work.columns, binary=True)


def _needs_no_disk(request: AnyRequest) -> bool:
    return type(request) is ClaimRequest and request.claim.effects is Effects.TRANSACTIONAL


def _repeatable(works: list[Work], error: BaseException) -> list[Work]:
    """Fails the requests that must not be sent twice, and returns the others."""
    for work in works:
        if not work.kind.repeatable:
            for one in work.requests:
                one.error = faults.translated(error)
    return [work for work in works if work.kind.repeatable]


def _works(requests: list[AnyRequest], fresh: set[int]) -> list[Work]:
    """Sorts requests into statements, by kind and name. A statement names each operation once."""
    works: list[Work] = []
    by_kind: dict[str, list[AnyRequest]] = {}
    for one in requests:
        by_kind.setdefault(kind_of(one, fresh=id(one) in fresh).statement, []).append(one)
    for same in by_kind.values():
        same.sort(key=name_of)  # so that insertions of two processes never wait for each other
        kind = kind_of(same[0], fresh=id(same[0]) in fresh)
        while same:
            later: list[AnyRequest] = []
            work, last = Work(kind, [], {}), None
            for one in same:
                if name_of(one) == last or len(work.requests) == _MOST_ROWS or work.size > _MOST_BYTES:
                    later.append(one)
                elif _add(work, one):
                    last = name_of(one)
            if work.requests:
                works.append(work)
            same = later
    return works


def _add(work: Work, request: AnyRequest) -> bool:
    """Adds a request to a statement. One with values that can't be stored gets an error."""
    try:
        columns = work.kind.columns(request)
        sizes = [len(value) for value in columns.values() if isinstance(value, bytes)]
    except Exception as error:
        request.error = faults.translated(error, sent=False)
        return False
    for name, value in columns.items():
        work.columns.setdefault(name, []).append(value)
    work.requests.append(request)
    work.size += sum(sizes)
    return True
