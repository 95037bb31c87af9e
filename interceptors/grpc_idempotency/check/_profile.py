"""Profiles: files of TOML with the options of the command."""

import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from grpc_idempotency.check._results import WrongUsage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def as_arguments(file: Path, known: Collection[str], given: Collection[str]) -> list[str]:
    """Reads a profile, and returns it as a command line.

    A list gives its option once for each element. A table is a request, and becomes its JSON; but ``refusal`` is a
    table of lists of codes.

    Args:
        file: The profile.
        known: The options that a profile may have.
        given: Those on the command line, which replace the profile's.

    Raises:
        WrongUsage: The file is no TOML, or has what is no option.
    """
    try:
        entries = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file}: {error}") from error
    arguments: list[str] = []
    for name, value in entries.items():
        option = f"--{name}"
        if option not in known:
            raise WrongUsage(f"{file}: there is no option {name!r}.")
        if option not in given:
            for one in _values(name, value):
                arguments += [option] if one is None else [f"{option}={one}"]
    return arguments


def _values(name: str, value: Any) -> Iterator[str | None]:
    """Yields the values of an option. ``None`` is that of a flag."""
    if name == "refusal" and isinstance(value, dict):
        for kind, codes in value.items():
            yield f"{kind}={','.join([codes] if isinstance(codes, str) else codes)}"
    elif value is True:
        yield None
    elif isinstance(value, list):
        for one in value:
            yield from _values(name, one)
    elif isinstance(value, dict):
        yield json.dumps(value)
    elif value is not False:
        yield str(value)
