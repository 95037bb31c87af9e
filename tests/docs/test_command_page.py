"""The page of the command is the parser's own text, and lists the fields that are printed."""

import argparse
import re

import pytest

from grpc_idempotency._command.main import COMMANDS, parser_of
from grpc_idempotency._command.names import SECRET
from grpc_idempotency._command.stores import VARIABLE

from ..operating.operations import FIELDS
from .pages import ROOT

PAGE = (ROOT / "docs/reference/command.md").read_text()


def section(name: str) -> str:
    """Returns the part of the page that is made from a command: what it does, its examples and its arguments."""
    command, parser = COMMANDS[name], parser_of(name)
    examples = "\n".join(f"# {what}\n{line}" for what, line in command.EXAMPLES)
    rows = [row(action) for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    table = "\n".join(["| argument | what it does |", "|---|---|", *rows])
    return f"## {name}\n\n{parser.description}\n\n```sh\n{examples}\n```\n\n{table}\n"


def row(action: argparse.Action) -> str:
    """Returns a row of the table for an argument."""
    assert action.help, action
    words = [*action.option_strings, *([str(action.metavar)] if action.metavar else [])]
    return f"| `{' '.join(words)}` | {action.help} |"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_is_what_help_says(name: str) -> None:
    """Each command has its section, with the text, the examples and the arguments of its ``--help``."""
    assert section(name) in PAGE


def test_the_page_has_no_other_commands() -> None:
    """Every section with a table of arguments is that of a command, in the order of ``--help``."""
    assert re.findall(r"^## (\w+)\n\n.*\n\n```sh", PAGE, re.MULTILINE) == list(COMMANDS)


def test_the_fields_of_json_are_listed() -> None:
    """The table of an operation's fields has them all, in their order (6.4)."""
    table = PAGE.split("\n### An operation\n")[1].split("\n### ")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == FIELDS


def test_the_variables_are_named() -> None:
    """The page names the variables of the environment that the command reads."""
    assert {VARIABLE, SECRET, "NO_COLOR"} <= set(re.findall(r"`([A-Z_]+)`", PAGE))
