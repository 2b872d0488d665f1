"""In short: what the route gained, a line for each method, and a sentence for each hospital."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from server.report import comparison, read_results
from server.report.contrasts import family
from server.report.summary import Summary, in_short
from server.report.wording import with_code
from tests.support.browser import CHROMIUM, WHY_NOT, browser
from tests.support.pages import example, page_of, put, the

KEPT = Path(__file__).parents[3] / "docs" / "results"


def summary(folder: Path) -> Summary:
    results = read_results(folder)
    table = comparison(results)
    return in_short(results, table, family(results, table))


@pytest.fixture
def results() -> dict[str, Any]:
    return example(test_patients=(10, 8, 8), synthetic=False)


@pytest.mark.slow
def test_every_other_method_has_a_line_on_its_side_and_the_farthest_comes_first(
    results: dict[str, Any], tmp_path: Path
) -> None:
    folder = put(tmp_path, results)
    found = summary(folder)
    contrasts = family(read_results(folder), comparison(read_results(folder))).contrasts
    assert sorted(gap.opponent for gap in (*found.above, *found.not_above)) == sorted(c.opponent for c in contrasts)
    gaps = [float(gap.difference.replace("−", "-").replace("±", "")) for gap in (*found.above, *found.not_above)]
    assert gaps == sorted(gaps, reverse=True)
    assert all(gap.difference.startswith("+") for gap in found.above)
    assert not any(gap.difference.startswith("+") for gap in found.not_above)
    assert found.where == "Over the held-out patients of A, B and C"
    text = page_of(folder).text
    for gap, contrast in zip(found.above, sorted(contrasts, key=lambda c: -(c.together.difference or 0)), strict=False):
        assert gap.opponent == contrast.opponent and contrast.together.ci95 is not None
        assert re.fullmatch(r"[+−±]\d+\.\d to [+−±]\d+\.\d, p (= [\d.]+|< 0.001)", gap.more), gap.more
        assert f"{gap.opponent} {gap.difference} {gap.more}" in re.sub(r"\s+", " ", text)


def test_a_hospitals_sentence_names_its_own_models_and_sums_many_others_up(
    results: dict[str, Any], tmp_path: Path
) -> None:
    dices = {"baseline": 81.0, "longer": 82.0, "fedavg": 60.0, "fedprox": 95.5}
    for row in results["rows"]:
        row["ci95"] = row["case_dice"] = row["case_slices"] = None
        if row["selected"] and row["target"] == "A":
            row["dice"] = dices.get(row["method"], 90.0)
    route = the(results, target="A", headline=True)["label"]
    (first, *_) = summary(put(tmp_path, results)).targets
    assert first == (
        f"At A, validation chose {route}, with a test Dice of 90.0 %. On the same patients: A alone 81.0;"
        " A alone, longer 82.0; 5 further methods from 60.0 to 95.5."
    )
    results["rows"] = [row for row in results["rows"] if "prox" not in row["method"] and row["method"] != "pooled"]
    (first, *_) = summary(put(tmp_path / "few", results)).targets
    assert first.endswith("A alone 81.0; A alone, longer 82.0; FedAvg 60.0; FedAvg, then A 90.0.")
    named = put(tmp_path / "named", json.loads(json.dumps(results).replace('"A', '"ucl')))
    (first, *_) = summary(named).targets
    assert "On the same patients: ucl alone 81.0;" in first, "a hospital's name is as it is written"


def test_names_between_backticks_are_code_and_all_else_is_text() -> None:
    assert with_code("its `patient_scores` is <b>") == "its <code>patient_scores</code> is &lt;b&gt;"
    assert with_code("plain") == "plain"


def test_no_backtick_is_left_on_a_page(tmp_path: Path) -> None:
    page = page_of(put(tmp_path, example(test_patients=(6, 6, 6), scores_leave=False)))
    assert "unless its patient_scores is true" in page.text.replace("  ", " ")
    assert "`" not in page.text


@pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
@pytest.mark.parametrize("screen", [(1280, 800), (390, 844)], ids=["a desk", "a telephone"])
def test_the_summary_of_nineteen_methods_is_at_most_two_screens_long(tmp_path: Path, screen: tuple[int, int]) -> None:
    page = (KEPT / "table3-synthetic" / "report.html").as_uri()
    with browser(page, tmp_path / "browser", screen=screen) as evaluate:
        height = evaluate("document.querySelector('#short').getBoundingClientRect().height")
        lines = evaluate("document.querySelectorAll('#short .gaps li').length")
        wide = evaluate("document.querySelector('#short').scrollWidth > document.querySelector('#short').clientWidth")
    assert lines == 15
    assert height <= 2 * screen[1] and not wide
