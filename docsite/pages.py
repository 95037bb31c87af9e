"""Stages the pages of the site.

The pages are written for the repository, where a link leads to another page or to a file. For the site they are copied,
and their links are rewritten: a file becomes a page that shows it, a folder one that lists it.
"""

import ast
import re
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "interceptors" / "grpc_idempotency"
FIGURES = ROOT / "docs" / "figures"
API = PurePosixPath("reference/api")
SETTINGS = Path(__file__).with_name("zensical.toml")

_PICTURES = (".svg", ".png")
_LANGUAGES = {".py": "python", ".proto": "proto", ".json": "json", ".yaml": "yaml", ".toml": "toml", ".sql": "sql"}
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")
_FENCE = re.compile(r" *(```+)")
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)(?=[)#])")


class Missing(Exception):
    """A link leads to nothing. The message says which."""


def written() -> list[Path]:
    """Returns the pages that are written in the repository."""
    return [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]


def place(file: Path) -> PurePosixPath:
    """Returns the place of a file or folder of the repository among the pages of the site.

    Args:
        file: The absolute path of something that exists.
    """
    path = PurePosixPath(file.relative_to(ROOT).as_posix())
    if file.is_dir():
        return "source" / path / "index.md"
    if file.suffix not in (".md", *_PICTURES):
        return ("source" / path).with_name(f"{path.name}.md")
    if len(path.parts) == 1:
        return path.with_name(path.name.lower())
    inner = path.relative_to("docs") if path.parts[0] == "docs" else path
    return inner.with_name("index.md") if inner.name == "README.md" else inner


def stage(folder: Path) -> None:
    """Writes all pages of the site.

    Args:
        folder: An empty folder.

    Raises:
        Missing: A link leads to nothing.
    """
    waiting, staged = written(), set[Path]()
    while waiting:
        file = waiting.pop()
        if file in staged:
            continue
        staged.add(file)
        target = folder / place(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in _PICTURES:
            target.write_bytes(file.read_bytes())
        elif file.suffix == ".md":
            text, linked = _rewritten(file)
            target.write_text(text)
            waiting += linked
        else:
            target.write_text(_listing(file) if file.is_dir() else _shown(file))
            waiting += _entries(file) if file.is_dir() else []
    for name, text in _api():
        (folder / API / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / API / name).write_text(text)


def settings(folder: Path) -> str:
    """Returns the settings of the site, in which the pages of whole folders are listed.

    Args:
        folder: The folder with the staged pages.
    """

    def pages(match: "re.Match[str]") -> str:
        found = sorted((folder / match[1]).glob("*.md"), key=lambda page: (page.stem != "index", page.stem))
        entries = [page.relative_to(folder).as_posix() for page in found]
        if match[1] == str(API):  # the package's name before each module's would hide the rest
            titles = [page.stem.removeprefix("grpc_idempotency.") for page in found]
            return ", ".join(f'{{ "{title}" = "{entry}" }}' for title, entry in zip(titles, entries, strict=True))
        return ", ".join(f'"{entry}"' for entry in entries)

    return re.sub(r'"@([\w/-]+)"', pages, SETTINGS.read_text())


def modules() -> dict[str, Path]:
    """Returns the files of the library's public modules, by the names of the modules.

    A package that exports names stands for its modules.
    """
    found = dict[str, Path]()
    for file in sorted(LIBRARY.rglob("*.py")):
        *packages, module = file.relative_to(LIBRARY).with_suffix("").parts
        if "v1" in packages or any(part.startswith("_") for part in (*packages, module.removeprefix("__init__"))):
            continue
        exports = [LIBRARY.joinpath(*packages[:depth]) for depth in range(1, len(packages) + 1)]
        if module != "__init__" and any(_exports(package / "__init__.py") for package in exports):
            continue
        if module != "__init__" or _exports(file):
            found[".".join(part for part in (LIBRARY.name, *packages, module) if part != "__init__")] = file
    return dict(sorted(found.items()))


def _exports(file: Path) -> bool:
    return file.exists() and "__all__" in file.read_text()


def _rewritten(page: Path) -> tuple[str, list[Path]]:
    """Returns the text of a page for the site, and the files that it links to."""
    linked = list[Path]()

    def link(match: "re.Match[str]") -> str:
        target = (page.parent / match[1]).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            raise Missing(f"{page.relative_to(ROOT)}: {match[1]}")
        linked.append(target)
        return relpath(place(target), place(page).parent)

    lines = list[str]()
    for block, is_code in _blocks(page.read_text()):
        if is_code:
            margin = len(block) - len(block.lstrip(" "))
            lines += [" " * (_indent(margin) - margin) + line if line else line for line in block.split("\n")]
        else:
            lines += _indented(_LINK.sub(link, block).replace("<details>", "<details markdown>"))
    return "\n".join(lines), linked


def _indented(prose: str) -> Iterator[str]:
    """Yields the lines of prose, with the margins and blank lines that the site's Markdown wants in lists."""
    inner, last = False, ""
    for line in prose.split("\n"):
        text = line.lstrip(" ")
        begins = _ITEM.match(text) is not None
        if last and inner and begins:
            yield ""  # or the item would belong to the paragraph before it
        if not last or begins:
            inner = text != line and not begins
        yield " " * _indent(len(line) - len(text)) + text
        last = text


def _indent(margin: int) -> int:
    """Returns the margin that Markdown's first implementation wants within a list: four spaces for each level."""
    return 4 * round(margin / 2.5)


def _blocks(text: str) -> Iterator[tuple[str, bool]]:
    """Splits a page into prose and fenced code. The second value is true for code."""
    lines, fence = list[str](), ""
    for line in text.split("\n"):
        found = _FENCE.match(line)
        if found and not fence:
            yield "\n".join(lines), False
            lines, fence = [line], found[1]
        elif found and found[1] == fence:
            yield "\n".join([*lines, line]), True
            lines, fence = [], ""
        else:
            lines.append(line)
    yield "\n".join(lines), bool(fence)


def _shown(file: Path) -> str:
    path = file.relative_to(ROOT).as_posix()
    return f"# {path}\n\n````{_LANGUAGES.get(file.suffix, 'text')}\n{file.read_text()}````\n"


def _listing(folder: Path) -> str:
    here = place(folder).parent
    items = [f"- [{entry.name}]({relpath(place(entry), here)})" for entry in _entries(folder)]
    return f"# {folder.relative_to(ROOT).as_posix()}\n\n" + "\n".join(items) + "\n"


def _entries(folder: Path) -> list[Path]:
    return [
        entry
        for entry in sorted(folder.iterdir())
        if not entry.name.startswith((".", "__pycache__")) and (entry.is_dir() or entry.suffix in _LANGUAGES)
    ]


def _api() -> Iterator[tuple[str, str]]:
    """Yields the name and the text of each page of the API, and of their index."""
    rows = list[str]()
    for name, file in modules().items():
        doc = ast.get_docstring(ast.parse(file.read_text())) or ""
        first = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", doc.split("\n")[0]).replace("``", "`")
        rows.append(f"| [`{name.removeprefix('grpc_idempotency.')}`]({name}.md) | {first} |")
        yield f"{name}.md", f"# {name}\n\n::: {name}\n"
    yield "index.md", "# Public modules\n\n| module | |\n|---|---|\n" + "\n".join(rows) + "\n"
