"""Every layout gives the same patient: right voxels, right millimetres, right mask, or one sentence why not.

The files are written here with positions worked out by hand in numpy; the readers share none of it.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client import layouts
from client.layouts import Case, Found, Source
from client.site import SiteConfig, load_site
from common.errors import BadPatient, RelayError

SPACING = (3.0, 0.5, 0.75)  # slice, row, column
ORIGIN = np.array([-12.0, -30.0, 40.0])  # x, y, z of voxel 0
STRAIGHT = np.eye(3)
TILT = 0.25
OBLIQUE = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])
"""Rows: unit vectors along columns, rows and slices."""

Array = NDArray[Any]


def truth(slices: int = 8) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """An image of which no axis is symmetric, and a mask off its centre, with both zones."""
    image = np.random.default_rng(7).integers(1, 900, (slices, 32, 28)).astype(np.int16)
    mask = np.zeros(image.shape, np.uint8)
    mask[2:5, 10:20, 6:16] = 1
    mask[3, 12:16, 8:12] = 2
    return image, mask


def write_volume(
    path: Path,
    array: Array,
    *,
    spacing: tuple[float, float, float] = SPACING,
    origin: NDArray[np.float64] = ORIGIN,
    axes: NDArray[np.float64] = STRAIGHT,
    order: str = "LPS",
) -> Path:
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing(spacing[::-1])
    volume.SetOrigin(origin.tolist())
    volume.SetDirection(axes.T.ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.DICOMOrient(volume, order), str(path), useCompression=True)
    return path


def write_series(
    folder: Path,
    array: Array,
    *,
    patient: str = "P1",
    description: str = "T2W_TSE_AX",
    uid: str = "1.2.3.4",
    spacing: tuple[float, float, float] = SPACING,
    origin: NDArray[np.float64] = ORIGIN,
    axes: NDArray[np.float64] = STRAIGHT,
    numbers: Iterable[int] | None = None,
    without: tuple[int, ...] = (),
) -> Path:
    """One DICOM file a slice; `numbers` are the file and instance numbers of slices 0, 1, 2 …"""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    numbers = list(numbers if numbers is not None else range(len(array)))
    for index, number in enumerate(numbers):
        if index in without:
            continue
        piece = sitk.GetImageFromArray(array[index : index + 1])
        piece.SetSpacing(spacing[::-1])
        place = origin + index * spacing[0] * axes[2]
        for key, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"{uid}.{number + 1}",
            "0008|0060": "MR",
            "0008|103e": description,
            "0010|0010": patient,
            "0010|0020": patient,
            "0018|0050": str(spacing[0]),
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(number + 1),
            "0020|0032": "\\".join(f"{value:.10f}" for value in place),
            "0020|0037": "\\".join(f"{value:.10f}" for value in [*axes[0], *axes[1]]),
        }.items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{number:06d}.dcm"))
        writer.Execute(piece)
    return folder


def site(folder: Path, layout: str, **keys: str) -> SiteConfig:
    lines = {"name": "A", "layout": layout, "images": "images", **keys}
    if layout == "nci-isbi":
        lines.setdefault("masks", "labels")
        (folder / "labels").mkdir(exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    path = folder / "site.toml"
    path.write_text("".join(f"{key} = '{value}'\n" for key, value in lines.items()), encoding="utf-8")
    return load_site(path)


def only(found: Found) -> Source:
    assert found.problems == ()
    assert len(found.sources) == 1
    return found.sources[0]


def problem(found: Found, patient: str) -> str:
    assert patient not in [source.patient for source in found.sources]
    sentences = [one.sentence for one in found.problems if one.patient == patient]
    assert len(sentences) == 1
    return one_sentence(sentences[0])


def bad(source: Source) -> str:
    with pytest.raises(BadPatient) as caught:
        layouts.read(source)
    assert caught.value.patient == source.patient
    return one_sentence(str(caught.value))


def one_sentence(text: str) -> str:
    assert text.endswith(".") and "\n" not in text and len(text) < 600
    assert "itk" not in text.lower() and "Exception" not in text
    return text


def same(case: Case, image: Array, mask: Array) -> None:
    assert case.image.dtype == np.float32 and case.mask.dtype == bool
    np.testing.assert_array_equal(case.image, image)
    np.testing.assert_array_equal(case.mask, mask > 0)
    np.testing.assert_allclose(case.spacing, SPACING, rtol=1e-6)


# Each writes one patient in a layout and gives the site.
def as_nci_isbi(folder: Path, image: Array, mask: Array, **how: Any) -> SiteConfig:
    write_series(folder / "images" / "P1" / "1.2" / "1.2.3", image, **how)
    write_volume(folder / "labels" / "P1_truth.nrrd", mask)
    return site(folder, "nci-isbi")


def as_i2cvb(folder: Path, image: Array, mask: Array) -> SiteConfig:
    patient = folder / "images" / "Patient 1036"
    write_series(patient / "T2W", image)
    write_series(patient / "GT" / "prostate", mask.astype(np.int16) * 100, uid="1.2.9")
    write_series(patient / "GT" / "cap", np.zeros_like(mask, np.int16), uid="1.2.10")
    return site(folder, "i2cvb")


def as_nifti_pairs(folder: Path, image: Array, mask: Array) -> SiteConfig:
    write_volume(folder / "images" / "Case00.nii.gz", image)
    write_volume(folder / "images" / "Case00_segmentation.nii.gz", mask)
    return site(folder, "nifti-pairs")


WRITERS = [as_nci_isbi, as_i2cvb, as_nifti_pairs]
Writer = Callable[[Path, Array, Array], SiteConfig]


@pytest.mark.parametrize("write", WRITERS)
def test_a_patient_comes_back_as_written(tmp_path: Path, write: Writer, capfd: pytest.CaptureFixture[str]) -> None:
    image, mask = truth()
    source = only(layouts.find(write(tmp_path, image, mask)))
    same(layouts.read(source), image, mask)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("write", WRITERS)
def test_a_blob_at_known_millimetres_is_found_there(tmp_path: Path, write: Writer) -> None:
    image, mask = truth()
    mask[:] = 0
    mask[5, 20, 9] = 1
    case = layouts.read(only(layouts.find(write(tmp_path, image, mask))))
    index = np.argwhere(case.mask)[0]
    direction = np.array(case.direction).reshape(3, 3)
    place = np.array(case.origin) + direction @ (index * case.spacing)[::-1]
    # x to the patient's left, y to the back, z to the head.
    np.testing.assert_allclose(place, [-12 + 9 * 0.75, -30 + 20 * 0.5, 40 + 5 * 3.0], atol=1e-4)


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


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image_numbers=st.permutations(range(8)), mask_numbers=st.permutations(range(8)))
def test_slices_are_paired_by_position_whatever_their_files_are_called(
    tmp_path: Path, image_numbers: list[int], mask_numbers: list[int]
) -> None:
    image, mask = truth()
    patient = tmp_path / "images" / "Patient 1036"
    write_series(patient / "T2W", image, numbers=image_numbers, axes=OBLIQUE)
    write_series(patient / "GT" / "prostate", mask.astype(np.int16), numbers=mask_numbers, axes=OBLIQUE, uid="1.9")
    same(layouts.read(only(layouts.find(site(tmp_path, "i2cvb")))), image, mask)


@pytest.mark.parametrize("missing", [(3,), (0,), (7,), (0, 1, 3, 5, 6, 7), (0, 1, 2, 5, 6, 7)])
def test_a_missing_mask_slice_is_empty_and_moves_no_other(tmp_path: Path, missing: tuple[int, ...]) -> None:
    image, mask = truth()
    patient = tmp_path / "images" / "Patient_428260"
    write_series(patient / "T2W", image)
    write_series(patient / "GT" / "prostate", mask.astype(np.int16), numbers=range(8)[::-1], without=missing, uid="1.9")
    mask[list(missing)] = 0
    same(layouts.read(only(layouts.find(site(tmp_path, "i2cvb")))), image, mask)


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


def test_a_cropped_label_is_placed_where_it_lies(tmp_path: Path) -> None:
    # ProstateDx-01-0055: 23 slices of labels, 34 of the image.
    image, mask = truth()
    write_series(tmp_path / "images" / "P1", image)
    write_volume(tmp_path / "labels" / "P1.nrrd", mask[1:6, 4:, :20], origin=ORIGIN + [0, 4 * 0.5, 3.0])
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


def test_labels_are_paired_by_patient_id_not_by_folder_name(tmp_path: Path) -> None:
    image, mask = truth()
    names = {
        "ProstateDx-01-0006": "_correctedLabels",
        "ProstateDx-01-0035": "",
        "Prostate3T-03-0001": "_truth_pred",
    }
    for number, (patient, ending) in enumerate(names.items()):
        write_series(
            tmp_path / "images" / f"folder {-number}",
            image + number,
            patient=patient,
            uid=f"1.2.{number + 1}",
        )
        write_volume(tmp_path / "labels" / f"{patient}{ending}.nrrd", np.roll(mask, number, axis=2))
    (tmp_path / "labels" / "._ProstateDx-01-0006.nrrd").write_text("left by a Macintosh", encoding="utf-8")
    (tmp_path / "images" / "LICENSE").write_text("CC BY 3.0", encoding="utf-8")
    found = layouts.find(site(tmp_path, "nci-isbi"))
    assert found.problems == ()
    assert [source.patient for source in found.sources] == sorted(names)
    for source in found.sources:
        number = list(names).index(source.patient)
        same(layouts.read(source), image + number, np.roll(mask, number, axis=2))


def test_the_axial_t2_is_taken_among_a_patients_series(tmp_path: Path) -> None:
    image, mask = truth()
    study = tmp_path / "images" / "P1" / "1.2"
    coronal = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)
    write_series(study / "a", image + 1, description="T2W_TSE_COR", axes=coronal, uid="1.1")
    write_series(study / "b", image + 2, description="T1W_TSE_AX", uid="1.2")
    write_series(study / "c", image, description="T2W_TSE_AX", uid="1.3")
    write_volume(tmp_path / "labels" / "P1.nrrd", mask)
    same(layouts.read(only(layouts.find(site(tmp_path, "nci-isbi")))), image, mask)


def test_two_series_of_one_folder_are_told_apart(tmp_path: Path) -> None:
    image, mask = truth()
    write_series(tmp_path / "images", image, uid="1.1")
    write_series(tmp_path / "images", image + 1, description="T1", uid="1.2", numbers=range(20, 28))
    write_volume(tmp_path / "labels" / "P1.nrrd", mask)
    same(layouts.read(only(layouts.find(site(tmp_path, "nci-isbi")))), image, mask)


@pytest.mark.parametrize("layout", ["nci-isbi", "i2cvb"])
def test_two_series_that_could_be_meant_are_a_question_that_the_site_file_answers(tmp_path: Path, layout: str) -> None:
    image, mask = truth()
    name = "P1" if layout == "nci-isbi" else "Patient 1"
    place = tmp_path / "images" / name / "T2W"
    write_series(place / "a", image + 1, description="t2 small", uid="1.1")
    write_series(place / "b", image, description="t2 large", uid="1.2")
    write_series(tmp_path / "images" / name / "GT" / "prostate", mask.astype(np.int16), patient="other", uid="1.3")
    write_volume(tmp_path / "labels" / "P1.nrrd", mask)
    if layout == "nci-isbi":
        shutil.rmtree(tmp_path / "images" / name / "GT")
    told = problem(layouts.find(site(tmp_path, layout)), name)
    assert '"t2 small"' in told and '"t2 large"' in told and '"series"' in told
    same(layouts.read(only(layouts.find(site(tmp_path, layout, series="LARGE")))), image, mask)
    assert "matches" in problem(layouts.find(site(tmp_path, layout, series="^T1")), name)


def test_each_slices_own_rescaling_is_honoured(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_nci_isbi(tmp_path, image, mask)
    expected = image.astype(np.float32)
    for number in (2, 5):
        path = tmp_path / "images" / "P1" / "1.2" / "1.2.3" / f"{number:06d}.dcm"
        slope = b"\x28\x00\x53\x10\x02\x00\x00\x00"
        content = path.read_bytes()
        assert content.count(slope + b"1 ") == 1
        path.write_bytes(content.replace(slope + b"1 ", slope + b".5"))
        expected[number] *= 0.5
    same(layouts.read(only(layouts.find(config))), expected, mask)


@pytest.mark.parametrize("ending", ["_segmentation.nii.gz", "_Segmentation.nii.gz", "_SEGMENTATION.nii"])
def test_nifti_pairs_are_matched_whatever_their_case(tmp_path: Path, ending: str) -> None:
    image, mask = truth()
    write_volume(tmp_path / "images" / "Case00.nii.gz", image)
    write_volume(tmp_path / "images" / f"case00{ending}", mask)
    (tmp_path / "images" / "readme.txt").write_text("", encoding="utf-8")
    source = only(layouts.find(site(tmp_path, "nifti-pairs")))
    assert source.patient == "Case00"
    same(layouts.read(source), image, mask)


def test_an_image_without_mask_and_a_mask_without_image_are_told(tmp_path: Path) -> None:
    image, mask = truth()
    write_volume(tmp_path / "images" / "alone.nii.gz", image)
    write_volume(tmp_path / "images" / "lost_segmentation.nii.gz", mask)
    found = layouts.find(site(tmp_path, "nifti-pairs"))
    assert "no mask" in problem(found, "alone") and "no image" in problem(found, "lost")
    shutil.rmtree(tmp_path / "images")
    write_series(tmp_path / "images" / "P1", image, patient="alone")
    write_volume(tmp_path / "labels" / "lost.nrrd", mask)
    found = layouts.find(site(tmp_path, "nci-isbi"))
    assert "no label" in problem(found, "alone") and "no images" in problem(found, "lost")
    shutil.rmtree(tmp_path / "images")
    write_series(tmp_path / "images" / "Patient 1" / "T2W", image)
    write_series(tmp_path / "images" / "Patient 2" / "GT" / "prostate", mask.astype(np.int16))
    (tmp_path / "images" / "Patient 3" / "T2W").mkdir(parents=True)
    found = layouts.find(site(tmp_path, "i2cvb"))
    assert "no mask" in problem(found, "Patient 1") and "no image" in problem(found, "Patient 2")
    assert "empty" in problem(found, "Patient 3")


def test_two_files_for_one_patient_are_told(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_nci_isbi(tmp_path, image, mask)
    write_volume(tmp_path / "labels" / "P1_correctedLabels.nrrd", mask)
    assert "keep one" in problem(layouts.find(config), "P1")
    (tmp_path / "other").mkdir()
    config = as_nifti_pairs(tmp_path / "other", image, mask)
    write_volume(tmp_path / "other" / "images" / "Case00.nii", image)
    assert "keep a pair" in problem(layouts.find(config), "Case00")


@pytest.mark.parametrize("layout", ["nci-isbi", "i2cvb", "nifti-pairs"])
def test_a_folder_that_is_missing_or_holds_no_patient_is_told(tmp_path: Path, layout: str) -> None:
    config = site(tmp_path, layout)
    (tmp_path / "images" / "holiday.jpg").write_text("", encoding="utf-8")
    with pytest.raises(RelayError, match="no patient") as caught:
        layouts.find(config)
    one_sentence(str(caught.value))
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(RelayError, match='no folder .*"images"'):
        layouts.find(config)


def test_a_missing_folder_of_labels_is_told(tmp_path: Path) -> None:
    config = as_nci_isbi(tmp_path, *truth())
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(RelayError, match='no folder .*"masks"'):
        layouts.find(config)


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
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(folder / name))
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


@pytest.mark.parametrize("kind", [np.float64, np.int32, np.uint16, np.uint8])
def test_nifti_files_of_any_number_type_are_read(tmp_path: Path, kind: type) -> None:
    image, mask = truth()
    image = image % 250
    config = as_nifti_pairs(tmp_path, image.astype(kind), mask.astype(kind))
    same(layouts.read(only(layouts.find(config))), image, mask)


@pytest.mark.parametrize("write", [as_nci_isbi, as_i2cvb])
@pytest.mark.parametrize("left", [0, 100, 0.5, 0.99])
def test_a_truncated_slice_is_told_even_at_the_end_of_a_series(tmp_path: Path, write: Writer, left: float) -> None:
    config = write(tmp_path, *truth())
    path = next(path for path in tmp_path.rglob("000007.dcm") if "GT" not in path.parts)
    os.truncate(path, int(left if left > 1 else left * path.stat().st_size))
    patient = "P1" if write is as_nci_isbi else "Patient 1036"
    assert "000007.dcm cannot be read" in problem(layouts.find(config), patient)


def test_a_file_damaged_after_it_was_found_is_told(tmp_path: Path) -> None:
    source = only(layouts.find(as_nci_isbi(tmp_path, *truth())))
    source.image[3].write_bytes(b"")
    assert "cannot be read" in bad(source)
    source.image[3].unlink()
    assert "cannot be read" in bad(source)


def test_a_source_without_files_is_told() -> None:
    assert "empty" in bad(Source("P1", (), ()))


def test_a_slice_missing_in_an_image_is_told(tmp_path: Path) -> None:
    image, mask = truth()
    told = bad(only(layouts.find(as_nci_isbi(tmp_path, image, mask, without=(4,)))))
    assert "incomplete" in told and "6.00 mm after slice 4" in told


def test_a_slice_that_comes_twice_is_told(tmp_path: Path) -> None:
    config = as_nci_isbi(tmp_path, *truth())
    series = tmp_path / "images" / "P1" / "1.2" / "1.2.3"
    shutil.copy(series / "000003.dcm", series / "copy.dcm")
    assert "same place" in bad(only(layouts.find(config)))


def test_a_series_of_mixed_directions_is_told(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_nci_isbi(tmp_path, image, mask)
    series = tmp_path / "images" / "P1" / "1.2" / "1.2.3"
    write_series(series, image, axes=OBLIQUE, numbers=range(20, 28))
    assert "direction" in bad(only(layouts.find(config)))


def test_a_series_that_is_not_axial_is_told(tmp_path: Path) -> None:
    image, mask = truth()
    coronal = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)
    assert "axial" in problem(layouts.find(as_nci_isbi(tmp_path, image, mask, axes=coronal)), "P1")
    folder = tmp_path / "coronal"
    write_volume(folder / "images" / "c.nii.gz", image, axes=coronal)
    write_volume(folder / "images" / "c_segmentation.nii.gz", mask, axes=coronal)
    assert "not axial" in bad(only(layouts.find(site(folder, "nifti-pairs"))))


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


def test_mask_slices_at_irregular_distances_are_told(tmp_path: Path) -> None:
    image, mask = truth()
    patient = tmp_path / "images" / "Patient 1"
    write_series(patient / "T2W", image)
    for number, height in enumerate([0.0, 3.0, 4.7, 8.2]):
        write_series(
            patient / "GT" / "prostate",
            mask[number + 2 : number + 3].astype(np.int16),
            origin=ORIGIN + [0, 0, height],
            numbers=[number],
        )
    assert "irregular" in bad(only(layouts.find(site(tmp_path, "i2cvb"))))


def test_sources_are_sorted_by_patient(tmp_path: Path) -> None:
    image, mask = truth()
    names = [f"c{number}" for number in range(12)]
    random.Random(3).shuffle(names)
    for name in names:
        write_volume(tmp_path / "images" / f"{name}.nii.gz", image)
        write_volume(tmp_path / "images" / f"{name}_segmentation.nii.gz", mask)
    assert [s.patient for s in layouts.find(site(tmp_path, "nifti-pairs")).sources] == sorted(names)


def test_the_layouts_are_those_that_the_site_file_offers() -> None:
    assert list(layouts.known()) == ["i2cvb", "nci-isbi", "nifti-pairs"]


def test_the_pooled_site_has_no_patients_of_its_own(tmp_path: Path) -> None:
    as_nifti_pairs(tmp_path, *truth())
    path = tmp_path / "pooled.toml"
    path.write_text('name = "pooled"\nmembers = ["site.toml"]\n', encoding="utf-8")
    with pytest.raises(RelayError, match="members"):
        layouts.find(load_site(path))


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


def test_a_t1_is_not_taken_for_the_t2_that_is_missing(tmp_path: Path) -> None:
    image, mask = truth()
    config = site(tmp_path, "nci-isbi")
    write_series(tmp_path / "images" / "P1", image, description="T1W_TSE_AX")
    write_volume(tmp_path / "labels" / "P1.nrrd", mask)
    told = problem(layouts.find(config), "P1")
    assert "T1W_TSE_AX" in told and "T2" in told
    assert only(layouts.find(site(tmp_path, "nci-isbi", series="T1W"))).patient == "P1"
