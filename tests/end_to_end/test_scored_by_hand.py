"""The figures of the results are those of the weights and the raw files, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.config.study import Study
from tests.end_to_end.scored_by_hand import figures
from tests.support.hospitals import REAL_DATA, run_on_grid, small_study, write_hospitals, write_site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

REAL = REAL_DATA / "hospitals"
HOSPITALS = {"A": "runmc", "B": "bmc", "C": "ucl"}


def study_of(which: str, **changes: Any) -> Study:
    return small_study(
        training={"slices": which, "precision": "float32", "epochs": 2, **changes.pop("training", {})},
        split={"folds": 2, "use_folds": 1},
        postprocessing={"clean_up": which == "all"},
        methods={"baseline": True, "sequential": {"routes": (("B", "A"), ("C", "A"))}},
        **changes,
    )


def assert_as_by_hand(study: Study, images: dict[str, Path], results: dict[str, Any], out: Path) -> None:
    assert not results["parked"]
    for row in results["rows"]:
        target = row["target"]
        files = [out / "weights" / f"{digest}.safetensors" for digest in row["members"] or [row["weights"]]]
        folds = list(study.split.run) if row["method"] in ("target-folds", "route-folds") else None
        found = figures(study, target, images[target], row["fold"], files, folds)
        assert (row["patients"], row["empty_slices"]) == (found.patients, found.empty_slices)
        assert row["cleaned"] == found.cleaned
        assert row["dice"] == pytest.approx(found.dice, abs=2e-6)
        assert row["dice_volume"] == pytest.approx(found.dice_volume, abs=2e-6)
        assert row["false_slices"] == found.false_slices
        assert (row["volume_patients"], row["thirds_patients"]) == (found.patients, found.thirds_patients)
        assert row["volume_error_ml"] == pytest.approx(found.volume_error_ml, abs=1e-4)
        assert row["absolute_volume_error_ml"] == pytest.approx(found.absolute_volume_error_ml, abs=1e-4)
        assert (row["dice_apex"], row["dice_middle"], row["dice_base"]) == pytest.approx(found.thirds, abs=2e-6)
        assert row["calibration_patients"] == found.patients
        assert row["calibration_error"] == pytest.approx(found.calibration_error, abs=0.01) and found.calibration_error
        if row["surface_patients"] == row["patients"]:
            assert row["hd95_mm"] == pytest.approx(found.hd95_mm, abs=2e-4)


@pytest.mark.parametrize(
    ("which", "standardise"),
    [("all", "site"), ("chosen", "site"), pytest.param("all", "volume", marks=pytest.mark.slow)],
)
def test_scores_of_synthetic_hospitals(tmp_path: Path, which: str, standardise: str) -> None:
    sites = write_hospitals(tmp_path / "hospitals", {"A": 6, "B": 6, "C": 6})
    study = study_of(which, training={"epochs": 3}, preprocessing={"standardise": standardise})
    results, _ = run_on_grid(study, sites, tmp_path / "out", at_once=2)
    assert len(results["rows"]) == 5
    assert_as_by_hand(study, {name: path.parent / "images" for name, path in sites.items()}, results, tmp_path / "out")


@pytest.mark.slow
def test_scores_of_ensembles(tmp_path: Path) -> None:
    """Of the target's folds, of the best route's, and of all sites' own models; their members are in the results."""
    sites = write_hospitals(tmp_path / "hospitals", {"A": 7, "B": 6, "C": 6})
    study = small_study(
        training={"slices": "all", "precision": "float32", "epochs": 3},
        split={"folds": 3, "use_folds": 2},
        postprocessing={"clean_up": True},
        methods={
            "sequential": {"routes": (("B", "A"), ("C", "A"))},
            "more": ("target-folds", "route-folds", "consensus"),
        },
    )
    results, _ = run_on_grid(study, sites, tmp_path / "out", at_once=2)
    rows = [row for row in results["rows"] if row["members"]]
    assert [len(row["members"]) for row in rows if row["method"] == "consensus"] == [3] * 6
    assert [len(row["members"]) for row in rows if row["method"] != "consensus"] == [2] * 4, "a route to A alone"
    assert_as_by_hand(study, {name: path.parent / "images" for name, path in sites.items()}, results, tmp_path / "out")


@pytest.mark.nightly
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data here: {REAL} absent")
@pytest.mark.parametrize("which", ["all", "chosen"])
def test_scores_of_three_real_hospitals(tmp_path: Path, which: str) -> None:
    """72 patients with their experts' masks: read, trained on and scored, at a small size and without N4."""
    sites = {
        name: write_site(tmp_path / name, name, images=str(REAL / folder), cores=2)
        for name, folder in HOSPITALS.items()
    }
    study = study_of(
        which,
        synthetic=False,
        model={"encoder": "tu-mobilenetv3_small_050"},
        preprocessing={"pixels": 64, "spacing_mm": 1.875},
    )
    results, _ = run_on_grid(study, sites, tmp_path / "out", at_once=2)
    assert [(site["patients"], site["left_out"]) for site in results["sites"]] == [(29, 0), (30, 0), (13, 0)]
    assert len(results["rows"]) == 5
    assert results["sites"][0]["slices"] == 404, "slices over 200 pixels of hospital A"
    assert_as_by_hand(study, {name: REAL / folder for name, folder in HOSPITALS.items()}, results, tmp_path / "out")
