"""A DICOM segmentation says what the mask says, frame by frame and voxel by voxel, on the images it was drawn on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.layouts.dicom import read_image
from client.inference.dicom_seg import check_installed, read_series, write_segmentation
from common.config.model import ModelConfig
from common.errors import RelayError
from tests.support.cards import SELECTED, card
from tests.support.layout_files import OBLIQUE, STRAIGHT, truth, write_series

highdicom = pytest.importorskip("highdicom", reason="highdicom is an extra: pip install 'prostate-relay[dicom-seg]'")
pydicom = pytest.importorskip("pydicom")


def segmented(
    folder: Path, axes: NDArray[np.float64], mask: NDArray[Any] | None = None, **on_the_card: Any
) -> tuple[Path, sitk.Image, Any]:
    """A series whose file names and instance numbers are in no order, a mask on it, and the segmentation as read."""
    image, drawn = truth()
    drawn = (drawn > 0).astype(np.uint8) if mask is None else mask
    series = write_series(folder / "series", image, axes=axes, numbers=(5, 2, 7, 0, 3, 6, 1, 4))
    files = sorted(series.iterdir())
    for file in files:
        header = pydicom.dcmread(file)
        header.FrameOfReferenceUID = "1.2.3.5"
        header.save_as(file)
    grid = read_image(files)
    on_grid = sitk.GetImageFromArray(drawn)
    on_grid.CopyInformation(grid)
    path = folder / "seg" / "out.dcm"
    write_segmentation(on_grid, read_series(files), card(**on_the_card), path)
    return series, on_grid, pydicom.dcmread(path)


@pytest.mark.parametrize("axes", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
def test_every_frame_is_the_mask_of_the_slice_that_it_refers_to(tmp_path: Path, axes: NDArray[np.float64]) -> None:
    series, mask, read = segmented(tmp_path, axes)
    sources = {str(header.SOPInstanceUID): header for header in map(pydicom.dcmread, series.iterdir())}
    frames = read.pixel_array
    assert frames.shape == (8, 32, 28)
    wanted = sitk.GetArrayFromImage(mask)
    referred = []
    for frame, item in zip(frames, read.PerFrameFunctionalGroupsSequence, strict=True):
        (derivation,) = item.DerivationImageSequence
        (source,) = derivation.SourceImageSequence
        header = sources[str(source.ReferencedSOPInstanceUID)]
        referred.append(str(source.ReferencedSOPInstanceUID))
        position = [float(value) for value in item.PlanePositionSequence[0].ImagePositionPatient]
        assert position == pytest.approx([float(value) for value in header.ImagePositionPatient], abs=1e-4)
        # Where this frame lies in the mask, by physical space alone.
        index = mask.TransformPhysicalPointToContinuousIndex(position)
        assert index == pytest.approx((0, 0, round(index[2])), abs=1e-3)
        assert np.array_equal(frame, wanted[round(index[2])])
    assert len(set(referred)) == 8, "one frame a SOP instance"
    shared = read.SharedFunctionalGroupsSequence[0]
    measures, plane = shared.PixelMeasuresSequence[0], shared.PlaneOrientationSequence[0]
    assert [float(value) for value in measures.PixelSpacing] == pytest.approx([0.5, 0.75])
    assert [float(value) for value in plane.ImageOrientationPatient] == pytest.approx([*axes[0], *axes[1]], abs=1e-6)
    listed = read.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {str(item.ReferencedSOPInstanceUID) for item in listed} == set(sources)


def test_highdicom_reads_the_same_volume(tmp_path: Path) -> None:
    series, mask, _ = segmented(tmp_path, OBLIQUE)
    read = highdicom.seg.segread(tmp_path / "seg" / "out.dcm")
    headers = read_series(sorted(series.iterdir()))
    got = read.get_pixels_by_source_instance([str(header.SOPInstanceUID) for header in headers])
    assert np.array_equal(got[..., 0], sitk.GetArrayFromImage(mask))


def test_the_segment_is_the_prostate_in_snomeds_words_drawn_by_these_weights(tmp_path: Path) -> None:
    series, _, read = segmented(tmp_path, STRAIGHT)
    assert read.Modality == "SEG" and read.SegmentationType == "BINARY"
    (segment,) = read.SegmentSequence
    assert (segment.SegmentNumber, segment.SegmentLabel, segment.SegmentAlgorithmType) == (1, "Prostate", "AUTOMATIC")
    category, kind = (
        segment.SegmentedPropertyCategoryCodeSequence[0],
        segment.SegmentedPropertyTypeCodeSequence[0],
    )
    assert (category.CodeValue, category.CodingSchemeDesignator) == ("91723000", "SCT")
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("41216001", "SCT", "Prostate")
    assert SELECTED in str(segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters)
    source = pydicom.dcmread(next(series.iterdir()))
    for name in ("PatientID", "StudyInstanceUID"):
        assert getattr(read, name) == getattr(source, name)
    assert read.SeriesInstanceUID != source.SeriesInstanceUID
    assert "research" in read.SeriesDescription


@pytest.mark.parametrize("axes", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
def test_zones_are_two_segments_with_codes_of_their_own(tmp_path: Path, axes: NDArray[np.float64]) -> None:
    drawn = truth()[1] % 3
    drawn[4, 12:14, 10:20], drawn[4, 14:18, 10:20] = 1, 2
    model = ModelConfig.model_validate({"target": "zones"})
    series, mask, read = segmented(tmp_path, axes, drawn.astype(np.uint8), model=model)
    found = [
        (int(one.SegmentNumber), one.SegmentLabel, code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning)
        for one in read.SegmentSequence
        for code in one.SegmentedPropertyTypeCodeSequence
    ]
    assert found == [
        (1, "Peripheral zone", "279706003", "SCT", "Peripheral zone of the prostate"),
        (2, "Central gland", "CG", "99RELAY", "Central gland of the prostate"),
    ]
    assert "zones" in read.SeriesDescription and "research" in read.SeriesDescription
    frames = read.pixel_array
    for frame, item in zip(frames, read.PerFrameFunctionalGroupsSequence, strict=True):
        number = int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        position = [float(value) for value in item.PlanePositionSequence[0].ImagePositionPatient]
        place = round(mask.TransformPhysicalPointToContinuousIndex(position)[2])
        assert np.array_equal(frame > 0, sitk.GetArrayFromImage(mask)[place] == number)
    got = highdicom.seg.segread(tmp_path / "seg" / "out.dcm").get_pixels_by_source_instance(
        [str(header.SOPInstanceUID) for header in read_series(sorted(series.iterdir()))]
    )
    assert np.array_equal(got[..., 0] + 2 * got[..., 1], sitk.GetArrayFromImage(mask))


def test_an_empty_mask_is_written_as_empty_frames(tmp_path: Path) -> None:
    _, _, read = segmented(tmp_path, STRAIGHT, np.zeros((8, 32, 28), np.uint8))
    assert read.pixel_array.shape == (8, 32, 28) and not read.pixel_array.any()


def test_without_highdicom_the_way_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "highdicom" else found(name, *more)
    )
    with pytest.raises(RelayError, match=r"pip install 'prostate-relay\[dicom-seg\]'"):
        check_installed()
    with pytest.raises(RelayError, match="highdicom"):
        read_series([tmp_path / "x.dcm"])


def test_a_series_in_one_file_is_told(tmp_path: Path) -> None:
    image, _ = truth()
    file = next(write_series(tmp_path / "s", image).iterdir())
    header = pydicom.dcmread(file)
    header.NumberOfFrames = 8
    header.save_as(tmp_path / "many.dcm")
    with pytest.raises(RelayError, match="one file a slice"):
        read_series([tmp_path / "many.dcm"])


def test_a_header_that_lacks_something_is_told(tmp_path: Path) -> None:
    image, mask = truth()
    headers = read_series(sorted(write_series(tmp_path / "s", image).iterdir()))
    drawn = sitk.GetImageFromArray((mask > 0).astype(np.uint8))
    with pytest.raises(RelayError, match="lacks what a DICOM segmentation has to repeat .*Frame Of Reference"):
        write_segmentation(drawn, headers, card(), tmp_path / "out.dcm")
    assert not list(tmp_path.glob("*.dcm")) and not list(tmp_path.glob(".*"))
