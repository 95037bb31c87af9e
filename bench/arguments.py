"""Types of command-line arguments."""


def positive(kind: type[int] | type[float]) -> "type[int] | type[float]":
    """Returns a type for argparse: a number above 0."""

    def parse(text: str) -> int | float:
        value = kind(text)
        if value <= 0:
            raise ValueError
        return value

    parse.__name__ = "positive number"
    return parse  # type: ignore[return-value]  # argparse accepts any function; its name is used in messages
