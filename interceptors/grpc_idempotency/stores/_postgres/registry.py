"""The engines of this process: one for each schema of a database, for all stores, event loops and servers (6.2)."""

from grpc_idempotency.stores._calls.sharing import Shared
from grpc_idempotency.stores._postgres.engine import PostgresEngine
from grpc_idempotency.stores._postgres.settings import Settings

engines = Shared[PostgresEngine]()


def acquire(settings: Settings) -> PostgresEngine:
    """Returns the engine with these settings, and counts one more user of it."""
    with engines.lock:
        fitting = (one for one in engines.users if one.settings == settings and one.failure is None)
        engine = next(fitting, None)
        return engines.use(PostgresEngine(settings) if engine is None else engine)
