"""Multi-frame DICOM files, written element by element with pydicom; the reader shares none of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.support.layout_files import ORIGIN, SPACING, STRAIGHT, Array

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def place_of(index: float, axes: NDArray[np.float64] = STRAIGHT) -> list[str]:
    return [f"{value:.6f}" for value in ORIGIN + index * SPACING[0] * axes[2]]


def item(**values: Any) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def empty_file(sop_class: str, *, patient: str = "P1", series: str = "1.2.3.4", number: int = 1) -> FileDataset:
    """The header of a file without pixels and without geometry."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = f"{series}.{number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = sop_class, f"{series}.{number}"
    file.Modality = "MR"
    file.PatientName = file.PatientID = patient
    file.StudyInstanceUID, file.SeriesInstanceUID = "1.2.3", series
    file.SeriesDescription = "T2W_TSE_AX"
    return file


def write_enhanced(
    path: Path,
    frames: Sequence[Array],
    places: Sequence[float],
    *,
    axes: NDArray[np.float64] = STRAIGHT,
    slopes: Sequence[tuple[float, float]] | None = None,
    change: Callable[[FileDataset], None] | None = None,
    per_frame_spacing: bool = False,
    **header: Any,
) -> Path:
    """One file: frame k shows slice `places[k]`; `change` alters the file before it is written."""
    stack = np.stack(list(frames)).astype(np.uint16)
    file = empty_file(header.pop("sop_class", ENHANCED_MR), **header)
    file.Rows, file.Columns, file.NumberOfFrames = *stack.shape[1:], len(stack)
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 0
    measures = item(PixelSpacing=[str(SPACING[1]), str(SPACING[2])], SliceThickness=str(SPACING[0]))
    orientation = item(ImageOrientationPatient=[f"{value:.9f}" for value in (*axes[0], *axes[1])])
    shared = item(PlaneOrientationSequence=[orientation])
    if not per_frame_spacing:
        shared.PixelMeasuresSequence = [measures]
    groups = []
    for k, index in enumerate(places):
        group = item(
            FrameContentSequence=[item(StackID="1", DimensionIndexValues=[1, k + 1])],
            PlanePositionSequence=[item(ImagePositionPatient=place_of(index, axes))],
        )
        if per_frame_spacing:
            group.PixelMeasuresSequence = [measures]
        if slopes is not None:
            slope, intercept = slopes[k]
            value = item(RescaleSlope=f"{slope:g}", RescaleIntercept=f"{intercept:g}", RescaleType="US")
            group.PixelValueTransformationSequence = [value]
        groups.append(group)
    file.SharedFunctionalGroupsSequence = [shared]
    file.PerFrameFunctionalGroupsSequence = groups
    file.PixelData = stack.tobytes()
    if change is not None:
        change(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def write_segmentation(
    path: Path,
    mask: Array,
    *,
    kind: str = "BINARY",
    segments: Sequence[int] = (1,),
    most: int = 255,
) -> Path:
    """A segmentation as highdicom and dcmqi write it: a frame for each slice that has any of a segment."""
    frames, places, numbers = [], [], []
    for segment in segments:
        for index, plane in enumerate(mask):
            if plane.any():
                frames.append(plane)
                places.append(index)
                numbers.append(segment)

    def change(file: FileDataset) -> None:
        file.Modality, file.SegmentationType = "SEG", kind
        file.SegmentSequence = [item(SegmentNumber=segment, SegmentLabel=f"S{segment}") for segment in segments]
        for group, number in zip(file.PerFrameFunctionalGroupsSequence, numbers, strict=True):
            group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=number)]
        stack = np.stack(frames)
        if kind == "FRACTIONAL":
            file.MaximumFractionalValue = most
            file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
            file.PixelData = stack.astype(np.uint8).tobytes()
        else:
            file.BitsAllocated, file.BitsStored, file.HighBit = 1, 1, 0
            file.PixelData = np.packbits(stack.ravel() > 0, bitorder="little").tobytes()
        if len(file.PixelData) % 2:
            file.PixelData += b"\0"

    return write_enhanced(path, frames, places, sop_class=SEGMENTATION, series="1.2.3.9", change=change)
