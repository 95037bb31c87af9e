"""The rules of a wallet: money moves, and is never made or lost. Each function has all effects of a transaction."""

from shop.database import Database
from shop.errors import Reason, Refused
from shop.money import Amount
from shop.users import rows
from shop.users.v1.users_pb2 import Reservation, User


def add(db: Database, user_id: str, amount: Amount) -> User:
    """Adds credit, and returns the user."""
    balance = _balance(db, user_id, amount.currency) or Amount(currency=amount.currency, nanos=0)
    _, set_aside = rows.active_reservations(db, user_id)
    # Reserved amounts may come back, so there has to be room for them too.
    if not balance.plus(set_aside + amount.nanos).fits:
        raise Refused(Reason.BALANCE_TOO_LARGE, id=user_id, amount=str(amount))
    rows.update_balance(db, user_id, balance.plus(amount.nanos))
    return existing(db, user_id)


def reserve(db: Database, user_id: str, amount: Amount) -> Reservation:
    """Reserves an amount."""
    balance = _balance(db, user_id, amount.currency) or Amount(currency=amount.currency, nanos=0)
    if balance.nanos < amount.nanos:
        raise Refused(Reason.BALANCE_TOO_SMALL, id=user_id, balance=str(balance), amount=str(amount))
    rows.update_balance(db, user_id, balance.plus(-amount.nanos))
    return rows.insert_reservation(db, user_id, amount)


def capture(db: Database, reservation_id: str) -> Reservation:
    """Spends a reservation."""
    return rows.update_reservation(db, _active(db, reservation_id), Reservation.STATE_CAPTURED)


def release(db: Database, reservation_id: str) -> Reservation:
    """Returns a reservation's amount to the balance."""
    reservation = _active(db, reservation_id)
    # Its user still exists: a user with active reservations can't be deleted.
    balance = Amount.of(locked(db, reservation.user_id).balance)
    rows.update_balance(db, reservation.user_id, balance.plus(Amount.of(reservation.amount).nanos))
    return rows.update_reservation(db, reservation, Reservation.STATE_RELEASED)


def existing(db: Database, user_id: str) -> User:
    """Returns the user. Raises :class:`Refused` if there is none."""
    return _found(rows.read_user(db, user_id), user_id)


def locked(db: Database, user_id: str) -> User:
    """Returns the user, whose wallet only this transaction can change now. Raises :class:`Refused` if there is none."""
    return _found(rows.lock_user(db, user_id), user_id)


def _found(user: User | None, user_id: str) -> User:
    if user is None:
        raise Refused(Reason.USER_NOT_FOUND, id=user_id)
    return user


def _balance(db: Database, user_id: str, currency: str) -> Amount | None:
    """Returns a user's balance, to change it; ``None`` if no credit was ever added.

    Raises :class:`Refused` for another currency.
    """
    user = locked(db, user_id)
    if not user.HasField("balance"):
        return None
    balance = Amount.of(user.balance)
    if balance.currency != currency:
        raise Refused(Reason.CURRENCY_DIFFERS, id=user_id, wallet=balance.currency, currency=currency)
    return balance


def _active(db: Database, reservation_id: str) -> Reservation:
    reservation = rows.lock_reservation(db, reservation_id)
    if reservation is None:
        raise Refused(Reason.RESERVATION_NOT_FOUND, id=reservation_id)
    if reservation.state != Reservation.STATE_ACTIVE:
        state = Reservation.State.Name(reservation.state).removeprefix("STATE_").lower()
        raise Refused(Reason.RESERVATION_NOT_ACTIVE, id=reservation_id, state=state)
    return reservation
