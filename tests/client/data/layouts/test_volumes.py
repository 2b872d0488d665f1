"""Image and mask of a patient on one grid, whatever grids and number types they were stored in."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data import layouts
from common.errors import BadPatient
from tests.support.layout_files import (
    OBLIQUE,
    ORIGIN,
    SPACING,
    STRAIGHT,
    Array,
    as_nci_isbi,
    as_nifti_pairs,
    bad,
    one_sentence,
    only,
    same,
    site,
    truth,
    write_series,
    write_volume,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    image_order=st.sampled_from(["LPS", "RAS", "LAS", "RPI", "LPI", "RAI"]),
    mask_order=st.sampled_from(["LPS", "RAS", "LAS", "RPI", "PLS", "SAR"]),
    oblique=st.booleans(),
    ending=st.sampled_from([".nii.gz", ".nii"]),
)
def test_the_order_in_which_axes_were_stored_makes_no_difference(
    tmp_path: Path, image_order: str, mask_order: str, oblique: bool, ending: str
) -> None:
    image, mask = truth()
    axes = OBLIQUE if oblique else STRAIGHT
    shutil.rmtree(tmp_path / "images", ignore_errors=True)
    write_volume(tmp_path / "images" / f"c{ending}", image, axes=axes, order=image_order)
    write_volume(tmp_path / "images" / f"c_segmentation{ending}", mask, axes=axes, order=mask_order)
    same(layouts.read(only(layouts.find(site(tmp_path, "nifti-pairs")))), image, mask)


@pytest.mark.parametrize("tilted", [False, True])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(half=st.tuples(*[st.sampled_from([-0.5, -0.3, 0.0, 0.3, 0.5])] * 3), noise=st.floats(-1e-6, 1e-6))
def test_half_a_voxel_of_difference_leaves_the_outline_as_drawn(
    tmp_path: Path, tilted: bool, half: tuple[float, ...], noise: float
) -> None:
    image, mask = truth()
    axes = OBLIQUE if tilted else STRAIGHT
    shutil.rmtree(tmp_path / "images", ignore_errors=True)
    write_series(tmp_path / "images" / "P1", image, axes=axes)
    shift = (np.array(half) + noise) * SPACING[::-1] @ axes
    write_volume(tmp_path / "labels" / "P1.nrrd", mask, origin=ORIGIN + shift, axes=axes)
    same(layouts.read(only(layouts.find(site(tmp_path, "nci-isbi")))), image, mask)


@pytest.mark.parametrize("factor", [2, 3])
def test_a_finer_label_is_taken_to_the_images_grid(tmp_path: Path, factor: int) -> None:
    image, mask = truth()
    fine = mask.repeat(factor, axis=1).repeat(factor, axis=2)
    spacing = (SPACING[0], SPACING[1] / factor, SPACING[2] / factor)
    corner = ORIGIN + [(1 / factor - 1) * SPACING[2] / 2, (1 / factor - 1) * SPACING[1] / 2, 0]
    write_series(tmp_path / "images" / "P1", image)
    write_volume(tmp_path / "labels" / "P1.nrrd", fine, spacing=spacing, origin=corner)
    case = layouts.read(only(layouts.find(site(tmp_path, "nci-isbi"))))
    # Every coarse voxel's centre lies inside, or on the edge of, fine voxels of its own label.
    np.testing.assert_array_equal(case.mask, mask > 0)


def spoiled(image: Array, mask: Array, how: str) -> tuple[Array, Array]:
    image, mask = image.astype(np.float32), mask.copy()
    if how == "zero":
        image[:] = 0
    elif how == "constant":
        image[:] = 7
    elif how == "nan":
        image[2, 3, 4] = np.nan
    elif how == "inf":
        image[2, 3, 4] = np.inf
    elif how == "empty mask":
        mask[:] = 0
    elif how == "flat":
        image, mask = image[3], mask[3]
    elif how == "one slice":
        image, mask = image[3:4], mask[3:4]
    elif how == "four dimensions":
        image = np.stack([image, image])
    elif how == "flat mask":
        mask = mask[3]
    return image, mask


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("zero", "same value"),
        ("constant", "same value"),
        ("nan", "1 values that are no numbers"),
        ("inf", "1 values that are no numbers"),
        ("empty mask", "is empty"),
        ("flat", "three dimensions"),
        ("one slice", "no volume"),
        ("four dimensions", "three dimensions"),
        ("flat mask", "three dimensions"),
    ],
)
def test_an_unusable_volume_is_told(tmp_path: Path, how: str, told: str) -> None:
    folder = tmp_path / "images"
    config = site(tmp_path, "nifti-pairs")
    for array, name in zip(spoiled(*truth(), how), ["c.nii.gz", "c_segmentation.nii.gz"], strict=True):
        volume = sitk.GetImageFromArray(array, isVector=False)
        volume.SetSpacing([0.5] * volume.GetDimension())
        sitk.WriteImage(volume, str(folder / name))
    assert told in bad(only(layouts.find(config)))


@pytest.mark.parametrize("name", ["c", "c_segmentation"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("left", [0, 30, 0.5, 0.99])
def test_a_truncated_volume_file_is_told(tmp_path: Path, name: str, ending: str, left: float) -> None:
    image, mask = truth()
    write_volume(tmp_path / "images" / f"c{ending}", image)
    write_volume(tmp_path / "images" / f"c_segmentation{ending}", mask)
    path = tmp_path / "images" / f"{name}{ending}"
    os.truncate(path, int(left if left > 1 else left * path.stat().st_size))
    told = bad(only(layouts.find(site(tmp_path, "nifti-pairs"))))
    assert f"{name}{ending} cannot be read" in told


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("left", [0, 30, 0.5, 0.99])
def test_a_truncated_label_is_told(tmp_path: Path, left: float, compressed: bool) -> None:
    config = as_nci_isbi(tmp_path, *truth())
    path = tmp_path / "labels" / "P1_truth.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(path)), str(path), useCompression=compressed)
    os.truncate(path, int(left if left > 1 else left * path.stat().st_size))
    assert "P1_truth.nrrd cannot be read" in bad(only(layouts.find(config)))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_byte_gone_wrong_in_a_packed_label_is_told_and_never_read(tmp_path: Path, place: float, flip: int) -> None:
    """ITK takes what it can unpack without a look at the checksum."""
    image, mask = truth()
    source = only(layouts.find(as_nci_isbi(tmp_path, image, mask)))
    content = bytearray(source.mask[0].read_bytes())
    start = content.index(b"\n\n") + 2
    content[start + int(place * (len(content) - start))] ^= flip
    source.mask[0].write_bytes(content)
    try:
        case = layouts.read(source)
    except BadPatient as error:
        one_sentence(str(error))
    else:
        same(case, image, mask)  # a bit of gzip's own header that means nothing


def test_a_label_whose_voxels_lie_in_another_file_is_told(tmp_path: Path) -> None:
    config = as_nci_isbi(tmp_path, *truth())
    label = tmp_path / "labels" / "P1_truth.nrrd"
    write_volume(tmp_path / "labels" / "apart.nhdr", truth()[1], compressed=False)
    (tmp_path / "labels" / "apart.nhdr").rename(label)
    assert "another file" in bad(only(layouts.find(config)))


@pytest.mark.parametrize("kind", [np.float64, np.int32, np.uint16, np.uint8])
def test_nifti_files_of_any_number_type_are_read(tmp_path: Path, kind: type) -> None:
    image, mask = truth()
    image = image % 250
    config = as_nifti_pairs(tmp_path, image.astype(kind), mask.astype(kind))
    same(layouts.read(only(layouts.find(config))), image, mask)


@pytest.mark.parametrize("lost", [True, False])
def test_a_mask_on_another_grid_is_told(tmp_path: Path, lost: bool) -> None:
    image, mask = truth()
    write_volume(tmp_path / "images" / "c.nii.gz", image)
    path = tmp_path / "images" / "c_segmentation.nii.gz"
    if lost:
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(path))
    else:
        write_volume(path, mask[1:], origin=ORIGIN + [12.0, 0, 0])
    assert "another grid" in bad(only(layouts.find(site(tmp_path, "nifti-pairs"))))


@pytest.mark.parametrize(
    "lost",
    [{}, {"axes": STRAIGHT, "origin": ORIGIN}, {"axes": OBLIQUE, "origin": ORIGIN + np.array([12.0, 0.0, 0.0])}],
    ids=["nothing", "the direction", "the place"],
)
def test_a_mask_that_lost_its_place_is_not_laid_elsewhere(tmp_path: Path, lost: dict[str, Any]) -> None:
    """A header without direction or origin is a common mistake of an export; the grid's size stays."""
    image, mask = truth()
    config = site(tmp_path, "nifti-pairs")
    write_volume(tmp_path / "images" / "c.nii.gz", image, axes=OBLIQUE)
    write_volume(tmp_path / "images" / "c_segmentation.nii.gz", mask, **({"axes": OBLIQUE} | lost))
    source = only(layouts.find(config))
    if lost:
        assert "another grid" in bad(source)
    else:
        assert np.array_equal(layouts.read(source).mask, mask > 0)


