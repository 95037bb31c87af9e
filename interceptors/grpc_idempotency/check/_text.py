"""Text that comes from servers and commands."""


def plain(value: object) -> str:
    """Returns a value as text in which control characters are escaped, but line breaks are kept."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(value))
