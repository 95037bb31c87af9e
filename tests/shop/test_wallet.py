"""Wallets: the calls through a real server, the arithmetic by all that hypothesis thinks of."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import grpc
import grpc.aio
import pytest
from google.type.money_pb2 import Money
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from tests.shop.helpers import Client, ScratchStore, reason, usd

from shop.database import Database
from shop.errors import Reason, Refused
from shop.money import Amount
from shop.users import rows, wallet
from shop.users.v1.users_pb2 import (
    AddCreditRequest,
    CaptureReservationRequest,
    GetUserRequest,
    ReleaseReservationRequest,
    Reservation,
    ReserveCreditRequest,
    User,
)

ENGINES = ["sqlite", "postgresql", "redis"]

T = TypeVar("T")
MOST = 2**63 - 1


async def test_credit_is_reserved_and_captured(client: Client) -> None:
    """A reservation leaves the balance at once; capturing it spends it for good."""
    user = await client.user()
    rich = await client.users.AddCredit(AddCreditRequest(user_id=user.id, amount=usd(10, 500_000_000)))
    assert rich.balance == usd(10, 500_000_000)
    assert rich.etag != user.etag
    reservation = await client.users.ReserveCredit(ReserveCreditRequest(user_id=user.id, amount=usd(3, 750_000_000)))
    assert (reservation.user_id, reservation.amount) == (user.id, usd(3, 750_000_000))
    assert reservation.state == Reservation.STATE_ACTIVE
    assert await balance(client, user) == usd(6, 750_000_000)
    captured = await client.users.CaptureReservation(CaptureReservationRequest(id=reservation.id))
    assert (captured.id, captured.state) == (reservation.id, Reservation.STATE_CAPTURED)
    assert await balance(client, user) == usd(6, 750_000_000)


async def test_credit_is_reserved_and_released(client: Client) -> None:
    """Releasing a reservation gives all of it back."""
    user = await client.user()
    await client.users.AddCredit(AddCreditRequest(user_id=user.id, amount=usd(0, 1)))
    reservation = await client.users.ReserveCredit(ReserveCreditRequest(user_id=user.id, amount=usd(0, 1)))
    assert await balance(client, user) == usd(0)
    released = await client.users.ReleaseReservation(ReleaseReservationRequest(id=reservation.id))
    assert released.state == Reservation.STATE_RELEASED
    assert await balance(client, user) == usd(0, 1)


async def test_a_reservation_ends_once(client: Client) -> None:
    """A captured or released reservation can be neither captured nor released."""
    user = await client.user()
    await client.users.AddCredit(AddCreditRequest(user_id=user.id, amount=usd(2)))
    first, second = [
        await client.users.ReserveCredit(ReserveCreditRequest(user_id=user.id, amount=usd(1))) for _ in range(2)
    ]
    await client.users.CaptureReservation(CaptureReservationRequest(id=first.id))
    await client.users.ReleaseReservation(ReleaseReservationRequest(id=second.id))
    for reservation in (first, second):
        for call in (
            client.users.CaptureReservation(CaptureReservationRequest(id=reservation.id)),
            client.users.ReleaseReservation(ReleaseReservationRequest(id=reservation.id)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert reason(refused.value) == "RESERVATION_NOT_ACTIVE"
    assert await balance(client, user) == usd(1)


async def test_nobody_spends_what_is_not_there(client: Client) -> None:
    """More than the balance can't be reserved, not even from a wallet that never held anything."""
    user = await client.user()
    too_much = ReserveCreditRequest(user_id=user.id, amount=usd(1, 1))
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.users.ReserveCredit(too_much)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason(refused.value) == "BALANCE_TOO_SMALL"
        await client.users.AddCredit(AddCreditRequest(user_id=user.id, amount=usd(0, 500_000_000)))
    assert await balance(client, user) == usd(1)


