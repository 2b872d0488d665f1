"""Who opens the page sees the verdict, its uncertainty and the number of patients, without scrolling."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from server.report import read_results, write_report
from server.report.verdicts import verdicts
from tests.server.report.test_verdicts import GAINS, with_gains
from tests.support.browser import CHROMIUM, WHY_NOT, browser
from tests.support.pages import example, put

KEPT = Path(__file__).parents[3] / "docs" / "results"
WHERE = """
(() => {
  const found = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    for (const match of node.data.matchAll(/\\S+/g)) {
      const range = document.createRange();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      const box = range.getBoundingClientRect();
      const seen = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
      if (box.width && box.top >= 0 && box.bottom <= innerHeight && box.left >= 0 && box.right <= innerWidth
          && seen && seen.contains(node.parentElement)) found.push(match[0]);
    }
  }
  return [innerWidth, innerHeight, found.join(" ")];
})()
"""
"""The words of the page that lie wholly on the first screen, with nothing above them."""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
@pytest.mark.parametrize("screen", [(1280, 800), (390, 844)], ids=["a desk", "a telephone"])
@pytest.mark.parametrize("synthetic", [False, True], ids=["patients", "synthetic patients"])
def test_the_first_screen_holds_the_verdict_its_uncertainty_and_the_patients(
    tmp_path: Path, screen: tuple[int, int], synthetic: bool
) -> None:
    results: dict[str, Any] = example(test_patients=(10, 6, 6), synthetic=synthetic)
    for target, gains in GAINS.items():
        with_gains(results, target, gains)
    folder = put(tmp_path / "study", results)
    page = write_report(folder)
    with browser(page.as_uri(), tmp_path / "browser", screen=screen) as evaluate:
        width, height, text = evaluate(WHERE)
    assert (width, height) == screen
    told = verdicts(read_results(folder))[:3]
    for site, sentence in zip("ABC", told, strict=True):
        assert re.fullmatch(rf"At {site}, .* \(95 % interval \S+ to \S+; \d+ test patients\)\.", sentence)
        assert re.sub(r"\s+", " ", sentence) in re.sub(r"\s+", " ", text), text


@pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
@pytest.mark.parametrize("screen", [(1280, 800), (390, 844)], ids=["a desk", "a telephone"])
@pytest.mark.parametrize("name", ["prostate3t-five", "table3-synthetic"])
def test_so_do_the_first_screens_of_the_kept_studies(tmp_path: Path, screen: tuple[int, int], name: str) -> None:
    with browser((KEPT / name / "report.html").as_uri(), tmp_path / "browser", screen=screen) as evaluate:
        text = re.sub(r"\s+", " ", evaluate(WHERE)[2])
    results = read_results(KEPT / name)
    told = verdicts(results)[: len(results.sites)]
    assert len(told) == len({row.target for row in results.rows})
    for sentence in told:
        assert re.search(r"\((95 % interval \S+ to \S+; )?\d+ test patients(; an interval needs 6)?\)\.$", sentence)
        assert re.sub(r"\s+", " ", sentence) in text, text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
def test_what_lies_below_the_first_screen_is_not_counted_as_seen(tmp_path: Path) -> None:
    page = write_report(put(tmp_path / "study", example(test_patients=(10, 6, 6))))
    with browser(page.as_uri(), tmp_path / "browser", screen=(390, 844)) as evaluate:
        text = evaluate(WHERE)[2]
    assert "No image of a patient is in this page" in page.read_text(encoding="utf-8")
    assert "No image of a patient" not in text
