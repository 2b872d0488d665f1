"""The readers on real files: the expert masks of NCI-ISBI 2013, and five whole series of Prostate-3T."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from client.data import layouts
from client.data.layouts import Found, nci_isbi, volumes
from client.data.layouts.folder import list_folder
from client.site_config import load_site

REPO = Path(__file__).resolve().parents[4]
REAL = Path(os.environ.get("RELAY_SHARED", REPO.parent / "shared")) / "data"

needs_masks = pytest.mark.skipif(
    not (REAL / "nci_isbi_masks").is_dir(), reason="the expert masks of NCI-ISBI 2013 are not on this machine"
)
needs_series = pytest.mark.skipif(
    not (REAL / "prostate3t").is_dir() or not (REAL / "nci_isbi_predicted").is_dir(),
    reason="the five series of Prostate-3T are not on this machine",
)


@pytest.mark.slow
@needs_masks
@pytest.mark.parametrize(("folder", "slices"), [("Prostate-3T", 421), ("PROSTATE-DIAGNOSIS", 384)])
def test_the_expert_masks_hold_as_many_slices_over_200_pixels_as_published(folder: str, slices: int) -> None:
    labels = nci_isbi.label_files(list_folder(REAL / "nci_isbi_masks" / folder))
    assert len(labels) == 30
    assert all(len(files) == 1 for files in labels.values())
    counted = 0
    for files in labels.values():
        mask = sitk.GetArrayFromImage(volumes.read_mask(files))
        counted += int((mask.sum(axis=(1, 2)) > 200).sum())
    assert counted == slices


@needs_masks
def test_the_corrected_label_is_paired_by_its_patient() -> None:
    labels = nci_isbi.label_files(list_folder(REAL / "nci_isbi_masks" / "PROSTATE-DIAGNOSIS"))
    assert [path.name for path in labels["ProstateDx-01-0006"]] == ["ProstateDx-01-0006_correctedLabels.nrrd"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    path = tmp_path_factory.mktemp("real") / "site.toml"
    path.write_text(
        f"name = 'A'\nlayout = 'nci-isbi'\nimages = '{REAL / 'prostate3t'}'\n"
        f"masks = '{REAL / 'nci_isbi_predicted' / 'Prostate3T'}'\n",
        encoding="utf-8",
    )
    return layouts.find(load_site(path))


@needs_series
def test_the_five_series_are_found_and_labels_without_images_told(found: Found) -> None:
    assert [source.patient for source in found.sources] == [f"Prostate3T-03-000{n}" for n in range(1, 6)]
    assert [problem.patient for problem in found.problems] == [f"Prostate3T-02-000{n}" for n in range(1, 6)]
    assert all("no images" in problem.sentence for problem in found.problems)


@needs_series
@pytest.mark.parametrize("number", range(5))
def test_a_real_series_is_read_with_its_mask_on_the_gland(found: Found, number: int) -> None:
    source = found.sources[number]
    case = layouts.read(source)
    assert case.image.shape == case.mask.shape == (len(source.image), 384, 384)
    assert 19 <= len(case.image) <= 21
    np.testing.assert_allclose(case.spacing, (3.0, 0.5, 0.5), rtol=1e-4)
    centre = np.argwhere(case.mask).mean(axis=0) / case.mask.shape
    assert np.all((centre[1:] > 1 / 3) & (centre[1:] < 2 / 3))
    # The gland lies in the lower two thirds of these stacks, and the predicted masks have no voxel outside.
    assert 0.2 < centre[0] < 2 / 3
    assert 15 < case.mask.sum() * np.prod(case.spacing) / 1000 < 100


@needs_series
@pytest.mark.parametrize("number", range(5))
def test_a_real_series_has_the_voxels_that_itks_own_series_reader_gives(found: Found, number: int) -> None:
    source = found.sources[number]
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(source.image[0].parent))
    volume = sitk.DICOMOrient(sitk.ReadImage(names), "LPS")
    case = layouts.read(source)
    np.testing.assert_array_equal(case.image, sitk.GetArrayFromImage(volume))
    np.testing.assert_allclose(case.origin, volume.GetOrigin(), atol=1e-3)
    # Half a voxel of origin apart, these masks were drawn voxel for voxel on these images.
    drawn = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(source.mask[0])), "LPS")) > 0
    np.testing.assert_array_equal(case.mask, drawn)