async def test_a_wallet_has_one_currency(client: Client) -> None:
    """The first credit decides the currency, for good."""
    user = await client.user()
    await client.users.AddCredit(AddCreditRequest(user_id=user.id, amount=usd(1)))
    euro = Money(currency_code="EUR", units=1)
    for call in (
        client.users.AddCredit(AddCreditRequest(user_id=user.id, amount=euro)),
        client.users.ReserveCredit(ReserveCreditRequest(user_id=user.id, amount=euro)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason(refused.value) == "CURRENCY_DIFFERS"


async def test_a_wallet_has_an_end(client: Client) -> None:
    """Credit that the balance could not hold, were all reservations released, is OUT_OF_RANGE."""
    user = await client.user()
    most = usd(MOST, 999_999_999)
    assert (await client.users.AddCredit(AddCreditRequest(user_id=user.id, amount=most))).balance == most
    reservation = await client.users.ReserveCredit(ReserveCreditRequest(user_id=user.id, amount=most))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.users.AddCredit(AddCreditRequest(user_id=user.id, amount=usd(0, 1)))
    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert reason(refused.value) == "BALANCE_TOO_LARGE"
    await client.users.ReleaseReservation(ReleaseReservationRequest(id=reservation.id))
    assert await balance(client, user) == most


async def balance(client: Client, user: User) -> Money:
    return (await client.users.GetUser(GetUserRequest(id=user.id))).balance


amounts = st.builds(
    lambda units, nanos: Amount(currency="USD", nanos=max(1, units * 10**9 + nanos)),
    st.one_of(st.integers(0, 3), st.integers(0, MOST)),
    st.one_of(st.just(0), st.integers(0, 999_999_999)),
)


class Wallets(RuleBasedStateMachine):
    """Two wallets and a model of them, through any sequence of operations."""

    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.store = ScratchStore()
        self.users = [self.store.run(partial(open_wallet, name=name)).id for name in "ab"]
        self.added = dict.fromkeys(self.users, 0)
        self.spent = dict.fromkeys(self.users, 0)
        self.active: dict[str, tuple[str, int]] = {}

    def attempt(self, fn: Callable[[Database], T]) -> T | Reason:
        """What a transaction answers, or why it was refused."""
        try:
            return self.store.run(fn)
        except Refused as refused:
            return refused.reason

    @rule(user=st.integers(0, 1), amount=amounts)
    def add(self, user: int, amount: Amount) -> None:
        who = self.users[user]
        answer = self.attempt(lambda db: wallet.add(db, who, amount))
        if isinstance(answer, Reason):
            assert answer is Reason.BALANCE_TOO_LARGE
            assert self.added[who] - self.spent[who] + amount.nanos > MOST * 10**9 + 999_999_999
        else:
            self.added[who] += amount.nanos

    @rule(target=reservations, user=st.integers(0, 1), amount=amounts)
    def reserve(self, user: int, amount: Amount) -> object:
        who = self.users[user]
        answer = self.attempt(lambda db: wallet.reserve(db, who, amount))
        if isinstance(answer, Reason):
            assert answer is Reason.BALANCE_TOO_SMALL
            assert self.left(who) < amount.nanos
            return multiple()
        self.active[answer.id] = (who, amount.nanos)
        return answer.id

    @rule(reservation=reservations, spend=st.booleans())
    def end(self, reservation: str, spend: bool) -> None:
        answer = self.attempt(lambda db: (wallet.capture if spend else wallet.release)(db, reservation))
        if isinstance(answer, Reason):
            assert answer is Reason.RESERVATION_NOT_ACTIVE
            assert reservation not in self.active
        else:
            who, nanos = self.active.pop(reservation)
            self.spent[who] += nanos if spend else 0

    def left(self, who: str) -> int:
        set_aside = sum(nanos for owner, nanos in self.active.values() if owner == who)
        return self.added[who] - self.spent[who] - set_aside

    @invariant()
    def no_money_is_made_or_lost(self) -> None:
        for who in self.users:
            user = self.store.run(partial(wallet.existing, user_id=who))
            assert Amount.of(user.balance).nanos == self.left(who) >= 0

    def teardown(self) -> None:
        self.store.close()


def open_wallet(db: Database, name: str) -> User:
    user = rows.insert_user(db, name, f"{name}@example.com")
    assert user is not None
    return user


TestWallets = Wallets.TestCase
TestWallets.__doc__ = "Whatever is added, reserved, captured, released: what was added is there, set aside, or spent."
TestWallets.settings = settings(max_examples=settings().max_examples // 5, stateful_step_count=20)
