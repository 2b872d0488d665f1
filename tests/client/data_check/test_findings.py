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

from client import data_check
from client.data_check import Checkup, Kind, words
from client.site_config import SiteConfig, load_site
from common.errors import RelayError
from deploy.phantom.dicom import Frame, write_series
from tests.support.hospitals import patient as patient_with_a_gland
from tests.support.hospitals import write_dicom_patient, write_pair, write_site

SPACING = (3.0, 0.5, 0.5)


def write_patient(
    folder: Path,
    name: str,
    *,
    seed: int,
    spacing: tuple[float, float, float] = SPACING,
    brightness: float = 1.0,
    where: tuple[slice, slice, slice] | None = None,
    direction: tuple[float, ...] = tuple(np.eye(3).ravel()),
    blank: int | None = None,
    most: float = np.inf,
) -> None:
    """Noise with a block for a gland, each patient's a little elsewhere."""
    image = np.random.default_rng(seed).integers(1, 900, (12, 64, 72)).astype(np.float32)
    image = np.minimum(image, most) * brightness
    if blank is not None:
        image[blank] = 7
    mask = np.zeros(image.shape, np.uint8)
    mask[where or np.s_[2:10, 10 + seed % 8 : 50 + seed % 8, 10:60]] = 1
    folder.mkdir(exist_ok=True)
    for array, ending in ((image, ""), (mask, "_segmentation")):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing(spacing[::-1])
        volume.SetDirection(direction)
        sitk.WriteImage(volume, str(folder / f"{name}{ending}.nii"))


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    (tmp_path / "site.toml").write_text('name = "C"\nlayout = "nifti-pairs"\nimages = "images"\n', encoding="utf-8")
    for seed in range(4):
        write_patient(tmp_path / "images", f"p{seed}", seed=seed)
    return load_site(tmp_path / "site.toml")


def sentences(result: Checkup, patient: str) -> str:
    return " ".join(finding.sentence for finding in result.about(patient))


def kinds(result: Checkup, patient: str) -> set[Kind]:
    return {finding.kind for finding in result.about(patient)}


def test_a_sound_site_is_counted_and_nothing_is_found(site: SiteConfig) -> None:
    result = data_check.check(site)
    assert [patient.patient for patient in result.patients] == ["p0", "p1", "p2", "p3"]
    assert result.problems == result.duplicates == result.findings == result.notes == ()
    assert [looked.kind for looked in result.looked] == list(Kind)
    for patient in result.patients:
        assert patient.shape == (12, 64, 72)
        assert patient.spacing == SPACING
        assert patient.slices == patient.gland_slices == 8
        assert patient.gland_ml == pytest.approx(8 * 40 * 50 * 0.75 / 1000)
        assert patient.tilt == patient.roll == 0
        assert patient.stored == patient.mask_stored == "LPS"


def test_noise_decides_nothing_and_that_is_said(site: SiteConfig) -> None:
    result = data_check.check(site)
    for looked in result.looked:
        if looked.kind in (Kind.MIRRORED, Kind.REVERSED, Kind.SHIFTED, Kind.TURNED):
            assert (looked.compared, looked.found) == (4, 0)
            assert looked.hidden + looked.undecided == 4, "nothing of a mask can be seen in noise"


@pytest.mark.parametrize(
    ("minimum", "above", "at", "below"), [(0, 8, 0, 0), (1999, 8, 0, 0), (2000, 0, 8, 0), (2001, 0, 0, 8)]
)
def test_slices_above_at_and_below_the_minimum_are_counted_apart(
    site: SiteConfig, minimum: int, above: int, at: int, below: int
) -> None:
    """The paper's rule is "larger than": a slice with exactly the minimum is not trained on."""
    result = data_check.check(site, minimum_pixels=minimum)
    for patient in result.patients:
        assert (patient.slices, patient.slices_at, patient.slices_below, patient.gland_slices) == (above, at, below, 8)
    assert ("the patient is left out" in sentences(result, "p0")) == (above == 0)


def test_two_patients_with_one_image_are_told(site: SiteConfig) -> None:
    write_patient(site.images, "twin", seed=2, where=np.s_[3:9, 10:50, 10:60])
    result = data_check.check(site)
    assert result.duplicates == (("p2", "twin"),)
    assert "same as that of twin" in sentences(result, "p2")
    assert "same as that of p2" in sentences(result, "twin")
    assert sentences(result, "p1") == ""


