"""Users, through a real server."""

import grpc
import grpc.aio
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from tests.shop.helpers import Client, bad_fields, create_user, reason, usd

from shop.users.v1.users_pb2 import (
    AddCreditRequest,
    CaptureReservationRequest,
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    ReleaseReservationRequest,
    ReserveCreditRequest,
    UpdateUserRequest,
    User,
)

ENGINES = ["sqlite", "postgresql", "redis"]


def update(user: User, *paths: str, **values: str) -> UpdateUserRequest:
    """A change of ``values``, under a mask of ``paths``."""
    return UpdateUserRequest(user=User(id=user.id, **values), update_mask=FieldMask(paths=paths))  # type: ignore[arg-type]  # all are texts


async def test_create_user_answers_the_user(client: Client) -> None:
    """CreateUser answers the user with what the server adds, and ignores what is the server's to say."""
    wished = User(id="mine", display_name="Ada", email="Ada@example.com", balance=usd(1000), etag="mine")
    user = await client.users.CreateUser(CreateUserRequest(user=wished))
    assert user.id.startswith("user-")
    assert (user.display_name, user.email) == ("Ada", "Ada@example.com")
    assert not user.HasField("balance")
    assert user.etag not in ("", "mine")
    assert user.create_time == user.update_time
    assert await client.users.GetUser(GetUserRequest(id=user.id)) == user


@pytest.mark.parametrize("email", ["ada@example.com", "ADA@EXAMPLE.COM"])
async def test_no_two_users_have_the_same_email_address(client: Client, email: str) -> None:
    """A second user with the address, in letters of whatever case, gets ALREADY_EXISTS: created or changed to it."""
    await client.user("ada@example.com")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.user(email)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason(refused.value) == "EMAIL_TAKEN"
    bob = await client.user("bob@example.com")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.users.UpdateUser(update(bob, "email", email=email))
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert await client.users.GetUser(GetUserRequest(id=bob.id)) == bob


