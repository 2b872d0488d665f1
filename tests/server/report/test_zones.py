"""Table, page and terminal say where zones are drawn, and how well the models find them; else they say nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.report import read_results
from server.report.remarks import of_zones
from server.report.table import comparison
from server.report.terminal import text_lines
from tests.server.report.test_gland import METHODS, selected
from tests.support.hospitals import small_study
from tests.support.pages import page_of, put
from tests.support.plausible import plausible

HEADS = ["peripheral zone", "central gland"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    study = small_study(methods=METHODS, training={"epochs": 3}, split={"folds": 2}, model={"target": "zones"})
    found: dict[str, Any] = json.loads(json.dumps(plausible(study, tmp_path_factory.mktemp("made"))))
    return found


def test_the_text_under_the_table_names_the_hospitals_and_the_figures(results: dict[str, Any], tmp_path: Path) -> None:
    read = read_results(put(tmp_path, results))
    drawn, figures = of_zones(read, comparison(read))
    assert drawn.startswith("Both zones are drawn in 29 of 30 patients of A, 29 of 30 patients of B and 0 of 19")
    assert "At C the whole gland alone is drawn" in drawn
    for target in "AB":
        (headline,) = (row for row in results["rows"] if row["headline"] and row["target"] == target)
        wanted = (
            f"peripheral zone {headline['dice_pz']:.1f} % and Dice of the central gland {headline['dice_cg']:.1f} %"
        )
        assert f"{headline['label']} at {target}: Dice of the {wanted}" in figures
    assert " at C" not in figures
    for text in (page_of(put(tmp_path / "page", results)).text, " ".join(" ".join(text_lines(read)).split())):
        assert drawn in text and figures in text


def test_the_page_has_two_columns_for_the_zones(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(put(tmp_path, results))
    (grid,) = (found for found in page.grids if len(found) > 1 and found[1][-2:] == HEADS)
    for target in "ABC":
        wanted = [
            ["–", "–"] if row["dice_pz"] is None else [f"{row['dice_pz']:.1f}", f"{row['dice_cg']:.1f}"]
            for row in selected(results, target)
        ]
        assert sorted(wanted) == sorted(line[-2:] for line in grid[2:] if line[0] == target)
        assert (target == "C") == (wanted[0] == ["–", "–"])


def test_a_study_of_the_gland_says_nothing_of_zones(tmp_path: Path) -> None:
    plain = plausible(small_study(methods={"baseline": True}), tmp_path / "run")
    read = read_results(put(tmp_path, plain))
    assert of_zones(read, comparison(read)) == []
    page = page_of(put(tmp_path / "page", plain))
    assert "peripheral" not in page.text


def test_rows_of_rotations_are_means_over_the_patients_with_zones(tmp_path: Path) -> None:
    study = small_study(
        methods={"baseline": True},
        training={"epochs": 2},
        split={"folds": 2, "test": "rotate", "test_fraction": 0.5},
        model={"target": "zones"},
    )
    results = plausible(study, tmp_path)
    for row in results["rows"]:
        single = [one for one in results["rotation_rows"] if one["selected"] and one["target"] == row["target"]]
        patients = [one["zones_patients"] for one in single]
        assert row["zones_patients"] == sum(patients)
        if row["target"] == "C":
            assert row["dice_pz"] is None and sum(patients) == 0
            continue
        pairs = zip((one["dice_pz"] for one in single), patients, strict=True)
        assert row["dice_pz"] == pytest.approx(sum(dice * number for dice, number in pairs) / sum(patients), abs=1e-5)
