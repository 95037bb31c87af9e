"""Reads and writes users, wallets and reservations as rows, without any rule of the service."""

from typing import Any

from shop.database import Database, statements
from shop.etags import etag
from shop.ids import new_id, now_us, timestamp
from shop.money import NANOS_PER_UNIT, Amount, money
from shop.users.v1.users_pb2 import Reservation, User

_SQL = statements(__package__)


def email_key(email: str) -> str:
    """Returns a form of an email address that is the same for equal addresses."""
    return email.casefold()


def insert_user(db: Database, display_name: str, email: str) -> User | None:
    """Creates a user. Returns ``None`` if another user has the email address."""
    user_id, now = new_id("user"), now_us()
    rows = db.execute(_SQL["insert_user"], (user_id, display_name, email, email_key(email), now, now))
    return read_user(db, user_id) if rows.rowcount else None


def read_user(db: Database, user_id: str) -> User | None:
    """Reads the user with an id."""
    row = db.execute(_SQL["read_user"], (user_id,)).fetchone()
    return _user(row) if row else None


def lock_user(db: Database, user_id: str) -> User | None:
    """Reads the user with an id, to change it: other transactions that would change the user or the wallet wait."""
    row = db.execute(_SQL["lock_user"], (user_id,)).fetchone()
    return _user(row) if row else None


def list_users(db: Database, after: int, limit: int) -> tuple[list[tuple[int, User]], bool]:
    """Reads up to ``limit`` users behind a ``seq``, oldest first, each with its ``seq``; and whether there are more."""
    rows = db.execute(_SQL["list_users"], (after, limit + 1)).fetchall()
    return [(row[0], _user(row)) for row in rows[:limit]], len(rows) > limit


def update_user(db: Database, user: User) -> None:
    """Writes a user's own fields. Raises ``db.IntegrityError`` if another user has the email address."""
    fields = (user.display_name, user.email, email_key(user.email), now_us(), user.id)
    db.execute(_SQL["update_user"], fields)


def update_balance(db: Database, user_id: str, balance: Amount) -> None:
    """Writes a user's balance."""
    db.execute(_SQL["update_balance"], (*balance.columns, now_us(), user_id))


def delete_user(db: Database, user_id: str) -> None:
    """Deletes a user; the reservations stay."""
    db.execute(_SQL["delete_user"], (user_id,))


def insert_reservation(db: Database, user_id: str, amount: Amount) -> Reservation:
    """Creates an active reservation."""
    now = now_us()
    row = (new_id("reservation"), user_id, *amount.columns, Reservation.STATE_ACTIVE, now, now)
    db.execute(_SQL["insert_reservation"], row)
    return _reservation(row)


def lock_reservation(db: Database, reservation_id: str) -> Reservation | None:
    """Reads the reservation with an id, to change it."""
    row = db.execute(_SQL["lock_reservation"], (reservation_id,)).fetchone()
    return _reservation(row) if row else None


def update_reservation(db: Database, reservation: Reservation, state: Reservation.State) -> Reservation:
    """Writes a reservation's new state, and returns the reservation."""
    now = now_us()
    db.execute(_SQL["update_reservation"], (state, now, reservation.id))
    reservation.state = state
    reservation.update_time.CopyFrom(timestamp(now))
    return reservation


def active_reservations(db: Database, user_id: str) -> tuple[int, int]:
    """Returns the number of a user's active reservations, and their sum in billionths."""
    row = db.execute(_SQL["sum_active_reservations"], (user_id,)).fetchone()
    count, units, nanos = row or (0, 0, 0)
    return count, units * NANOS_PER_UNIT + nanos


def _user(row: tuple[Any, ...]) -> User:
    _, user_id, display_name, email, currency, units, nanos, version, created, updated = row
    return User(
        id=user_id,
        display_name=display_name,
        email=email,
        balance=money(currency, units, nanos) if currency else None,
        create_time=timestamp(created),
        update_time=timestamp(updated),
        etag=etag(user_id, version),
    )


def _reservation(row: tuple[Any, ...]) -> Reservation:
    reservation_id, user_id, currency, units, nanos, state, created, updated = row
    return Reservation(
        id=reservation_id,
        user_id=user_id,
        amount=money(currency, units, nanos),
        state=state,
        create_time=timestamp(created),
        update_time=timestamp(updated),
    )
