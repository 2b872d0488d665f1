"""`make docs`: the documentation as a site, whose links hold, and which loads nothing from elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.hospitals import REPO

LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}
"""The elements that a browser loads something for, each with the attribute that says from where."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=REPO,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(HTMLParser):
    """Collects the addresses that a page loads from."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in LOADING:
            self.addresses += [value or "" for name, value in attrs if name == LOADING[tag]]


def pages(site: Path) -> Iterator[Path]:
    return site.rglob("*.html")


def test_every_page_of_the_documentation_is_a_page_of_the_site(site: Path) -> None:
    written = {path.relative_to(REPO / "docs") for path in (REPO / "docs").rglob("*.md")}
    expected = {site / path.parent / ("" if path.stem == "README" else path.stem) / "index.html" for path in written}
    assert expected <= set(pages(site))


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = 0
    for page in pages(site):
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        loaded += len(parser.addresses)
        assert not [address for address in parser.addresses if address.startswith(("http:", "https:", "//"))], page
    assert loaded
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert "url(http" not in text and "url(//" not in text and "@import" not in text, style


def test_the_site_can_be_searched(site: Path) -> None:
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    assert any("egress filter" in entry["text"] for entry in entries)
