"""Tells from a handler's error whether the handler can't know if it took effect (4.5)."""

from grpc_idempotency.errors import OutcomeUnknown

_LONGEST = 2000
"""The most characters of a reason that are kept."""


def doubt_of(error: BaseException) -> str | None:
    """Returns the reason of the :class:`OutcomeUnknown` that an error is, was raised from, or contains.

    Args:
        error: The error that a handler raised. The causes of errors, and the errors in exception groups, are looked at
            too, at any depth.

    Returns:
        The reason, as every store can keep it; ``None`` if the error does not come from an :class:`OutcomeUnknown`.
    """
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if isinstance(one, OutcomeUnknown):
            return _storable(one.reason)
        if id(one) in seen:  # an error can be raised from itself
            continue
        seen.add(id(one))
        if one.__cause__ is not None:
            left.append(one.__cause__)
        members = getattr(one, "exceptions", ())  # Python 3.10 has no class for exception groups
        left += [member for member in members if isinstance(member, BaseException)] if type(members) is tuple else []
    return None


def _storable(reason: str) -> str:
    """Returns a text without what some store can't keep: lone surrogates, NUL, and any length."""
    text = reason[:_LONGEST].encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    return text or "it gave no reason"
