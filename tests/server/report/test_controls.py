"""Rows that end with "then the target" against the target alone with as many gradient steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.report import read_results, write_report
from server.report.contrasts import controls, family
from server.report.table import comparison, notes
from tests.support.hospitals import small_study
from tests.support.pages import put
from tests.support.plausible import plausible

METHODS: dict[str, Any] = {
    "baseline": True,
    "longer_baseline": True,
    "sequential": {"routes": "all", "max_hops": 1},
    "federated": ({"strategy": "fedavg", "rounds": 2},),
    "pooled": True,
    "pooled_then_target": True,
}
PATIENTS = {"A": 20, "B": 20, "C": 15}


def made(folder: Path, *more: str, **parts: Any) -> dict[str, Any]:
    return plausible(small_study(methods={**METHODS, "more": more}, **parts), folder, patients=PATIENTS)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return made(tmp_path_factory.mktemp("controls"), "longest")


def row_of(results: dict[str, Any], method: str, target: str) -> dict[str, Any]:
    (found,) = (
        row for row in results["rows"] if row["selected"] and (row["method"], row["target"]) == (method, target)
    )
    return dict(found)


def test_each_such_row_is_set_against_the_control_of_its_own_steps(results: dict[str, Any], tmp_path: Path) -> None:
    read = read_results(put(tmp_path, results))
    found = {contrast.opponent: contrast for contrast in controls(read, comparison(read))}
    assert set(found) == {"FedAvg, then the target", "All data, then the target"}
    for label, method in (
        ("FedAvg, then the target", "fedavg-then-target"),
        ("All data, then the target", "pooled-then-target"),
    ):
        contrast = found[label]
        gaps = []
        for target in PATIENTS:
            row, control = row_of(results, method, target), row_of(results, "longest", target)
            assert row["gradient_steps"] <= control["gradient_steps"] * 1.1
            weights = np.array([row["case_slices"][case] for case in row["case_slices"]])
            each = np.array([row["case_dice"][case] - control["case_dice"][case] for case in row["case_slices"]])
            effect = contrast.where(target)
            assert effect is not None and effect.difference == pytest.approx(np.average(each, weights=weights))
            assert effect.ci95 is None or effect.ci95[0] <= effect.difference <= effect.ci95[1]  # type: ignore[operator]
            gaps.append(effect.difference)
        assert contrast.together.difference == pytest.approx(np.mean(gaps))
        assert contrast.p is None and contrast.corrected is None, "described, not tested"
    against = [contrast.opponent for contrast in family(read, comparison(read)).contrasts]
    assert "Target alone, longest" in against, "and the selected route is set against it as against any other"


def test_the_page_has_the_controls_and_says_where_they_are_missing(results: dict[str, Any], tmp_path: Path) -> None:
    page = write_report(put(tmp_path / "with", results)).read_text(encoding="utf-8")
    assert "Against the target alone with as many gradient steps" in page
    assert "Longest: with as many gradient steps" in page and "methods.more = [" not in page
    without = made(tmp_path / "made")
    read = read_results(put(tmp_path / "without", without))
    assert not controls(read, comparison(read))
    (note,) = (note for note in notes(comparison(read)) if "up to a training more" in note)
    assert note.startswith("FedAvg, then the target; All data, then the target: ")
    assert "Against the target alone with as many" not in write_report(put(tmp_path / "again", without)).read_text(
        encoding="utf-8"
    )
