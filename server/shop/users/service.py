"""The user service. Each handler checks its request and has all its effects in one transaction."""

from collections.abc import Collection

from google.protobuf.empty_pb2 import Empty

from shop import pages
from shop.database import Data, Database
from shop.errors import Context, Reason, Refused, answers
from shop.etags import require_match
from shop.fields import Fields
from shop.masks import named
from shop.money import Amount
from shop.users import rows, wallet
from shop.users.v1 import users_pb2_grpc
from shop.users.v1.users_pb2 import (
    AddCreditRequest,
    CaptureReservationRequest,
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    ListUsersRequest,
    ListUsersResponse,
    ReleaseReservationRequest,
    Reservation,
    ReserveCreditRequest,
    UpdateUserRequest,
    User,
)

_CHANGEABLE = ("display_name", "email")
_LONGEST_NAME = 200


class UserService(users_pb2_grpc.UserServiceServicer):
    """The user service."""

    def __init__(self, data: Data) -> None:
        self._data = data

    @answers
    async def CreateUser(self, request: CreateUserRequest, context: Context) -> User:
        """Creates a user with an empty wallet."""
        with Fields() as fields:
            _check_user(fields, request.user, _CHANGEABLE)

        def create(db: Database) -> User:
            user = rows.insert_user(db, request.user.display_name, request.user.email)
            if user is None:
                raise Refused(Reason.EMAIL_TAKEN)
            return user

        return await self._data.transaction(create)

    @answers
    async def GetUser(self, request: GetUserRequest, context: Context) -> User:
        """Returns one user."""
        _check_id(request.id)
        return await self._data.read(lambda db: wallet.existing(db, request.id))

    @answers
    async def ListUsers(self, request: ListUsersRequest, context: Context) -> ListUsersResponse:
        """Returns a page of users."""
        page = pages.asked("users", request)
        found, more = await self._data.read(lambda db: rows.list_users(db, page.after, page.size))
        return ListUsersResponse(
            users=[user for _, user in found],
            next_page_token=pages.token("users", found[-1][0]) if more else "",
        )

    @answers
    async def UpdateUser(self, request: UpdateUserRequest, context: Context) -> User:
        """Changes the fields that the mask names."""
        changes = _checked_changes(request)

        def update(db: Database) -> User:
            user = wallet.locked(db, request.user.id)
            require_match(request.user.etag, user.etag, user.id)
            changed = _with(user, request.user, changes)
            if changed == user:
                return user
            try:
                rows.update_user(db, changed)
            except db.IntegrityError:
                raise Refused(Reason.EMAIL_TAKEN) from None
            return wallet.existing(db, user.id)

        return await self._data.transaction(update)

    @answers
    async def DeleteUser(self, request: DeleteUserRequest, context: Context) -> Empty:
        """Deletes a user."""
        _check_id(request.id)

        def delete(db: Database) -> Empty:
            user = wallet.locked(db, request.id)
            require_match(request.etag, user.etag, user.id)
            active, _ = rows.active_reservations(db, user.id)
            if active:
                raise Refused(Reason.RESERVATIONS_ACTIVE, id=user.id, count=str(active))
            rows.delete_user(db, user.id)
            return Empty()

        return await self._data.transaction(delete)

    @answers
    async def AddCredit(self, request: AddCreditRequest, context: Context) -> User:
        """Adds credit to a wallet."""
        amount = _checked_amount(request)
        return await self._data.transaction(lambda db: wallet.add(db, request.user_id, amount))

    @answers
    async def ReserveCredit(self, request: ReserveCreditRequest, context: Context) -> Reservation:
        """Reserves credit."""
        amount = _checked_amount(request)
        return await self._data.transaction(lambda db: wallet.reserve(db, request.user_id, amount))

    @answers
    async def CaptureReservation(self, request: CaptureReservationRequest, context: Context) -> Reservation:
        """Spends a reservation."""
        _check_id(request.id)
        return await self._data.transaction(lambda db: wallet.capture(db, request.id))

    @answers
    async def ReleaseReservation(self, request: ReleaseReservationRequest, context: Context) -> Reservation:
        """Returns a reservation's amount to the balance."""
        _check_id(request.id)
        return await self._data.transaction(lambda db: wallet.release(db, request.id))


def _check_id(value: str) -> None:
    with Fields() as fields:
        fields.id("id", value)


def _check_user(fields: Fields, user: User, which: Collection[str]) -> None:
    if "display_name" in which:
        fields.text("user.display_name", user.display_name, longest=_LONGEST_NAME)
    if "email" in which:
        fields.email("user.email", user.email)


def _checked_changes(request: UpdateUserRequest) -> Collection[str]:
    """Checks the request, and returns the names of the fields to change."""
    changes = named(request.update_mask, request.user, _CHANGEABLE)
    with Fields() as fields:
        fields.id("user.id", request.user.id)
        fields.mask("update_mask", request.update_mask, allowed=_CHANGEABLE)
        _check_user(fields, request.user, changes)
    return changes


def _with(user: User, values: User, changes: Collection[str]) -> User:
    changed = User()
    changed.CopyFrom(user)
    for field in changes:
        setattr(changed, field, getattr(values, field))
    return changed


def _checked_amount(request: AddCreditRequest | ReserveCreditRequest) -> Amount:
    with Fields() as fields:
        fields.id("user_id", request.user_id)
        fields.money("amount", request.amount if request.HasField("amount") else None)
    return Amount.of(request.amount)
