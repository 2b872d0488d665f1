"""What is practically the same, better or worse stands on the page and beneath the table, where it is shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from common.statistics.hierarchical import Odds, Posterior
from server.report import read_results, text_lines
from server.report.contrasts import Contrast, Effect, Family
from server.report.equivalence import findings
from tests.server.report.test_verdicts import with_gains
from tests.support.pages import example, page_of, put, the

SURE = "With a probability of 95 % or more, in the mean over the hospitals, the route that validation chose is"


def family(*odds: tuple[float, float], margin: float = 1.0) -> Family:
    contrasts = []
    for number, (better, same) in enumerate(odds):
        known = Odds(0.0, -1.0, 1.0, better, same, 1 - better - same)
        at = (("A", Effect(0.0)), ("B", Effect(0.0)))
        found = Posterior((("A", known), ("B", known)), known, known)
        contrasts.append(Contrast(f"M{number}", at, Effect(0.0), None, 0.1, posterior=found))
    return Family(tuple(contrasts), (), (), True, "", 0.01, 1, margin)


def test_opponents_of_whom_the_same_is_known_share_a_sentence() -> None:
    told = findings(family((0.0, 0.99), (0.97, 0.02), (0.01, 0.98), (0.3, 0.66), (0.3, 0.3), (0.0, 0.02), (0.02, 0.5)))
    assert told == [
        f"{SURE} better than “M1” by more than 1 point.",
        f"{SURE} worse than “M5” by more than 1 point.",
        f"{SURE} practically the same as “M0” and “M2”: they differ by no more than 1 point.",
        f"{SURE} not worse than “M3” by more than 1 point (non-inferior).",
        f"{SURE} not better than “M6” by more than 1 point.",
        "Nothing of the kind can be told of the route against “M4”.",
    ]
    assert findings(family((0.0, 0.99), margin=0.5))[0].endswith("they differ by no more than 0.5 points.")


def test_a_single_hospital_has_no_mean_over_hospitals() -> None:
    several = family((0.0, 0.99))
    one = dataclasses.replace(several.contrasts[0], at=several.contrasts[0].at[:1])
    (told,) = findings(dataclasses.replace(several, contrasts=(one,)))
    assert told.startswith("With a probability of 95 % or more, the route")


@pytest.fixture
def alike() -> dict[str, Any]:
    """The route is a tenth of a point from the hospital's own model, and four points above FedAvg."""
    results = example(test_patients=(8, 8, 8), synthetic=False)
    for target in "ABC":
        with_gains(results, target, [0.2, -0.1, 0.15, 0.0, -0.2, 0.1, 0.3, -0.15])
        route = the(results, target=target, headline=True)
        for row in results["rows"]:
            if row["method"] == "fedavg" and row["target"] == target:
                row["case_dice"] = {case: value - 4.0 for case, value in route["case_dice"].items()}
                row["dice"] = route["dice"] - 4.0
    return results


@pytest.mark.slow
def test_it_stands_on_the_page_and_beneath_the_table(tmp_path: Path, alike: dict[str, Any]) -> None:
    folder = put(tmp_path, alike)
    page, lines = page_of(folder), " ".join(text_lines(read_results(folder)))
    for told in (page.text, lines):
        assert f"{SURE} practically the same as “Target alone”: they differ by no more than 1 point." in told
        assert f"{SURE} better than “FedAvg”" in told
    grid = next(grid for grid in page.grids if grid[0][1:2] == ["better by more than 1 point"])
    assert grid[0] == [
        "Against", "better by more than 1 point", "practically the same", "worse by more than 1 point",
        "difference, 95 % credible interval", "→ A", "→ B", "→ C", "a further hospital",
    ]  # fmt: skip
    by_name = {row[0]: row for row in grid[1:]}
    assert by_name["FedAvg"][1:4] == ["> 99 %", "< 1 %", "< 1 %"]
    assert by_name["Target alone"][1:4] == ["< 1 %", "> 99 %", "< 1 %"]
    assert by_name["FedAvg"][5] == "> 99 % · < 1 % · < 1 %"
    assert "a difference of at most 1 point, as by default" in page.text
    assert "At A, handing on made practically no difference, at most 1 point: ±0.0 points of Dice" in page.text


def test_the_study_sets_the_margin(tmp_path: Path, alike: dict[str, Any]) -> None:
    alike["study"]["equivalence_margin"] = 6.0
    page = page_of(put(tmp_path, alike)).text
    assert f"{SURE} practically the same as “Target alone”" in page and "they differ by no more than 6 points" in page
    assert "a difference of at most 6 points, as the study says" in page


def test_without_figures_of_single_patients_there_is_no_such_table(tmp_path: Path) -> None:
    page = page_of(put(tmp_path, example(test_patients=(8, 8, 8), scores_leave=False)))
    assert "How probable a difference that matters is" not in page.text and "With a probability of" not in page.text
