"""The servers' stores: the real ones, with an audit."""

from datetime import datetime, timedelta

from crash.audit import Audit, TransactionAudit
from crash.beside import Beside
from grpc_idempotency.aio import PostgresStore, RedisStore, SQLiteStore
from grpc_idempotency.records import Claim, Outcome, Record


class LabStore(TransactionAudit, SQLiteStore):
    """Operations in an SQLite file, with the handlers' rows. Faults are layers over it."""

    async def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> datetime | Record:
        self.point.reach("before-completion")
        completed = await super().complete_unclaimed(claim, outcome, ttl)
        if not isinstance(completed, Record):
            self._note("done", claim.name, claim.fence, status=int(outcome.status))
            self.point.reach("after-completion")
        return completed


class PostgresLab(TransactionAudit, PostgresStore):  # type: ignore[misc]  # plain functions are enough here
    """Operations in PostgreSQL, with the handlers' rows."""


class RedisLab(Beside, Audit, RedisStore):
    """Operations in Valkey, and the handlers' rows beside them."""