def test_one_scan_under_two_names_is_told_whatever_was_done_to_its_values(tmp_path: Path) -> None:
    for seed in range(3):
        write_pair(tmp_path / "images", f"p{seed}", *patient_with_a_gland(seed))
    image, mask = patient_with_a_gland(1)
    again = np.round(image.astype(float) * 0.13 + 20).astype(np.uint8)
    write_pair(tmp_path / "images", "again", again, np.roll(mask, 1, axis=1))
    result = data_check.check(load_site(write_site(tmp_path, "B")))
    assert result.duplicates == (("again", "p1"),)
    assert "the same scan as that of p1" in sentences(result, "again")
    assert Kind.DUPLICATE not in kinds(result, "p0") | kinds(result, "p2")


def test_one_mask_under_two_names_is_told(site: SiteConfig) -> None:
    write_patient(site.images, "copied", seed=7, where=np.s_[2:10, 13:53, 10:60])
    result = data_check.check(site)
    assert result.duplicates == ()
    assert "mask is the same, voxel for voxel, as that of copied" in sentences(result, "p3")
    assert "as that of p3" in sentences(result, "copied")
    assert result.suspicious == {"p3", "copied"}


QUARTER = np.radians(35)
TILTED = (1, 0, 0, 0, np.cos(QUARTER), np.sin(QUARTER), 0, -np.sin(QUARTER), np.cos(QUARTER))
ROLLED = (np.cos(QUARTER), -np.sin(QUARTER), 0, np.sin(QUARTER), np.cos(QUARTER), 0, 0, 0, 1)
RAS = (-1, 0, 0, 0, -1, 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("oddity", "kind", "told"),
    [
        ({"where": np.s_[2:5, 30:40, 30:40]}, Kind.MASK_EXTENT, "ml"),
        ({"where": np.s_[2:4, 10:60, 5:65]}, Kind.MASK_EXTENT, "covers 2 slices"),
        ({"where": np.s_[0:10, 10:50, 10:60]}, Kind.MASK_EXTENT, "first or last slice"),
        ({"where": np.s_[3:12, 10:50, 10:60]}, Kind.MASK_EXTENT, "first or last slice"),
        ({"where": np.s_[2:10, 10:64, 10:60]}, Kind.MASK_EXTENT, "edge"),
        ({"where": np.s_[2:10, 10:50, 0:60]}, Kind.MASK_EXTENT, "edge"),
        ({"where": np.s_[2:10:2, 10:60, 5:65]}, Kind.MASK_EXTENT, "slices 4, 6 and 8 are without a mask"),
        ({"where": np.s_[2:10, 10:50, 10:60:5]}, Kind.MASK_EXTENT, "lie apart from the rest, in 9 parts"),
        ({"spacing": (5.0, 0.5, 0.5)}, Kind.SPACING, "5 × 0.5 × 0.5 mm, is far from the site's usual 3 × 0.5 × 0.5"),
        ({"spacing": (3.0, 0.5, 0.3)}, Kind.SPACING, "spacing"),
        ({"brightness": 10.0}, Kind.INTENSITY, "brightest"),
        ({"brightness": 0.05}, Kind.INTENSITY, "brightest"),
        ({"blank": 6}, Kind.INTENSITY, "slice 7 is blank"),
        ({"most": 600.0}, Kind.INTENSITY, "34 % of the voxels have the greatest value"),
        ({"direction": TILTED}, Kind.ORIENTATION, "tilted by 35 degrees"),
        ({"direction": ROLLED}, Kind.ORIENTATION, "turned by 35 degrees"),
        ({"direction": RAS}, Kind.ORIENTATION, "header of the image says RAS, most others' LPS"),
    ],
)
def test_what_is_odd_about_a_patient_is_told(site: SiteConfig, oddity: dict[str, Any], kind: Kind, told: str) -> None:
    write_patient(site.images, "odd", seed=15, **oddity)
    result = data_check.check(site)
    assert told in sentences(result, "odd")
    assert kind in kinds(result, "odd")
    assert result.suspicious == {"odd"}
    assert {looked.kind: looked.found for looked in result.looked}[kind] == 1


