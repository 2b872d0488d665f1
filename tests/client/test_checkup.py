"""A check-up says what is at a site and what is wrong with it, before anyone trains on it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

from client import checkup
from client.checkup import Checkup
from client.site import SiteConfig, load_site
from common.errors import RelayError

SPACING = (3.0, 0.5, 0.5)


def write_patient(
    folder: Path,
    name: str,
    *,
    seed: int,
    spacing: tuple[float, float, float] = SPACING,
    brightness: float = 1.0,
    where: tuple[slice, slice, slice] = np.s_[2:10, 10:50, 10:60],
) -> None:
    image = np.random.default_rng(seed).integers(1, 900, (12, 64, 72)).astype(np.float32) * brightness
    mask = np.zeros(image.shape, np.uint8)
    mask[where] = 1
    folder.mkdir(exist_ok=True)
    for array, ending in ((image, ""), (mask, "_segmentation")):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing(spacing[::-1])
        sitk.WriteImage(volume, str(folder / f"{name}{ending}.nii"))


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    (tmp_path / "site.toml").write_text('name = "C"\nlayout = "nifti-pairs"\nimages = "images"\n', encoding="utf-8")
    for seed in range(4):
        write_patient(tmp_path / "images", f"p{seed}", seed=seed)
    return load_site(tmp_path / "site.toml")


def warnings(result: Checkup, patient: str) -> str:
    return " ".join(next(one for one in result.patients if one.patient == patient).warnings)


def test_a_sound_site_is_counted_and_gets_no_warning(site: SiteConfig) -> None:
    result = checkup.check(site)
    assert [patient.patient for patient in result.patients] == ["p0", "p1", "p2", "p3"]
    assert result.problems == () and result.duplicates == ()
    for patient in result.patients:
        assert patient.warnings == ()
        assert patient.shape == (12, 64, 72)
        assert patient.spacing == SPACING
        assert patient.slices == patient.gland_slices == 8
        assert patient.gland_ml == pytest.approx(8 * 40 * 50 * 0.75 / 1000)


@pytest.mark.parametrize(("minimum", "slices"), [(0, 8), (1999, 8), (2000, 0)])
def test_a_slice_counts_where_its_mask_has_more_pixels_than_the_minimum(
    site: SiteConfig, minimum: int, slices: int
) -> None:
    result = checkup.check(site, minimum_pixels=minimum)
    assert {patient.slices for patient in result.patients} == {slices}
    assert ("nothing to train on" in warnings(result, "p0")) == (slices == 0)


def test_two_patients_with_one_image_are_told(site: SiteConfig) -> None:
    write_patient(site.images, "twin", seed=2, where=np.s_[3:9, 10:50, 10:60])
    result = checkup.check(site)
    assert result.duplicates == (("p2", "twin"),)
    assert "same as that of twin" in warnings(result, "p2")
    assert "same as that of p2" in warnings(result, "twin")
    assert warnings(result, "p1") == ""


@pytest.mark.parametrize(
    ("oddity", "told"),
    [
        ({"where": np.s_[2:4, 30:40, 30:40]}, "ml"),
        ({"where": np.s_[0:10, 10:50, 10:60]}, "first or last slice"),
        ({"where": np.s_[3:12, 10:50, 10:60]}, "first or last slice"),
        ({"where": np.s_[2:10, 10:64, 10:60]}, "edge"),
        ({"where": np.s_[2:10, 10:50, 0:60]}, "edge"),
        ({"spacing": (5.0, 0.5, 0.5)}, "spacing"),
        ({"spacing": (3.0, 0.5, 0.3)}, "spacing"),
        ({"brightness": 10.0}, "brightest"),
        ({"brightness": 0.05}, "brightest"),
    ],
)
def test_what_is_odd_about_a_patient_is_told(site: SiteConfig, oddity: dict[str, Any], told: str) -> None:
    write_patient(site.images, "odd", seed=99, **oddity)
    result = checkup.check(site)
    assert told in warnings(result, "odd")
    assert all(warnings(result, f"p{seed}") == "" for seed in range(4))


def test_unusable_patients_are_listed_and_the_others_still_read(site: SiteConfig) -> None:
    (site.images / "p1.nii").write_bytes(b"")
    (site.images / "p3_segmentation.nii").unlink()
    calls: list[tuple[int, int]] = []
    result = checkup.check(site, progress=lambda done, total: calls.append((done, total)))
    assert [patient.patient for patient in result.patients] == ["p0", "p2"]
    assert [problem.patient for problem in result.problems] == ["p1", "p3"]
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_the_table_and_the_json_say_the_same(site: SiteConfig) -> None:
    (site.images / "p1.nii").write_bytes(b"")
    write_patient(site.images, "p[bold]4", seed=4)
    result = checkup.check(site)
    written = json.loads(json.dumps(checkup.to_json(result)))
    assert (written["usable"], written["unusable"], written["slices"]) == (4, 1, 32)
    assert [patient["patient"] for patient in written["patients"]] == ["p0", "p2", "p3", "p[bold]4"]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(checkup.table(result))
    shown = console.export_text()
    assert "Site C: 4 usable patients, 32 slices over 200 pixels; 1 unusable, 0 to look at." in shown
    assert "12 × 64 × 72" in shown and "p[bold]4" in shown and "p1.nii cannot be read" in shown


def test_a_site_without_its_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('name = "C"\nlayout = "i2cvb"\nimages = "nowhere"\n', encoding="utf-8")
    with pytest.raises(RelayError, match="no folder .*nowhere"):
        checkup.check(load_site(tmp_path / "site.toml"))
