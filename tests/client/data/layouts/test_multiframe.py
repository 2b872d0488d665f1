"""Each frame of a multi-frame DICOM file is read with its own place, spacing and values, or the file is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset
from pydicom.uid import RLELossless

from client.data import layouts
from client.data.layouts import dicom
from client.inference.predict import find_scan
from client.site_config import SiteConfig
from common.errors import BadPatient, RelayError
from tests.support.enhanced import item, place_of, write_enhanced, write_segmentation
from tests.support.layout_files import (
    OBLIQUE,
    STRAIGHT,
    bad,
    one_sentence,
    only,
    same,
    site,
    truth,
    write_series,
    write_volume,
)

SLICES = 8


def with_image(folder: Path, **how: Any) -> SiteConfig:
    """A site of one patient, whose image is one enhanced file with the frames of `truth` in the given places."""
    image, mask = truth()
    places = how.pop("places", list(range(SLICES)))
    write_enhanced(folder / "images" / "P1" / "1.dcm", [image[int(k)] for k in places], places, **how)
    write_volume(folder / "labels" / "P1.nrrd", mask, axes=how.get("axes", STRAIGHT))
    return site(folder, "nci-isbi")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(SLICES)), oblique=st.booleans(), per_frame=st.booleans())
def test_the_order_of_the_frames_makes_no_difference(
    tmp_path: Path, order: list[int], oblique: bool, per_frame: bool
) -> None:
    shutil.rmtree(tmp_path / "images", ignore_errors=True)
    axes = OBLIQUE if oblique else STRAIGHT
    config = with_image(tmp_path, places=order, axes=axes, per_frame_spacing=per_frame)
    case = layouts.read(only(layouts.find(config)))
    same(case, *truth())
    np.testing.assert_allclose(case.origin, [float(value) for value in place_of(0)], atol=1e-5)
    np.testing.assert_allclose(np.array(case.direction).reshape(3, 3).T, axes, atol=1e-6)


def test_predict_reads_the_frames_in_the_same_way(tmp_path: Path) -> None:
    with_image(tmp_path, places=[1, 3, 5, 7, 0, 2, 4, 6])
    for path in (tmp_path / "images" / "P1", tmp_path / "images" / "P1" / "1.dcm"):
        scan = find_scan(path).image
        np.testing.assert_array_equal(sitk.GetArrayFromImage(scan), truth()[0])
        np.testing.assert_allclose(scan.GetSpacing(), (0.75, 0.5, 3.0), rtol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_each_frames_own_rescaling_is_honoured(tmp_path: Path, packed: bool) -> None:
    slopes = [(1 + 0.25 * k, 3.0 * k) for k in range(SLICES)]

    def change(file: FileDataset) -> None:
        if packed:
            file.compress(RLELossless)

    case = layouts.read(only(layouts.find(with_image(tmp_path, slopes=slopes, change=change))))
    expected = np.stack([plane * slope + more for plane, (slope, more) in zip(truth()[0], slopes, strict=True)])
    np.testing.assert_allclose(case.image, expected, rtol=1e-6)


def test_frames_in_a_compression_without_a_decoder_of_pydicoms_are_read(tmp_path: Path) -> None:
    image, _ = truth()
    volume = sitk.GetImageFromArray(image.astype(np.uint16))
    volume.SetSpacing((0.75, 0.5, 3.0))
    volume.SetOrigin((-12.0, -30.0, 40.0))
    (tmp_path / "images").mkdir()
    sitk.WriteImage(volume, str(tmp_path / "images" / "a.dcm"), useCompression=True, compressor="JPEG2000")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(dicom.read_image([tmp_path / "images" / "a.dcm"])), image)


@pytest.mark.parametrize("files", [2, SLICES])
def test_frames_spread_over_several_files_make_one_volume(tmp_path: Path, files: int) -> None:
    image, mask = truth()
    order = [3, 0, 6, 5, 1, 7, 2, 4]
    for k in range(files):
        places = order[k::files]
        path = tmp_path / "images" / "P1" / f"{k}.dcm"
        write_enhanced(path, [image[index] for index in places], places, number=k + 1)
    write_volume(tmp_path / "labels" / "P1.nrrd", mask)
    same(layouts.read(only(layouts.find(site(tmp_path, "nci-isbi")))), image, mask)


def echoes(field: str, group: str) -> Any:
    def change(file: FileDataset) -> None:
        for k, frame in enumerate(file.PerFrameFunctionalGroupsSequence):
            setattr(frame, group, [item(**{field: 80 if k < SLICES else 160})])

    return change


@pytest.mark.parametrize(
    ("field", "group", "told"),
    [
        ("EffectiveEchoTime", "MREchoSequence", "EchoTime 80"),
        ("DiffusionBValue", "MRDiffusionSequence", "DiffusionBValue 80"),
    ],
)
def test_several_volumes_in_one_file_are_told_with_what_differs(
    tmp_path: Path, field: str, group: str, told: str
) -> None:
    config = with_image(tmp_path, places=[*range(SLICES)] * 2, change=echoes(field, group))
    sentence = bad(only(layouts.find(config)))
    assert "2 images at the same place" in sentence and told in sentence and "160" in sentence


def drop(group: str, *, frames: bool) -> Any:
    def change(file: FileDataset) -> None:
        for one in file.PerFrameFunctionalGroupsSequence if frames else file.SharedFunctionalGroupsSequence:
            delattr(one, group)

    return change


def first(group: str, field: str, value: Any) -> Any:
    def change(file: FileDataset) -> None:
        setattr(getattr(file.SharedFunctionalGroupsSequence[0], group)[0], field, value)

    return change


def one_group_less(file: FileDataset) -> None:
    file.PerFrameFunctionalGroupsSequence = file.PerFrameFunctionalGroupsSequence[:-1]


def no_groups(file: FileDataset) -> None:
    del file.PerFrameFunctionalGroupsSequence, file.SharedFunctionalGroupsSequence


def turned_frame(file: FileDataset) -> None:
    turned = item(ImageOrientationPatient=["1", "0", "0", "0", "0", "-1"])
    file.PerFrameFunctionalGroupsSequence[3].PlaneOrientationSequence = [turned]


def wider_frame(file: FileDataset) -> None:
    file.PerFrameFunctionalGroupsSequence[3].PixelMeasuresSequence = [item(PixelSpacing=["0.7", "0.75"])]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"change": drop("PixelMeasuresSequence", frames=False)}, "PixelSpacing"),
        ({"change": first("PixelMeasuresSequence", "PixelSpacing", None)}, "PixelSpacing"),
        ({"change": first("PixelMeasuresSequence", "PixelSpacing", ["0", "0.5"])}, "PixelSpacing"),
        ({"change": drop("PlaneOrientationSequence", frames=False)}, "ImageOrientationPatient"),
        ({"change": drop("PlanePositionSequence", frames=True)}, "ImagePositionPatient"),
        ({"change": one_group_less}, "describes 7"),
        ({"change": no_groups}, "ImagePositionPatient"),
        ({"change": turned_frame}, "differ in size or direction"),
        ({"change": wider_frame}, "differ in size or direction"),
        ({"places": [0, 1, 2, 3, 5, 6, 7]}, "incomplete"),
        ({"places": [0, 2, 4, 6], "change": first("PixelMeasuresSequence", "SpacingBetweenSlices", "3")}, "incomplete"),
        ({"change": lambda file: setattr(file, "PhotometricInterpretation", "MONOCHROME1")}, "MONOCHROME1"),
        ({"change": lambda file: setattr(file, "PixelData", file.PixelData[:4000])}, "cannot be read"),
    ],
    ids=range(13),
)
def test_what_cannot_be_resolved_is_told(tmp_path: Path, how: dict[str, Any], told: str) -> None:
    config = with_image(tmp_path, **how)
    sentence = bad(only(layouts.find(config)))
    assert told in sentence and str(tmp_path) in sentence
    with pytest.raises(RelayError, match=told):
        find_scan(tmp_path / "images" / "P1")


def with_mask(folder: Path, mask: Any, **how: Any) -> SiteConfig:
    patient = folder / "images" / "Patient 1"
    write_series(patient / "T2W", truth()[0])
    write_segmentation(patient / "GT" / "prostate" / "seg.dcm", mask, **how)
    return site(folder, "i2cvb")


def test_a_segmentation_that_leaves_empty_slices_out_is_read_where_it_lies(tmp_path: Path) -> None:
    image, mask = truth()
    mask[6] = mask[4]  # an empty slice within
    same(layouts.read(only(layouts.find(with_mask(tmp_path, mask)))), image, mask)


def test_a_segmentation_of_several_segments_is_told(tmp_path: Path) -> None:
    sentence = bad(only(layouts.find(with_mask(tmp_path, truth()[1], segments=(1, 2)))))
    assert '"S1" and "S2"' in sentence and '"roi"' in sentence


def test_segments_on_slices_of_their_own_are_told_too(tmp_path: Path) -> None:
    """No place holds two of them, so that nothing else would tell a bladder above a prostate."""
    config = with_mask(tmp_path, truth()[1])
    path = tmp_path / "images" / "Patient 1" / "GT" / "prostate" / "seg.dcm"
    header = pydicom.dcmread(path)
    last = header.PerFrameFunctionalGroupsSequence[-1]
    last.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2
    header.save_as(path)
    assert "2 segments" in bad(only(layouts.find(config)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_read_or_told_in_a_sentence(tmp_path: Path, place: float, byte: int, cut: bool) -> None:
    shutil.rmtree(tmp_path / "images", ignore_errors=True)
    config = with_image(tmp_path, places=[3, 0, 6, 5, 1, 7, 2, 4], slopes=[(1.5, 2.0)] * SLICES)
    path = tmp_path / "images" / "P1" / "1.dcm"
    content = bytearray(path.read_bytes())
    header = content.index(b"\xe0\x7f\x10\x00")
    where = int(place * header)
    if cut:
        del content[where:]
    else:
        content[where] = byte
    path.write_bytes(content)
    found = layouts.find(config)
    for one in found.problems:
        one_sentence(one.sentence)
    for source in found.sources:
        try:
            case = layouts.read(source)
        except BadPatient as error:
            one_sentence(str(error))
        else:
            assert np.isfinite(case.image).all()
