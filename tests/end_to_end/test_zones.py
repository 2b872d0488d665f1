"""A study of the two zones, with hospitals that drew both and hospitals that drew the whole gland alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from common.config.study import Study, study_toml
from tests.end_to_end.scored_by_hand import figures
from tests.end_to_end.test_scored_by_hand import HOSPITALS, REAL, assert_as_by_hand
from tests.support.hospitals import REPO, forget_stages, run_on_grid, small_study, write_hospitals, write_site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

NAMED = {"PZ": 1, "CG": 2}
STUDY: Study = small_study(
    model={"target": "zones"},
    training={"epochs": 2, "slices": "all", "precision": "float32", "leg_minutes": 0.0},
    postprocessing={"clean_up": True},
    split={"use_folds": 1},
    methods={
        "baseline": True,
        "sequential": {"routes": (("C", "A"), ("B", "C"))},
    },
)


def assert_zones_as_by_hand(study: Study, images: dict[str, Path], results: dict[str, Any], out: Path) -> None:
    """Every row's Dice of the zones, from its weights and the raw files."""
    for row in results["rows"]:
        target = row["target"]
        found = figures(study, target, images[target], row["fold"], [out / "weights" / f"{row['weights']}.safetensors"])
        drawn = found.zones if study_names_zones(results, target) else ()
        assert row["zones_patients"] == (found.zones_patients if drawn else 0)
        if drawn:
            assert (row["dice_pz"], row["dice_cg"]) == pytest.approx(drawn, abs=2e-6)
        else:
            assert row["dice_pz"] is None and row["dice_cg"] is None


def study_names_zones(results: dict[str, Any], name: str) -> bool:
    return bool(next(site["zoned_patients"] for site in results["sites"] if site["name"] == name))


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A names its zones, one of its patients lacks one; B drew zones too and does not say so; C names the gland."""
    folder = tmp_path_factory.mktemp("hospitals")
    written = write_hospitals(folder, {"A": 6, "B": 6, "C": 6}, slices=7)
    path = folder / "A" / "images" / "Case03_segmentation.nii.gz"
    mask = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.Cast(mask > 0, sitk.sitkUInt8) * 2, str(path))
    return {
        **written,
        "A": write_site(folder / "A", "A", labels=NAMED),
        "C": write_site(folder / "C", "C", labels=[1, 2]),
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, sites: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("zones") / "out"
    run_on_grid(STUDY, sites, folder, at_once=2, keep_weights=True)
    return folder


def read(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return found


def test_every_site_takes_part_and_is_scored_on_what_it_drew(sites: dict[str, Path], out: Path) -> None:
    results = read(out)
    assert not results["parked"] and len(results["rows"]) == 5
    assert [site["zoned_patients"] for site in results["sites"]] == [5, 0, 0]
    images = {name: path.parent / "images" for name, path in sites.items()}
    assert_as_by_hand(STUDY, images, results, out)
    assert_zones_as_by_hand(STUDY, images, results, out)
    of_a = [row for row in results["rows"] if row["target"] == "A"]
    assert all(row["zones_patients"] for row in of_a)


@pytest.mark.slow
def test_killed_and_resumed_it_ends_as_if_nothing_had_been(sites: dict[str, Path], out: Path, tmp_path: Path) -> None:
    forget_stages(sites, scores=False)
    (tmp_path / "study.toml").write_text(study_toml(STUDY), encoding="utf-8")
    words = ["-m", "tests.support.study_process", str(tmp_path / "study.toml"), str(tmp_path / "out")]
    named = [f"{name}={path}" for name, path in sites.items()]
    for when in ("answer:4", "done:5"):
        killed = subprocess.run(
            [sys.executable, *words, when, *named],
            cwd=REPO,
            capture_output=True,
            encoding="utf-8",
            timeout=600,
            start_new_session=True,
        )
        assert killed.returncode == -9, killed.stderr
        assert not (tmp_path / "out" / "results.json").exists()
    run_on_grid(STUDY, sites, tmp_path / "out", at_once=2)
    assert (tmp_path / "out" / "results.json").read_bytes() == (out / "results.json").read_bytes()


@pytest.mark.nightly
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data here: {REAL} absent")
def test_zones_of_two_real_hospitals_and_the_gland_of_a_third(tmp_path: Path) -> None:
    """runmc and bmc with their experts' zones, ucl with the gland alone, at a small size and without N4."""
    sites = {
        name: write_site(
            tmp_path / name, name, images=str(REAL / folder), cores=2, **({} if folder == "ucl" else {"labels": NAMED})
        )
        for name, folder in HOSPITALS.items()
    }
    study = small_study(
        synthetic=False,
        model={"encoder": "tu-mobilenetv3_small_050", "target": "zones"},
        preprocessing={"pixels": 64, "spacing_mm": 1.875},
        training={"slices": "all", "precision": "float32", "epochs": 6, "learning_rate": 2e-3},
        postprocessing={"clean_up": True},
        split={"folds": 2, "use_folds": 1},
        methods={"baseline": True, "sequential": {"routes": (("C", "A"), ("A", "B"), ("B", "C"))}},
    )
    results, _ = run_on_grid(study, sites, tmp_path / "out", at_once=2, keep_weights=True)
    assert not results["parked"] and len(results["rows"]) == 6
    assert [site["zoned_patients"] for site in results["sites"]] == [29, 30, 0]
    images = {name: REAL / folder for name, folder in HOSPITALS.items()}
    assert_as_by_hand(study, images, results, tmp_path / "out")
    assert_zones_as_by_hand(study, images, results, tmp_path / "out")
    for row in results["rows"]:
        print(row["label"], row["target"], row["dice_volume"], row["dice_pz"], row["dice_cg"])
    routed = {row["target"]: row for row in results["rows"] if row["route"] in (["C", "A"], ["A", "B"])}
    assert all(row["dice_cg"] > 40 for row in routed.values()), "nothing was learnt about the zones"
    assert np.isfinite([row["dice_pz"] for row in routed.values()]).all()
