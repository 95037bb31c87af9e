"""Checks of type and range for values that an embedder configures. Each error names the field.

A wrong value has to be found where it is given. Otherwise it fails later, in each call or in a timer, where it is not
clear which setting is wrong.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from grpc_idempotency.errors import PolicyError

LONGEST = timedelta(days=36_525)
"""The longest duration that is accepted, a hundred years. Dates and timers can't represent durations without end."""

SHORTEST_SECRET = 16
"""The fewest bytes of a secret: with fewer than 128 bits it could be brute-forced."""

T = TypeVar("T")


def duration(name: str, value: Any, *, zero: bool = True, longest: timedelta = LONGEST) -> timedelta:
    """Returns the value. Raises :class:`PolicyError` unless it is a duration in range; zero is allowed if ``zero``."""
    least = "zero or more" if zero else "more than zero"
    if not isinstance(value, timedelta):
        raise PolicyError(f"{name} must be a timedelta of {least}, not {_told(value)}.")
    if value < timedelta(0) or not (value or zero):
        raise PolicyError(f"{name} must be a duration of {least}, not {value}.")
    if value > longest:
        raise PolicyError(f"{name} must be a duration of at most {longest.days} days, not {value}.")
    return value


def number(name: str, value: Any, *, least: int = 0) -> int:
    """Returns the value. Raises :class:`PolicyError` unless it is a whole number of ``least`` or more."""
    if type(value) is not int:
        raise PolicyError(f"{name} must be a whole number, not {_told(value)}.")
    if value < least:
        raise PolicyError(f"{name} must be {least} or more, not {value}.")
    return value


def flag(name: str, value: Any) -> bool:
    """Returns the value. Raises :class:`PolicyError` unless it is ``True`` or ``False``."""
    one_of(name, value, bool)
    return bool(value)


def one_of(name: str, value: T, kind: Any) -> T:
    """Returns the value. Raises :class:`PolicyError` unless it is an instance of ``kind``."""
    if not isinstance(value, kind):
        raise PolicyError(f"{name} must be a {kind.__name__}, not {_told(value)}.")
    return value


def names(name: str, value: Any) -> tuple[str, ...]:
    """Returns the texts as a tuple. Raises :class:`PolicyError` unless they are an iterable of texts, not one text."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise PolicyError(f"{name} must be a tuple of names, not {_told(value)}.")
    found = tuple(value)
    for one in found:
        if not isinstance(one, str):
            raise PolicyError(f"{name} must be a tuple of names, and {_told(one)} is not a name.")
    return found


def plain_function(name: str, value: Any) -> Callable[..., Any]:
    """Returns the value. Raises :class:`PolicyError` unless it is callable, and its result need not be awaited."""
    if not callable(value):
        raise PolicyError(f"{name} must be a function, not {_told(value)}.")
    for function in (value, getattr(value, "__call__", None)):  # noqa: B004  # an object may have an async __call__
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise PolicyError(f"{name} must be a plain function: it is not awaited.")
    return value  # type: ignore[no-any-return]  # narrowed by callable alone


def plain_functions(name: str, value: Any) -> tuple[Callable[..., Any], ...]:
    """Returns the functions as a tuple. Raises :class:`PolicyError` unless they are an iterable of plain functions."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise PolicyError(f"{name} must be a list of functions, not {_told(value)}.")
    return tuple(plain_function(name, one) for one in value)


def secret(name: str, value: Any) -> bytes | None:
    """Returns the value. Raises :class:`PolicyError` unless it is ``None``, or enough bytes for the key of an HMAC."""
    if value is not None and not (isinstance(value, bytes) and len(value) >= SHORTEST_SECRET):
        told = f"{len(value)} bytes" if isinstance(value, bytes) else _told(value)
        raise PolicyError(f"{name} must be {SHORTEST_SECRET} or more random bytes, or None; not {told}.")
    return value


def _told(value: object) -> str:
    """Describes a wrong value in an error: by its type, and by itself if it is a number or ``None``, so no secret."""
    kind = type(value).__name__
    return f"{value!r} ({kind})" if isinstance(value, int | float) or value is None else f"a {kind}"


def checked_by_name(given: Mapping[str, T] | None, kind: type[T]) -> dict[str, T]:
    """Returns policies by method name or glob. Raises :class:`PolicyError` unless they are a mapping of these."""
    by_name: dict[Any, T] = dict(one_of("methods", {} if given is None else given, Mapping))
    for pattern, policy in by_name.items():
        if not (isinstance(pattern, str) and pattern.startswith("/")):
            raise PolicyError(f"{pattern!r} names no method: write /package.Service/Method, or a glob of that form.")
        one_of(f"methods[{pattern!r}]", policy, kind)
    return by_name
