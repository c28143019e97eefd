"""The book that ``make book`` writes, built once and read like a browser."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.chapters import CHAPTERS, FOLDER

ROOT = FOLDER.parent
OTHERS = [
    "README",
    "CONTRIBUTING",
    "CHANGELOG",
    "loadtests/README",
    "examples/README",
    *(f"notebooks/reference/{page.stem}" for page in FOLDER.glob("reference/*.md")),
]
pytestmark = [pytest.mark.long, pytest.mark.needs("Sphinx"), pytest.mark.timeout(180)]


class Page(HTMLParser):
    """What a page loads, what it links to, and the ids that links to it may name."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.ids.add(named.get("id", ""))
        self.loads += [named[name] for name in ("src", "srcset") if name in named]
        if "href" in named:
            (self.links if tag == "a" else self.loads).append(named["href"])


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the book; the value is its folder."""
    target = tmp_path_factory.mktemp("book")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-qW", "--keep-going"]
        + ["-c", FOLDER / "book", "-d", target / "build", ROOT, target / "pages"],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    return target / "pages"


@pytest.fixture(scope="module")
def pages(book: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in book.rglob("*.html")}


def test_every_chapter_and_page_is_in_the_book(book: Path) -> None:
    for name in [*(f"notebooks/{chapter}" for chapter in CHAPTERS), *OTHERS]:
        assert (book / f"{name}.html").is_file()
    assert (book / "index.html").is_file()


def test_chapters_have_their_stored_outputs(book: Path) -> None:
    for chapter in CHAPTERS:
        text = (book / "notebooks" / f"{chapter}.html").read_text()
        assert '<div class="cell_output ' in text and 'src="../_images/' in text
        assert "|--" not in text and "|—" not in text  # a table that is not one


def test_nothing_comes_from_the_network(book: Path, pages: dict[Path, Page]) -> None:
    for page in pages.values():
        assert not [url for url in page.loads if urlsplit(url).netloc]
    for file in book.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", file.read_text())


def test_links_lead_to_files_and_places_of_the_book(pages: dict[Path, Page]) -> None:
    for file, page in pages.items():
        for url in page.links:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve()
            target = target if parts.path else file
            assert target.is_file(), f"{file.name}: {url}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, url


def test_no_page_names_a_folder_of_this_machine(book: Path) -> None:
    for file in book.rglob("*"):
        if file.is_file() and file.suffix in {".html", ".js", ".css", ".txt"}:
            text = file.read_text()
            assert str(ROOT) not in text and sys.prefix not in text
            assert str(book.parent) not in text
