"""Prepares docstrings for the site: an extension of griffe, which reads the library for mkdocstrings."""

import re
from contextlib import suppress
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|meth|func|mod|attr|data|exc):`(~?)([^`]+)`")


class Docstrings(griffe.Extension):
    """Makes Markdown of docstrings, and gives a class the settings that a private base class of it describes."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Makes links of roles, and single backticks of double ones."""
        if obj.docstring is None:
            return

        def link(match: "re.Match[str]") -> str:
            tilde, name = match.groups()
            shown = name.rpartition(".")[2] if tilde else name
            # If the name has no place on the site, as a private one, it is shown without a link.
            return f'<autoref identifier="{_path(obj, name)}" optional><code>{shown}</code></autoref>'

        obj.docstring.value = _ROLE.sub(link, obj.docstring.value).replace("``", "`")

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Does the same for a package, which is no object in the sense of :meth:`on_object`."""
        self.on_object(obj=pkg)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Adds the docstring of a private base class that has arguments, to a class whose own docstring has none."""
        if cls.docstring is None or "\nArgs:" in cls.docstring.value:
            return
        for base in cls.resolved_bases:
            if "._" in base.path and base.docstring is not None and "\nArgs:" in base.docstring.value:
                cls.docstring.value += f"\n\n{base.docstring.value}"
                self.on_object(obj=cls)  # the base class may come later than this one


def _path(obj: griffe.Object, name: str) -> str:
    """Returns the full path of a name in a docstring: that of a member, of a name in its scope, or the name itself."""
    first, dot, rest = name.partition(".")
    scope: griffe.Object | None = obj
    while scope is not None and not scope.is_module:
        if first in scope.members:
            return f"{scope.path}.{name}"
        scope = scope.parent
    with suppress(griffe.NameResolutionError):
        return obj.resolve(first) + dot + rest
    return name
