"""Replacements for what the oldest supported Python lacks."""

import sys

if sys.version_info >= (3, 11):
    from typing import assert_never
else:
    from typing import NoReturn

    def assert_never(value: NoReturn, /) -> NoReturn:
        """Tells the type checker that all cases are covered."""
        raise AssertionError(f"no case is left for {value!r}")


__all__ = ["assert_never"]