def test_a_mask_whose_header_claims_other_axes_than_the_others_is_told(site: SiteConfig) -> None:
    path = site.images / "p2_segmentation.nii"
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAI"), str(path))
    result = data_check.check(site)
    assert result.suspicious == {"p2"}
    assert "header of the mask says RAI, most others' LPS" in sentences(result, "p2")


def test_a_series_that_is_not_axial_cannot_be_used(tmp_path: Path) -> None:
    image, mask = patient_with_a_gland(1)
    write_dicom_patient(tmp_path, "P-1", image, mask)
    image, mask = patient_with_a_gland(2)
    write_dicom_patient(tmp_path, "P-2", image, mask)
    (series,) = (tmp_path / "images" / "P-2").glob("*/*")
    header = sitk.ReadImage(str(series / "000.dcm"))
    tags = {key: header.GetMetaData(key) for key in ("0008|103e", "0010|0020", "0020|000d", "0020|000e")}
    coronal = Frame((1.0, 1.0, 3.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 0, 1, 0, -1, 0))
    write_series(series, image.astype(np.uint16), coronal, tags=tags, names=[f"{k:03}.dcm" for k in range(len(image))])
    result = data_check.check(load_site(write_site(tmp_path, "A", layout="nci-isbi", masks="labels")))
    assert [patient.patient for patient in result.patients] == ["P-1"]
    assert "axial" in next(problem.sentence for problem in result.problems if problem.patient == "P-2")


def test_with_too_few_patients_that_is_said_and_nothing_is_compared(site: SiteConfig) -> None:
    (site.images / "p3.nii").unlink()
    write_patient(site.images, "p2", seed=2, brightness=50.0, spacing=(9.0, 0.5, 0.5))
    result = data_check.check(site)
    assert result.suspicious == set()
    assert len(result.notes) == 2
    assert "With 3 patients, spacing, brightness and place are not compared" in result.notes[0]
    counts = {looked.kind: looked.compared for looked in result.looked}
    assert counts[Kind.SPACING] == counts[Kind.INTENSITY] == counts[Kind.MISPLACED] == 0
    assert counts[Kind.MASK_EXTENT] == counts[Kind.MIRRORED] == 3


def test_unusable_patients_are_listed_and_the_others_still_read(site: SiteConfig) -> None:
    (site.images / "p1.nii").write_bytes(b"")
    (site.images / "p3_segmentation.nii").unlink()
    calls: list[tuple[int, int]] = []
    result = data_check.check(site, progress=lambda done, total: calls.append((done, total)))
    assert [patient.patient for patient in result.patients] == ["p0", "p2"]
    assert [problem.patient for problem in result.problems] == ["p1", "p3"]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    unusable = result.looked[0]
    assert (unusable.kind, unusable.compared, unusable.found) == (Kind.UNUSABLE, 4, 2)


def test_the_tables_the_lines_and_the_json_say_the_same(site: SiteConfig) -> None:
    (site.images / "p1.nii").write_bytes(b"")
    write_patient(site.images, "p[bold]4", seed=4, brightness=10.0)
    write_patient(site.images, "p5", seed=5)
    result = data_check.check(site)
    written = json.loads(json.dumps(words.to_json(result)))
    assert (written["usable"], written["unusable"], written["slices"], written["suspicious"]) == (5, 1, 40, 1)
    assert [patient["patient"] for patient in written["patients"]] == ["p0", "p2", "p3", "p5", "p[bold]4"]
    (finding,) = written["findings"]
    assert finding["patient"] == "p[bold]4" and finding["kind"] == "intensity"
    assert words.summary(result) == (
        "Site C, layout nifti-pairs: 5 usable patients, 40 slices over 200 pixels; 1 unusable, 1 to look at."
    )
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(words.patient_table(result))
    console.print(words.kind_table(result))
    shown = console.export_text()
    assert "12 × 64 × 72" in shown and "p[bold]4" in shown
    for name in words.NAMES.values():
        assert name in shown
        assert any(name in line for line in words.lines(result))
    assert [who for who, _, _ in words.remarks(result)] == ["p[bold]4", "p1"]


def test_a_site_without_its_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('name = "C"\nlayout = "i2cvb"\nimages = "nowhere"\n', encoding="utf-8")
    with pytest.raises(RelayError, match="no folder .*nowhere"):
        data_check.check(load_site(tmp_path / "site.toml"))
