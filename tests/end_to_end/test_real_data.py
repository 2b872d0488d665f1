"""Five real series as one hospital of three, from DICOM to scores, from a real ImageNet start."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import SimpleITK as sitk
import torch

from client.data.layouts import find, read
from client.data_check import check
from client.preprocessing.pipeline import load, prepare
from client.site_config import load_site
from common.config.study import Study
from tests.support.hospitals import REAL_DATA, run_on_grid, small_study, write_hospitals, write_site

IMAGES, MASKS = REAL_DATA / "prostate3t", REAL_DATA / "nci_isbi_predicted" / "Prostate3T"
ENCODER = REAL_DATA / "weights" / "tu-tf_efficientnet_lite0_imagenet.pth"
PATIENTS = [f"Prostate3T-03-000{k}" for k in range(1, 6)]

absent = [path for path in (IMAGES, MASKS, ENCODER) if not path.exists()]
pytestmark = pytest.mark.skipif(bool(absent), reason=f"no real data here: {', '.join(map(str, absent))} absent")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A is real; its masks are those that another network predicted, and stay where they are."""
    folder = tmp_path_factory.mktemp("hospitals")
    labels = folder / "A" / "labels"
    labels.mkdir(parents=True)
    for patient in PATIENTS:
        (labels / f"{patient}_truth_pred.nrrd").symlink_to(MASKS / f"{patient}_truth_pred.nrrd")
    real = write_site(folder / "A", "A", layout="nci-isbi", images=str(IMAGES), masks="labels")
    return {"A": real, **write_hospitals(folder, {"B": 6, "C": 6}, slices=7)}


@pytest.fixture(scope="module")
def study() -> Study:
    return small_study(
        model={"encoder": "tu-tf_efficientnet_lite0", "encoder_weights": str(ENCODER)},
        preprocessing={"pixels": 96, "spacing_mm": 1.25, "n4": {"shrink": 8, "iterations": (10, 10)}},
        training={"epochs": 2, "learning_rate": 1e-3, "precision": "float32"},
        methods={"sequential": {"routes": (("B", "C", "A"),)}},
        synthetic=False,
    )


def selected_in_the_label_files() -> dict[str, int]:
    """Slices of each patient with more than 200 pixels of mask, read by SimpleITK alone."""
    found = {}
    for patient in PATIENTS:
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(MASKS / f"{patient}_truth_pred.nrrd")))
        found[patient] = int(((mask > 0).sum(axis=(1, 2)) > 200).sum())
    return found


@pytest.mark.slow
def test_real_series_are_read_whole(hospitals: dict[str, Path]) -> None:
    checkup = check(load_site(hospitals["A"]))
    assert [patient.patient for patient in checkup.patients] == PATIENTS
    assert not checkup.problems and not checkup.duplicates
    for patient in checkup.patients:
        slices, rows, columns = patient.shape
        assert (rows, columns) == (384, 384) and 19 <= slices <= 21
        assert patient.spacing == pytest.approx((3.0, 0.5, 0.5), abs=0.01)
        assert 10 < patient.gland_ml < 350
    assert {patient.patient: patient.slices for patient in checkup.patients} == selected_in_the_label_files()


@pytest.mark.slow
def test_a_real_gland_lies_where_its_mask_says(hospitals: dict[str, Path]) -> None:
    """In front of the rectum and behind the pubis: about the middle of the image, after N4 and resampling too."""
    site = load_site(hospitals["A"])
    case = read(find(site).sources[0])
    middle = np.argwhere(case.mask).mean(axis=0) / case.mask.shape
    assert np.all(np.abs(middle - 0.5) < 0.2)
    study = small_study(preprocessing={"pixels": 96, "spacing_mm": 1.25, "n4": {"shrink": 8, "iterations": (10, 10)}})
    prepared = prepare(site, study.preprocessing)
    assert (prepared.total, prepared.done, prepared.left_out) == (5, 5, 0)
    for record in prepared.records:
        slices = load(record)
        assert slices.image.shape[1:] == (96, 96)
        assert np.isfinite(slices.image).all() and slices.image.std() > 0
        ratio = slices.mask.sum() * 1.25**2 / (slices.native_mask.sum() * 0.5**2)
        assert ratio == pytest.approx(1, abs=0.03), "the gland keeps its size"


@pytest.mark.slow
def test_a_real_hospital_takes_part_in_a_study(hospitals: dict[str, Path], study: Study, tmp_path: Path) -> None:
    results, _ = run_on_grid(study, hospitals, tmp_path, at_once=1)
    site = next(site for site in results["sites"] if site["name"] == "A")
    assert (site["patients"], site["test_patients"], site["left_out"]) == (5, 1, 0)
    assert site["slices"] == sum(selected_in_the_label_files().values())
    rows = [row for row in results["rows"] if row["target"] == "A"]
    assert [(row["route"], row["fold"]) for row in rows] == [(["B", "C", "A"], 0), (["B", "C", "A"], 1)]
    assert not results["parked"]
    for row in rows:
        assert row["patients"] == 1 and row["slices"] == site["test_slices"]
        assert 0 <= row["iou"] <= row["dice"] <= 100
        assert math.isfinite(row["dice_volume"])
    at_a = [stage for stage in results["stages"] if stage["site"] == "A"]
    assert len(at_a) == 2
    for stage in at_a:
        assert stage["epochs"][-1]["loss"] < stage["epochs"][0]["loss"], "nothing was learnt"
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert (load_site(hospitals["A"]).folder / "page.html").exists()
    start_is_imagenet(tmp_path)


def start_is_imagenet(out: Path) -> None:
    records: list[dict[str, Any]] = [json.loads(path.read_text()) for path in (out / "ledger").glob("*.json")]
    start = next(record for record in records if record["kind"] == "start")
    weights = safetensors.torch.load_file(out / "weights" / f"{start['weights']}.safetensors")
    real = torch.load(ENCODER, map_location="cpu", weights_only=True)
    compared = 0
    for name, tensor in real.items():
        mine = weights.get(f"encoder.{name.removeprefix('encoder.')}")
        if mine is not None and mine.is_floating_point():
            expected = tensor.sum(dim=1, keepdim=True) if mine.shape != tensor.shape else tensor
            assert torch.equal(mine, expected.to(mine.dtype)), name
            compared += 1
    assert compared > 200
