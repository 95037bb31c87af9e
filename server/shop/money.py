"""Exact money: ``google.type.Money`` as one integer of billionths of a unit."""

import re
from dataclasses import dataclass

from google.type.money_pb2 import Money

NANOS_PER_UNIT = 10**9
_MOST_UNITS = 2**63 - 1
_MOST = _MOST_UNITS * NANOS_PER_UNIT + NANOS_PER_UNIT - 1
_CURRENCY = re.compile(r"[A-Z]{3}\Z")

Columns = tuple[str, int, int]
"""Currency code, units and nanos: the columns of the tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """An amount of zero or more of one currency."""

    currency: str
    """The currency code of ISO 4217."""
    nanos: int
    """The amount in billionths of a unit."""

    @staticmethod
    def of(money: Money) -> "Amount":
        """Converts a checked message to an amount."""
        return Amount(currency=money.currency_code, nanos=money.units * NANOS_PER_UNIT + money.nanos)

    @property
    def columns(self) -> Columns:
        """The values of the tables' columns."""
        return (self.currency, *divmod(self.nanos, NANOS_PER_UNIT))

    @property
    def fits(self) -> bool:
        """True if a message and the tables can hold the amount."""
        return 0 <= self.nanos <= _MOST

    def plus(self, nanos: int) -> "Amount":
        """Returns the amount plus ``nanos`` billionths, which may be negative."""
        return Amount(currency=self.currency, nanos=self.nanos + nanos)

    def __str__(self) -> str:
        units, nanos = divmod(self.nanos, NANOS_PER_UNIT)
        fraction = f"{nanos:09}".rstrip("0").ljust(2, "0")
        return f"{units}.{fraction} {self.currency}"


def money(currency: str, units: int, nanos: int) -> Money:
    """Makes a message from the columns of a row."""
    return Money(currency_code=currency, units=units, nanos=nanos)


def problems(amount: Money, *, zero: bool) -> list[tuple[str, str]]:
    """Returns the violations of a client's amount, by field. The amount may be zero if ``zero``."""
    found = []
    if not _CURRENCY.match(amount.currency_code):
        found.append(("currency_code", "must be a currency code of three upper-case letters (ISO 4217)"))
    if abs(amount.nanos) >= NANOS_PER_UNIT:
        found.append(("nanos", "must be between -999,999,999 and 999,999,999"))
    elif amount.units * amount.nanos < 0:
        found.append(("nanos", "must have the sign of units"))
    elif amount.units < 0 or amount.nanos < 0:
        found.append(("", "must not be negative"))
    elif not zero and not amount.units and not amount.nanos:
        found.append(("", "must be more than zero"))
    return found
