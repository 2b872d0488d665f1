"""The page says where the figures vary, where a study has several splits and training seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.report import read_results
from server.report.variance import shares
from tests.support.hospitals import small_study
from tests.support.pages import example, page_of, put
from tests.support.plausible import plausible

METHODS = {"baseline": True, "longer_baseline": True, "sequential": {"routes": "all", "max_hops": 1}}


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    study = small_study(sites=("A", "B"), methods=METHODS, repeats=2, training={"seeds": (1, 2), "epochs": 4})
    return plausible(study, tmp_path_factory.mktemp("crossed"))


def test_shares_of_crossed_splits_and_seeds_add_up(tmp_path: Path, crossed: dict[str, Any]) -> None:
    found = shares(read_results(put(tmp_path, crossed)))
    assert [one.title for one in found] == [
        "patients of a hospital",
        "methods that do better at one hospital than at another",
        "splits: which patients train",
        "training seeds within a split",
        "patients that suit one training and not another",
    ]
    assert sum(one.share for one in found) == pytest.approx(100)
    page = page_of(tmp_path)
    grid = next(grid for grid in page.grids if grid[0][0] == "Source")
    assert grid[1] == ["patients of a hospital", f"{found[0].sd:.1f}", f"{found[0].share:.0f} %"]
    assert "Where the figures vary" in page.text


def test_repeats_that_change_both_seeds_are_named_so(tmp_path: Path, crossed: dict[str, Any]) -> None:
    both = [row for row in crossed["rows"] if row["seed"] % 2 == row["split_seed"] % 2]
    found = shares(read_results(put(tmp_path, crossed | {"rows": both})))
    assert "splits and training seeds, which change together" in [one.title for one in found]


def test_one_repeat_or_missing_figures_show_no_such_table(tmp_path: Path, crossed: dict[str, Any]) -> None:
    assert shares(read_results(put(tmp_path / "one", example(test_patients=(6, 6, 6))))) == []
    for row in crossed["rows"]:
        if row["target"] == "A":
            row["case_dice"] = row["case_dice_volume"] = None
    folder = put(tmp_path / "kept", crossed)
    assert shares(read_results(folder)) == []
    assert "Where the figures vary" not in page_of(folder).text
