"""The page says how far the probabilities can be believed, where that was measured."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.server.report.test_gland import results_of, selected
from tests.support.pages import Page, page_of, put
from tests.support.selected import best_row

HEADING = "How far the probabilities can be believed"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    return json.dumps(results_of(tmp_path_factory.mktemp("made"), repeats=2))


@pytest.fixture
def results(made: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made)
    return found


def errors(page: Page) -> dict[str, list[str]]:
    (grid,) = (grid for grid in page.grids if grid and grid[0] and grid[0][0] == "Model" and "→ A" in grid[0])
    return {line[0]: line[1:] for line in grid[1:]}


def test_each_shown_model_has_its_mean_error_as_in_the_results(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(put(tmp_path, results))
    found = errors(page)
    assert HEADING in page.text and "The curve does not leave the hospital." in page.text
    for column, target in enumerate("ABC"):
        rows = selected(results, target)
        for name, counts in (
            ("Route by validation ★", lambda row: row["headline"]),
            ("Target alone", lambda row: row["method"] == "baseline"),
            ("FedAvg", lambda row: row["method"] == "fedavg"),
        ):
            wanted = [row["calibration_error"] for row in rows if counts(row)]
            assert len(wanted) == 2, "one in each repeat"
            assert found[name][column].startswith(f"{fmean(wanted):.1f}")
    assert not any("→" in name or "unadapted" in name for name in found)


def test_results_without_calibration_have_no_such_section(results: dict[str, Any], tmp_path: Path) -> None:
    for row in results["rows"]:
        del row["calibration_error"], row["calibration_patients"]
    assert HEADING not in page_of(put(tmp_path, results)).text


def test_what_an_earlier_version_scored_has_a_dash(results: dict[str, Any], tmp_path: Path) -> None:
    for row in results["rows"]:
        if row["target"] == "B":
            row.update(calibration_error=None, calibration_patients=0)
    page = page_of(put(tmp_path, results))
    assert {cells[1][:1] for cells in errors(page).values()} == {"–"}
    assert "–: not measured, as in scorings of an earlier version." in page.text


@pytest.mark.slow
def test_the_models_that_the_hospitals_got_have_a_sentence(results: dict[str, Any], tmp_path: Path) -> None:
    text = " ".join(page_of(put(tmp_path / "all", results)).text.split())
    said = text.partition("Of the models that the hospitals got, chosen by their validation patients: ")[2]
    first = min(row["variant"] for row in results["rows"])
    chosen = results["study"]["training"]["slices"] == "chosen"
    for target in "ABC":
        offered = [
            row for row in results["rows"]
            if row["target"] == target and row["variant"] == first and not row["method"].startswith("pooled")
        ]  # fmt: skip
        row = best_row(offered, "validation_dice" if chosen else "validation_dice_volume")
        figures = f"{row['calibration_error']:.1f} % ({row['patients']} test patients)"
        assert f", fold {row['fold'] + 1} at {target}: {figures}" in said.partition("A hospital’s own model card")[0]
    results["parked"] = [{"variant": 0, "method": "fedavg", "label": "FedAvg", "target": "B", "fold": 0, "why": "x"}]
    text = page_of(put(tmp_path / "parked", results)).text
    said = text.partition("Of the models that the hospitals got")[2].partition("A hospital’s own")[0]
    assert " at A: " in said and " at B: " not in said, "B got none"
