"""Single figures that have targets of their own, which are no ratios of a case."""

from dataclasses import asdict, dataclass
from typing import Any

HEADINGS = ("what", "figure", "target", "", "note")
MARKS = {None: "", True: "met", False: "missed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure, and its target."""

    name: str
    what: str
    value: float | None
    """The value; ``None`` if the system can't measure it."""
    unit: str
    target: float
    at_least: bool = False
    """True if the target is a minimum, and not a maximum."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """True if the target was met, rounded as in the table; ``None`` if there is no value."""
        if self.value is None:
            return None
        value = round(self.value, 2)
        return value >= self.target if self.at_least else value <= self.target

    def cells(self) -> tuple[str, ...]:
        """Returns one line of a table with ``HEADINGS``."""
        sign = "≥" if self.at_least else "≤"
        return (
            self.what,
            "" if self.value is None else f"{self.value:.2f} {self.unit}".strip(),
            f"{sign} {self.target:g} {self.unit}".strip(),
            MARKS[self.met],
            self.note,
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the row for JSON."""
        return {**asdict(self), "met": self.met}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> "Row":
        """Makes a row from the output of :meth:`as_json`."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})