@pytest.mark.parametrize("spacing", [(0.6, 1.0, 1.0), (0.5, 0.9, 0.8), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_a_thin_sliced_volume_is_axial(tmp_path: Path, spacing: tuple[float, float, float], ending: str) -> None:
    image, mask = truth()
    for array, name in ((image, "c"), (mask, "c_segmentation")):
        write_volume(tmp_path / "images" / f"{name}{ending}", array, spacing=spacing)
    case = layouts.read(only(layouts.find(site(tmp_path, "nifti-pairs" if "nii" in ending else "promise12"))))
    np.testing.assert_array_equal(case.image, image)
    np.testing.assert_allclose(case.spacing, spacing, rtol=1e-6)


def test_a_packed_file_whose_name_does_not_say_so_is_told(tmp_path: Path) -> None:
    image, mask = truth()
    write_volume(tmp_path / "images" / "c.nii", image)
    write_volume(tmp_path / "images" / "c_segmentation.nii", mask)
    path = tmp_path / "images" / "c_segmentation.nii"
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert "name it c_segmentation.nii.gz" in bad(only(layouts.find(site(tmp_path, "nifti-pairs")))).replace(
        f"{tmp_path}/images/", ""
    )


def test_a_file_that_is_not_packed_under_a_packed_ones_name_is_read(tmp_path: Path) -> None:
    image, mask = truth()
    for array, name in ((image, "c"), (mask, "c_segmentation")):
        write_volume(tmp_path / "images" / f"{name}.nii", array).rename(tmp_path / "images" / f"{name}.nii.gz")
    same(layouts.read(only(layouts.find(site(tmp_path, "nifti-pairs")))), image, mask)
