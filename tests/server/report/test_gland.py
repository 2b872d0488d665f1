"""The page says by how much volumes are off, where on the gland, and in whom a model fails, if the hospital permits."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from server.report import read_results
from server.report.gland import gland
from server.report.table import comparison
from tests.support.hospitals import small_study
from tests.support.pages import Page, page_of, put
from tests.support.plausible import plausible

METHODS: dict[str, Any] = {
    "baseline": True,
    "unadapted": True,
    "sequential": {"routes": "all", "max_hops": 2},
    "federated": ({"strategy": "fedavg", "rounds": 2},),
}
HEADING = "Patients below a volume Dice of 70 %"


def results_of(folder: Path, **changes: Any) -> dict[str, Any]:
    study = small_study(methods=METHODS, training={"epochs": 3}, split={"folds": 2}, **changes)
    found: dict[str, Any] = json.loads(json.dumps(plausible(study, folder)))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    return json.dumps(results_of(tmp_path_factory.mktemp("made")))


@pytest.fixture
def results(made: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made)
    return found


def grid(page: Page, last: str) -> list[list[str]] | None:
    """The table whose heading ends with this cell."""
    return next((found for found in page.grids if any(line and line[-1].strip() == last for line in found[:2])), None)


def of_thirds(page: Page) -> dict[tuple[str, str], list[str]]:
    lines = next(found for found in page.grids if found and found[0] and found[0][0] == "Target" and len(found[0]) == 4
                 and "volume error" in found[0][2])  # fmt: skip
    return {(line[0], line[1]): line[2:] for line in lines[2:]}


def of_low(page: Page) -> dict[tuple[str, str], list[str]]:
    lines = grid(page, "patients, with their volume Dice in per cent")
    assert lines is not None
    return {(line[0], line[1]): line[2:] for line in lines[1:]}


def selected(results: dict[str, Any], target: str) -> list[dict[str, Any]]:
    """What the section shows at a target: the headline, and what is no route and was trained there."""
    rows = [row for row in results["rows"] if row["target"] == target and row["selected"]]
    return [row for row in rows if row["headline"] or row["method"] not in ("sequential", "unadapted")]


def test_each_shown_model_has_its_errors_and_thirds_as_in_the_results(results: dict[str, Any], tmp_path: Path) -> None:
    found = of_thirds(page_of(put(tmp_path, results)))
    for target in "ABC":
        wanted = []
        for row in selected(results, target):
            error = row["volume_error_ml"]
            thirds = [f"{row[key]:.1f}" for key in ("dice_apex", "dice_middle", "dice_base")]
            assert error < 0, "or the sign is not seen"
            wanted.append([f"−{-error:.1f}", f"{row['absolute_volume_error_ml']:.1f}", *thirds])
        assert len(wanted) > 2
        assert sorted(wanted) == sorted(values for (where, _), values in found.items() if where == target)
        (headline,) = (row for row in results["rows"] if row["headline"] and row["target"] == target)
        assert (target, f"{headline['label']} ★") in found and (target, "Target alone") in found


def test_patients_below_seventy_per_cent_are_listed_under_their_numbers_the_worst_first(
    results: dict[str, Any], tmp_path: Path
) -> None:
    for row in results["rows"]:
        row["case_dice_volume"] = dict.fromkeys(row["case_dice_volume"], 90.0)
        if row["target"] == "A" and row["method"] == "baseline":
            first, second, third = list(row["case_dice_volume"])[:3]
            row["case_dice_volume"] |= {first: 69.96, second: 70.0, third: 12.34}
    patients = len(selected(results, "A")[0]["case_dice_volume"])
    found = of_low(page_of(put(tmp_path, results)))
    assert found["A", "Target alone"] == [f"2 of {patients}", f"no. {third} (12.3), no. {first} (70.0)"]
    others = [values for line, values in found.items() if line != ("A", "Target alone")]
    assert len(others) > 6 and all(values[0].startswith("0 of ") and values[1] == "none" for values in others)


def test_without_the_sites_word_a_sentence_stands_in_the_lists_place(results: dict[str, Any], tmp_path: Path) -> None:
    for row in results["rows"]:
        if row["target"] in "BC":
            row.update(case_dice=None, case_dice_volume=None, case_slices=None)
    page = page_of(put(tmp_path / "some", results))
    assert {target for target, _ in of_low(page)} == {"A"}
    assert "B, C: the hospital does not let the figures of single patients leave." in page.text
    assert {target for target, _ in of_thirds(page)} == set("ABC"), "means may leave all the same"
    for row in results["rows"]:
        row.update(case_dice=None, case_dice_volume=None, case_slices=None)
    page = page_of(put(tmp_path / "none", results))
    assert HEADING in page.text and "A, B, C: the hospital does not let" in page.text
    assert grid(page, "patients, with their volume Dice in per cent") is None


@pytest.mark.slow
def test_of_several_repeats_figures_are_means_and_a_patient_counts_once(tmp_path: Path) -> None:
    results = results_of(tmp_path / "run", repeats=3)

    def tested(target: str) -> list[dict[str, Any]]:
        rows = [row for row in results["rows"] if (row["method"], row["target"]) == ("baseline", target)]
        return sorted((row for row in rows if row["selected"]), key=lambda row: row["seed"])

    target, case, often = next(
        (target, case, held)
        for target in "ABC"
        for case in tested(target)[0]["case_dice_volume"]
        if len(held := [k for k, row in enumerate(tested(target)) if case in row["case_dice_volume"]]) > 1
    )
    rows = tested(target)
    for k, row in enumerate(rows):
        row["case_dice_volume"] = dict.fromkeys(row["case_dice_volume"], 80.0) | (
            {case: 40.0 + k} if k in often else {}
        )
    everybody = {number for row in rows for number in row["case_dice_volume"]}
    page = page_of(put(tmp_path / "page", results))
    assert of_low(page)[target, "Target alone"] == [
        f"1 of {len(everybody)}",
        f"no. {case} ({', '.join(f'{40 + k:.1f} in repeat {k + 1}' for k in often)})",
    ]
    assert of_thirds(page)[target, "Target alone"][2] == f"{fmean(row['dice_apex'] for row in rows):.1f}"


def test_patients_without_thirds_are_counted(results: dict[str, Any], tmp_path: Path) -> None:
    assert "no thirds" not in page_of(put(tmp_path / "all", results)).text
    for row in results["rows"]:
        row["thirds_patients"] -= 2 * (row["target"] == "B")
    assert "fewer than three slices has no thirds: 2 at B." in page_of(put(tmp_path / "some", results)).text


def test_results_without_these_figures_have_no_such_section(results: dict[str, Any], tmp_path: Path) -> None:
    kept = ("case_dice_volume", "volume_error_ml", "absolute_volume_error_ml", "volume_patients", "dice_apex",
            "dice_middle", "dice_base", "thirds_patients")  # fmt: skip
    lists = {row["weights"] + row["target"]: row["case_dice_volume"] for row in results["rows"]}
    for row in results["rows"]:
        for key in kept:
            del row[key]
    folder = put(tmp_path / "old", results)
    read = read_results(folder)
    assert not gland(read, comparison(read)).shown
    page = page_of(folder)
    assert HEADING not in page.text and "Volume and parts" not in page.text
    for row in results["rows"]:
        row["case_dice_volume"] = lists[row["weights"] + row["target"]]
    page = page_of(put(tmp_path / "lists", results))
    assert of_low(page) and "volume error, ml" not in page.text


def test_validation_patients_have_no_such_section(tmp_path: Path) -> None:
    study = small_study(methods={"baseline": True, "scored_on": "validation"})
    page = page_of(put(tmp_path / "page", plausible(study, tmp_path / "run")))
    assert HEADING not in page.text
