"""Amounts of money by themselves."""

import pytest
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from shop.money import Amount, money, problems

units = st.integers(-(2**63), 2**63 - 1)
nanos = st.integers(-(2**31), 2**31 - 1)


@given(units, nanos)
def test_what_is_valid_goes_through_the_columns_unchanged(units: int, nanos: int) -> None:
    """A valid amount is kept exactly; an amount is valid if its nanos fit and all of it has one sign, not minus."""
    sent = Money(currency_code="USD", units=units, nanos=nanos)
    valid = units >= 0 and 0 <= nanos < 10**9
    assert (not problems(sent, zero=True)) == valid
    assert (not problems(sent, zero=False)) == (valid and units + nanos > 0)
    if valid:
        assert money(*Amount.of(sent).columns) == sent
        assert Amount.of(sent).fits


@given(st.text("AMZaz09 ÄΩ１\n", max_size=4))
def test_a_currency_has_three_upper_case_letters(code: str) -> None:
    """Nothing else is a currency code, in whatever script."""
    valid = len(code) == 3 and all("A" <= letter <= "Z" for letter in code)
    assert (not problems(Money(currency_code=code, units=1), zero=False)) == valid


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0.00 USD"), (1, "0.000000001 USD"), (55_990_000_000, "55.99 USD"), (1_500_000_000, "1.50 USD")],
)
def test_amounts_read_well(nanos: int, text: str) -> None:
    """A message shows an amount as a person writes it, and exactly."""
    assert str(Amount(currency="USD", nanos=nanos)) == text