@pytest.mark.parametrize(
    ("user", "fields"),
    [
        (User(), ["user.display_name", "user.email"]),
        (User(display_name="d" * 201, email="e@" + "x" * 253), ["user.display_name", "user.email"]),
        (User(display_name="\t", email="ada"), ["user.display_name", "user.email"]),
        (User(display_name="Ada\0", email="@example.com"), ["user.display_name", "user.email"]),
        (User(display_name="Ada", email="a@b@example.com"), ["user.email"]),
        (User(display_name="Ada", email="a b@example.com"), ["user.email"]),
        (User(display_name="Ada", email="ada@"), ["user.email"]),
    ],
)
async def test_create_user_names_every_bad_field(client: Client, user: User, fields: list[str]) -> None:
    """A user that is not valid gets INVALID_ARGUMENT, with the path of each bad field."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.users.CreateUser(CreateUserRequest(user=user))
    assert bad_fields(refused.value) == fields


@pytest.mark.parametrize(
    ("paths", "name", "email"),
    [
        (["display_name"], "Grace", "ada@example.com"),
        (["email"], "Ada", "grace@example.com"),
        (["display_name", "email"], "Grace", "grace@example.com"),
        (["*"], "Grace", "grace@example.com"),
        ([], "Grace", "grace@example.com"),
    ],
)
async def test_update_user_changes_what_the_mask_names(client: Client, paths: list[str], name: str, email: str) -> None:
    """The fields of the mask change, and no others; ``*`` is both, and no mask means the fields that are set."""
    user = await client.user()
    changed = await client.users.UpdateUser(update(user, *paths, display_name="Grace", email="grace@example.com"))
    assert (changed.display_name, changed.email) == (name, email)
    assert changed.etag != user.etag
    assert changed.create_time == user.create_time
    assert changed.update_time.ToMicroseconds() >= user.update_time.ToMicroseconds()
    assert await client.users.GetUser(GetUserRequest(id=user.id)) == changed


async def test_an_empty_mask_leaves_out_what_is_not_set(client: Client) -> None:
    """Without a mask a field that is not set in the request stays as it is."""
    user = await client.user()
    changed = await client.users.UpdateUser(update(user, display_name="Grace"))
    assert (changed.display_name, changed.email) == ("Grace", user.email)


async def test_an_update_to_the_same_is_no_change(client: Client) -> None:
    """An etag changes with the user, so it stays where nothing has changed; an own address is no other's either."""
    user = await client.user()
    assert await client.users.UpdateUser(update(user, "*", display_name="Ada", email="ada@example.com")) == user
    assert await client.users.UpdateUser(update(user)) == user
    assert (await client.users.UpdateUser(update(user, email="Ada@example.com"))).email == "Ada@example.com"


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (UpdateUserRequest(), ["user.id"]),
        (UpdateUserRequest(update_mask=FieldMask(paths=["*"])), ["user.id", "user.display_name", "user.email"]),
        (update(User(id="u"), "email"), ["user.email"]),
        (update(User(id="u"), "balance"), ["update_mask"]),
        (update(User(id="u"), "display_name", "*", display_name="x"), ["update_mask"]),
        (update(User(id="u"), "nothing\n" * 50, email="x"), ["update_mask"]),
        (update(User(id="u"), email="x"), ["user.email"]),
    ],
)
async def test_update_user_names_every_bad_field(
    client: Client, request_: UpdateUserRequest, fields: list[str]
) -> None:
    """A path that can't be changed, and a value that is not valid, get INVALID_ARGUMENT."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.users.UpdateUser(request_)
    assert bad_fields(refused.value) == fields


async def test_an_etag_that_was_overtaken_changes_nothing(client: Client) -> None:
    """An update or delete under an etag that is not the present one gets ABORTED."""
    user = await client.user()
    changed = await client.users.AddCredit(AddCreditRequest(user_id=user.id, amount=usd(1)))
    stale = update(user, display_name="Grace")
    stale.user.etag = user.etag
    for call in (
        client.users.UpdateUser(stale),
        client.users.DeleteUser(DeleteUserRequest(id=user.id, etag=user.etag)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.ABORTED
        assert reason(refused.value) == "ETAG_MISMATCH"
    assert await client.users.GetUser(GetUserRequest(id=user.id)) == changed
    stale.user.etag = changed.etag
    assert (await client.users.UpdateUser(stale)).display_name == "Grace"


async def test_delete_user(client: Client) -> None:
    """A deleted user is gone, and the address is free again."""
    user = await client.user()
    assert await client.users.DeleteUser(DeleteUserRequest(id=user.id, etag=user.etag)) == Empty()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.users.DeleteUser(DeleteUserRequest(id=user.id))
    assert reason(refused.value) == "USER_NOT_FOUND"
    assert (await client.user()).id != user.id


async def test_a_user_with_active_reservations_stays(client: Client) -> None:
    """Credit that is set aside has to be captured or released before its user can be deleted."""
    user = await client.user()
    await client.users.AddCredit(AddCreditRequest(user_id=user.id, amount=usd(5)))
    reservation = await client.users.ReserveCredit(ReserveCreditRequest(user_id=user.id, amount=usd(5)))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.users.DeleteUser(DeleteUserRequest(id=user.id))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refused.value) == "RESERVATIONS_ACTIVE"
    await client.users.CaptureReservation(CaptureReservationRequest(id=reservation.id))
    await client.users.DeleteUser(DeleteUserRequest(id=user.id))


async def test_what_is_not_there_is_not_found(client: Client) -> None:
    """Every method that names a user or a reservation answers NOT_FOUND where there is none."""
    none = User(id="none")
    for call, why in (
        (client.users.GetUser(GetUserRequest(id="none")), "USER_NOT_FOUND"),
        (client.users.UpdateUser(update(none, display_name="x")), "USER_NOT_FOUND"),
        (client.users.UpdateUser(update(none)), "USER_NOT_FOUND"),
        (client.users.DeleteUser(DeleteUserRequest(id="none")), "USER_NOT_FOUND"),
        (client.users.AddCredit(AddCreditRequest(user_id="none", amount=usd(1))), "USER_NOT_FOUND"),
        (client.users.ReserveCredit(ReserveCreditRequest(user_id="none", amount=usd(1))), "USER_NOT_FOUND"),
        (client.users.CaptureReservation(CaptureReservationRequest(id="none")), "RESERVATION_NOT_FOUND"),
        (client.users.ReleaseReservation(ReleaseReservationRequest(id="none")), "RESERVATION_NOT_FOUND"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert reason(refused.value) == why


async def test_what_is_not_named_is_asked_for(client: Client) -> None:
    """Every method names the fields that it needs."""
    for call, fields in (
        (client.users.GetUser(GetUserRequest()), ["id"]),
        (client.users.DeleteUser(DeleteUserRequest()), ["id"]),
        (client.users.AddCredit(AddCreditRequest()), ["user_id", "amount"]),
        (client.users.AddCredit(AddCreditRequest(user_id="u", amount=usd(0))), ["amount"]),
        (client.users.ReserveCredit(ReserveCreditRequest(amount=usd(-1))), ["user_id", "amount"]),
        (client.users.CaptureReservation(CaptureReservationRequest()), ["id"]),
        (client.users.ReleaseReservation(ReleaseReservationRequest()), ["id"]),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert bad_fields(refused.value) == fields


async def test_a_failed_create_leaves_no_user(client: Client) -> None:
    """A refusal after the insert has rolled it back."""
    await client.user()
    with pytest.raises(grpc.aio.AioRpcError):
        await client.users.CreateUser(create_user(display_name="Another"))
    count = await client.shop.data.transaction(lambda db: db.execute("SELECT count(*) FROM shop_users").fetchone())
    assert count == (1,)
