"""The site of the documentation: it is whole, it is built without a warning, and each of its links leads somewhere."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from docsite.pages import API, SETTINGS, modules, place, written

from .pages import ROOT

LOADED = {"img": "src", "link": "href", "script": "src", "source": "src", "iframe": "src", "object": "data"}
"""What a browser loads by itself, and by which attribute."""


class Html(HTMLParser):
    """The anchors and the links of a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors = {""}
        self.links = set[str]()
        self.loaded = set[str]()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {one for name in ("id", "name") if (one := found.get(name))}
        if tag == "a" and (link := found.get("href")):
            self.links.add(link)
        if tag in LOADED and found.get("rel") not in ("next", "prev", "canonical") and (link := found.get(LOADED[tag])):
            self.loaded.add(link)


def test_every_page_is_in_the_navigation() -> None:
    """A reader of the site finds each page. A new one is added to docsite/zensical.toml."""
    listed = SETTINGS.read_text()
    folders = re.findall(r'"@([\w/-]+)"', listed)
    places = [place(page) for page in written()]
    missing = [one for one in places if f'"{one}"' not in listed and str(one.parent) not in folders]
    assert missing == []
    assert str(API) in folders


def test_the_navigation_has_no_page_that_is_not_there() -> None:
    """Each page that is listed is in the repository."""
    places = {str(place(page)) for page in written()}
    assert [one for one in re.findall(r'"([\w./-]+\.md)"', SETTINGS.read_text()) if one not in places] == []


def test_the_reference_has_the_public_modules() -> None:
    """What users import has a page, and what is private has none."""
    names = set(modules())
    assert {"grpc_idempotency", "grpc_idempotency.aio", "grpc_idempotency.stores.sqlite"} <= names
    assert {"grpc_idempotency.store", "grpc_idempotency.testing"} <= names
    assert [
        name for name in names if "._" in name or ".v1" in name or name.startswith("grpc_idempotency.testing.")
    ] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it."""
    pytest.importorskip("zensical", reason="zensical needs Python 3.11")
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "docsite", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    return folder / "site"


@pytest.mark.slow
def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    """Each link leads to a file of the site, and to an anchor in it; one to elsewhere has the form of an address."""
    files = {file: Html(file) for file in site.rglob("*.html")}
    assert len(files) > len(written())
    for file, html in files.items():
        for link in html.links | html.loaded:
            if urlsplit(link).scheme:
                assert re.fullmatch(r"https://[\w.-]+(:\d+)?(/\S*)?|mailto:\S+@\S+", link), (file, link)
                continue
            path, anchor = urldefrag(link)
            start = site if path.startswith("/") else file.parent
            target = (start / unquote(path).lstrip("/")).resolve() if path else file
            assert target.is_file(), (file, link)
            assert target not in files or unquote(anchor) in files[target].anchors, (file, link)


@pytest.mark.slow
def test_the_site_needs_no_other_server(site: Path) -> None:
    """Its pages load fonts, styles, scripts and pictures from its own files alone."""
    for file in site.rglob("*.html"):
        assert [link for link in Html(file).loaded if urlsplit(link).netloc] == [], file
    for picture in site.rglob("figures/*.svg"):
        assert re.findall(r'(?:href=|url\()["\']?https?:', picture.read_text()) == [], picture


@pytest.mark.slow
def test_the_site_shows_markdown_as_it_is_meant(site: Path) -> None:
    """No list, table, code or role of a page is left as text."""
    left = list[tuple[str, str]]()
    for file in site.rglob("*.html"):
        if "source" not in file.relative_to(site).parts:
            left += [
                (file.name, line) for line in _texts(file.read_text()) if re.match(r"(- |\| |\d\. |```|:::)", line)
            ]
            left += [
                (file.name, line) for line in _texts(file.read_text()) if re.search(r":(class|meth|func|mod):", line)
            ]
    assert left == []


def _texts(html: str) -> Iterator[str]:
    """Yields each line of each paragraph."""
    for paragraph in re.findall(r"<p>(.*?)</p>", html, re.DOTALL):
        yield from paragraph.split("\n")


@pytest.mark.slow
def test_the_site_has_the_docstrings(site: Path) -> None:
    """The page of a module has its public names, with their arguments, and not its private ones."""
    page = (site / API / "grpc_idempotency.aio.html").read_text()
    html = Html(site / API / "grpc_idempotency.aio.html")
    assert "grpc_idempotency.aio.IdempotencyInterceptor" in html.anchors
    assert "replay_cache_bytes" in page
    assert [anchor for anchor in html.anchors if anchor.startswith("grpc_idempotency.aio._")] == []
