"""The shop's tables. They are in the store's database, so that a row and its reply can share a commit (9.2).

Each engine has its own statements for them, in a folder of ``migrations/``.
"""

from collections.abc import Sequence

from shop.database import Database, statements

MIGRATIONS: Sequence[str] = ("0001_users_and_orders.sql",)
"""The migrations, forward only: a released file is never edited, and a change is a new file at the end."""


class SchemaTooNew(Exception):
    """The database was created by a newer version of the shop, so this one does not touch it. An operator's mistake."""


def migrate(db: Database) -> int:
    """Migrates the tables in the transaction of ``db``, and returns their version.

    Two servers may start on one database at once: the second waits for the first's commit, and finds nothing to do.
    """
    folder = f"migrations/{db.engine.name}"
    *preparing, read, write = statements("shop", f"{folder}/version.sql").values()
    for statement in preparing:
        db.execute(statement)
    row = db.execute(read).fetchone()
    version = row[0] if row else 0
    if version > len(MIGRATIONS):
        raise SchemaTooNew(
            f"The shop's tables have version {version}, and this shop knows versions up to {len(MIGRATIONS)}. "
            "Start a newer shop on this database."
        )
    for file in MIGRATIONS[version:]:
        for statement in statements("shop", f"{folder}/{file}").values():
            db.execute(statement)
    db.execute(write, (len(MIGRATIONS),))
    return len(MIGRATIONS)
