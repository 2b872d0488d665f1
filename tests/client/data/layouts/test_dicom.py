"""A DICOM series is one volume, in order of position; what is no whole volume is told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from client import data_check
from client.data import layouts
from client.data.layouts import dicom
from client.data_check import words
from tests.support.enhanced import empty_file
from tests.support.layout_files import (
    OBLIQUE,
    Writer,
    as_i2cvb,
    as_nci_isbi,
    bad,
    only,
    problem,
    same,
    site,
    truth,
    write_series,
    write_volume,
)


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


def test_a_shortage_of_memory_is_not_the_files_fault_unless_it_claims_what_it_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = only(layouts.find(as_nci_isbi(tmp_path, *truth())))

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Failed to allocate memory for image.")

    monkeypatch.setattr(dicom.sitk, "ReadImage", fails)
    with pytest.raises(MemoryError):
        layouts.read(source)
    monkeypatch.setattr(dicom, "MOST_PACKED", 0)
    assert "cannot be read" in bad(source)


WITHOUT_PIXELS = {
    "report": "1.2.840.10008.5.1.4.1.1.88.11",
    "contours": "1.2.840.10008.5.1.4.1.1.481.3",
    "presentation state": "1.2.840.10008.5.1.4.1.1.11.1",
    "key objects": "1.2.840.10008.5.1.4.1.1.88.59",
    "document": "1.2.840.10008.5.1.4.1.1.104.1",
    "raw data": "1.2.840.10008.5.1.4.1.1.66",
    "registration": "1.2.840.10008.5.1.4.1.1.66.1",
    "of a maker's own": "1.3.46.670589.11.0.0.12.1",
}


@pytest.mark.parametrize("kind", WITHOUT_PIXELS.values(), ids=WITHOUT_PIXELS)
@pytest.mark.parametrize("place", ["beside the slices", "in a folder of its own"])
def test_objects_without_pixels_are_passed_over(tmp_path: Path, kind: str, place: str) -> None:
    image, mask = truth()
    config = as_nci_isbi(tmp_path, image, mask)
    folder = tmp_path / "images" / "P1" / "1.2" / ("1.2.3" if place.startswith("beside") else "1.2.9")
    folder.mkdir(exist_ok=True)
    empty_file(kind, series="1.2.9").save_as(folder / "9000.dcm", enforce_file_format=True)
    same(layouts.read(only(layouts.find(config))), image, mask)


def test_a_slice_cut_short_before_its_pixels_is_no_object_without_pixels(tmp_path: Path) -> None:
    """The slice would be passed over, and a series that ends with it would be read without it."""
    config = as_nci_isbi(tmp_path, *truth())
    path = tmp_path / "images" / "P1" / "1.2" / "1.2.3" / "000007.dcm"
    for left in range(0, path.stat().st_size - 2 * 32 * 28, 37):
        content = path.read_bytes()
        path.write_bytes(content[:left])
        assert "000007.dcm cannot be read" in problem(layouts.find(config), "P1"), left
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("PixelSpacing", None, "PixelSpacing"),
        ("PixelSpacing", "", "PixelSpacing"),
        ("PixelSpacing", ["0.5"], "PixelSpacing"),
        ("ImageOrientationPatient", None, "ImageOrientationPatient"),
        ("ImageOrientationPatient", "", "ImageOrientationPatient"),
        ("ImageOrientationPatient", ["0"] * 6, "ImageOrientationPatient"),
        ("ImagePositionPatient", None, "ImagePositionPatient"),
        ("PhotometricInterpretation", "MONOCHROME1", "MONOCHROME1"),
    ],
)
@pytest.mark.parametrize("slices", [slice(None), slice(4, 5)], ids=["in all slices", "in one"])
def test_geometry_that_a_series_does_not_state_is_told_by_the_fields_name(
    tmp_path: Path, key: str, value: Any, told: str, slices: slice
) -> None:
    config = as_nci_isbi(tmp_path, *truth())
    for path in sorted((tmp_path / "images" / "P1" / "1.2" / "1.2.3").iterdir())[slices]:
        header = pydicom.dcmread(path)
        if value is None:
            delattr(header, key)
        else:
            setattr(header, key, value)
        header.save_as(path)
    assert told in bad(only(layouts.find(config)))


def test_slices_missing_at_equal_distances_are_told_by_the_stated_distance(tmp_path: Path) -> None:
    config = as_nci_isbi(tmp_path, *truth(), without=(1, 3, 5, 7))
    assert "incomplete" in (told := bad(only(layouts.find(config)))) and "6.00" in told and "3.00" in told


def test_two_images_at_each_place_are_told_with_what_differs(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_nci_isbi(tmp_path, image, mask)
    series = tmp_path / "images" / "P1" / "1.2" / "1.2.3"
    write_series(series, image, uid="1.2.3.4", numbers=range(20, 28))
    for path in series.iterdir():
        header = pydicom.dcmread(path)
        header.EchoTime = "80" if path.name < "00001" else "160"
        header.save_as(path)
    told = bad(only(layouts.find(config)))
    assert "same place" in told and "EchoTime 80, 160" in told


@pytest.mark.parametrize("without", ["the preamble", "the preamble and the group of the file"])
def test_files_without_preamble_are_found_whatever_their_names(tmp_path: Path, without: str) -> None:
    image, mask = truth()
    config = as_nci_isbi(tmp_path, image, mask)
    series = tmp_path / "images" / "P1" / "1.2" / "1.2.3"
    for path in sorted(series.iterdir()):
        if without == "the preamble":
            path.write_bytes(path.read_bytes()[132:])
        else:
            bare = pydicom.Dataset()
            bare.update(pydicom.dcmread(path))
            bare.save_as(path, implicit_vr=True, little_endian=True)
            assert path.read_bytes()[:2] == b"\x08\x00"
        path.rename(series / path.stem)
    (series / "notes").write_text("a note", encoding="utf-8")
    same(layouts.read(only(layouts.find(config))), image, mask)


def test_patients_whose_identifier_an_anonymiser_made_equal_are_named_by_their_folders(tmp_path: Path) -> None:
    image, mask = truth()
    for k in range(3):
        write_series(tmp_path / "images" / f"case{k}" / "s", image + k, patient="ANON", uid=f"1.2.{k}")
        write_volume(tmp_path / "labels" / f"case{k}.nrrd", mask)
    found = layouts.find(site(tmp_path, "nci-isbi"))
    assert [source.patient for source in found.sources] == ["case0", "case1", "case2"] and not found.problems
    assert any('"ANON"' in note and "anonymiser" in note for note in found.notes)
    for k, source in enumerate(found.sources):
        np.testing.assert_array_equal(layouts.read(source).image, image + k)


@pytest.mark.parametrize(
    ("numbers", "in_all", "told"),
    [
        (range(8), None, ""),
        (range(8), "8", ""),
        (range(8), "10", "ImagesInAcquisition says 10"),
        (range(4, 12), None, "numbered from 5 to 12"),
        (range(7, -1, -1), None, ""),
        ((3, 9, 1, 12, 5, 7, 14, 16), None, ""),
    ],
)
def test_slices_that_may_be_missing_at_an_end_are_told_by_the_numbers(
    tmp_path: Path, numbers: Any, in_all: str | None, told: str
) -> None:
    image, mask = truth()
    config = as_nci_isbi(tmp_path, image, mask, numbers=numbers)
    for path in (tmp_path / "images").rglob("*.dcm"):
        header = pydicom.dcmread(path)
        if in_all:
            header.ImagesInAcquisition = in_all
        header.save_as(path)
    case = layouts.read(only(layouts.find(config)))
    same(case, image, mask)
    assert bool(case.remarks) is bool(told) and all(told in remark for remark in case.remarks)
    lines = [sentence for who, _, sentence in words.remarks(data_check.check(config, minimum_pixels=5)) if who == "P1"]
    assert any(told in line for line in lines) or not told


def in_mask(folder: Path, key: str, value: str | None) -> None:
    for path in (folder / "images" / "Patient 1036" / "GT" / "prostate").iterdir():
        header = pydicom.dcmread(path)
        if value is None:
            delattr(header, key)
        else:
            setattr(header, key, value)
        header.save_as(path)


def test_a_mask_needs_no_orientation_where_it_lies_on_its_image(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_i2cvb(tmp_path, image, mask)
    in_mask(tmp_path, "ImageOrientationPatient", None)
    same(layouts.read(only(layouts.find(config))), image, mask)


def test_a_mask_whose_values_are_turned_round_in_reading_is_told(tmp_path: Path) -> None:
    config = as_i2cvb(tmp_path, *truth())
    in_mask(tmp_path, "PhotometricInterpretation", "MONOCHROME1")
    assert "MONOCHROME1" in bad(only(layouts.find(config)))


@pytest.mark.parametrize(
    ("stated", "thickness", "told"),
    [("3", "3", False), ("0.5", "2.5", False), ("4", "3", True), ("2.5", "2.5", True), ("3.1", "3", False)],
)
def test_a_stated_distance_that_the_positions_contradict_is_told(
    tmp_path: Path, stated: str, thickness: str, told: bool
) -> None:
    image, mask = truth()
    config = as_nci_isbi(tmp_path, image, mask)
    for path in (tmp_path / "images").rglob("*.dcm"):
        header = pydicom.dcmread(path)
        header.SpacingBetweenSlices, header.SliceThickness = stated, thickness
        header.save_as(path)
    case = layouts.read(only(layouts.find(config)))
    same(case, image, mask)
    assert any("SpacingBetweenSlices" in remark and "3.00 mm" in remark for remark in case.remarks) is told
