"""Prepares docstrings for the site: an extension of griffe, which reads the library for mkdocstrings."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|meth|func|mod|attr|data|exc):`~?([^`]+)`")


class Docstrings(griffe.Extension):
    """Makes Markdown of docstrings, and gives a class the settings that a private base class of it describes."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Writes names in code style where a docstring has a role or double backticks."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value).replace("``", "`")

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Adds the docstring of a private base class that has arguments, to a class whose own docstring has none."""
        if cls.docstring is None or "\nArgs:" in cls.docstring.value:
            return
        for base in cls.resolved_bases:
            if "._" in base.path and base.docstring is not None and "\nArgs:" in base.docstring.value:
                cls.docstring.value += f"\n\n{base.docstring.value}"
