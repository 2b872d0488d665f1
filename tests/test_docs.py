"""The pages that people read: no link is dead, every file that is named is there, and the first page is short."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(
            REPO / name
            for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "examples/README.md")
        ),
        *(REPO / "docs").rglob("*.md"),
    ]
)
ROOMS = ("client", "common", "deploy", "docs", "examples", "server", "tests")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    """A page's text without its blocks of code, in which nothing is a heading or a link."""
    return FENCE.sub("", text)


def links(text: str) -> list[str]:
    """The targets of a page's links and pictures that lie in this project."""
    found = re.findall(r"\]\(\s*([^)\s]+)\s*\)", re.sub(r"`[^`\n]*`", "", without_code(text)))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} (.+?)#*$", without_code(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def dead_links(page: Path) -> list[str]:
    dead = []
    for target in links(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
            dead.append(target)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_no_link_is_dead(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_a_page_names_only_files_that_are_there(page: Path) -> None:
    named = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*)(?::\w+)?`", without_code(page.read_text(encoding="utf-8")))
    assert [name for name in named if not (REPO / name).exists()] == []


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path: Path) -> None:
    """Or the tests above could not fail."""
    (tmp_path / "there.md").write_text("# A `[page]` of mine\n\n## Again\n\n## Again\n", encoding="utf-8")
    page = tmp_path / "page.md"
    good = "[a](there.md) [b](there.md#a-page-of-mine) [c](there.md#again-1) [d](https://example.org) [e](#here)"
    dead = "[f](gone.md) [g](there.md#gone) ![h](gone.svg) [i](#gone)"
    page.write_text(f"# Here\n\n{good}\n{dead}\n\n```\n# gone\n[j](code.md)\n```\n`[k](code.md)`\n", encoding="utf-8")
    assert dead_links(page) == ["gone.md", "there.md#gone", "gone.svg", "#gone"]


def test_every_page_can_be_reached_from_the_first() -> None:
    reached, waiting = set(), [REPO / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        waiting += [
            page.parent / target.partition("#")[0]
            for target in links(page.read_text(encoding="utf-8"))
            if not target.startswith("#")
        ]
    assert {page.resolve() for page in PAGES} <= reached


def test_the_first_page_is_read_in_five_minutes() -> None:
    assert len((REPO / "README.md").read_bytes()) <= 10_000
