"""Segmentations and RTSTRUCT files that refer to a series, written element by element; the readers share none of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from tests.support.enhanced import SEGMENTATION, empty_file, item, write_enhanced
from tests.support.layout_files import ORIGIN, SPACING, STRAIGHT, Array

STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
MR = "1.2.840.10008.5.1.4.1.1.4"
PROSTATE = ("41216001", "SCT", "Prostate")
Polygon = Sequence[tuple[float, float]]
"""Corners as (column, row), in voxels."""


def instances(folder: Path) -> dict[float, str]:
    """The SOP instance UID of each slice of a series, by its place along the normal of unturned slices."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]
    return {
        round((float(one.ImagePositionPatient[2]) - ORIGIN[2]) / SPACING[0], 3): str(one.SOPInstanceUID)
        for one in headers
    }


def code(value: str, scheme: str, meaning: str) -> Any:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def write_seg(
    path: Path,
    segments: Mapping[str, Array],
    refers: Sequence[str],
    *,
    codes: Mapping[str, tuple[str, str, str]] | None = None,
    kind: str = "BINARY",
    per_frame: bool = False,
    patient: str = "P1",
    axes: NDArray[np.float64] = STRAIGHT,
    model: str = "",
) -> Path:
    """A segmentation with a frame for each slice that has any of a segment, or of a label map for each slice.

    Args:
        path: the file.
        segments: masks by SegmentLabel.
        refers: the SOP instance UIDs referred to: in one list, or (`per_frame`) each of its own frame's slice.
        codes: the type of a segment by label.
        kind: BINARY or LABELMAP.
        per_frame: whether the references stand frame by frame, for slices 0, 1, 2 … of `refers`.
        patient: the PatientID.
        axes: the directions of columns, rows and slices.
        model: ManufacturerModelName.
    """
    frames, places, numbers = [], [], []
    if kind == "LABELMAP":
        (first, *_) = segments.values()
        stack = np.zeros(first.shape, np.uint8)
        for number, mask in enumerate(segments.values(), start=1):
            stack[mask > 0] = number
        frames, places, numbers = list(stack), list(range(len(stack))), [0] * len(stack)
    else:
        for number, mask in enumerate(segments.values(), start=1):
            for index in np.flatnonzero(mask.any(axis=(1, 2))):
                frames.append(mask[index])
                places.append(int(index))
                numbers.append(number)

    def change(file: FileDataset) -> None:
        file.Modality, file.SegmentationType, file.SeriesDescription = "SEG", kind, "drawn"
        file.SegmentSequence = []
        for number, label in enumerate(segments, start=1):
            described = item(SegmentNumber=number, SegmentLabel=label, SegmentAlgorithmType="MANUAL")
            if codes and label in codes:
                described.SegmentedPropertyTypeCodeSequence = [code(*codes[label])]
            file.SegmentSequence.append(described)
        if model:
            file.ManufacturerModelName = model
        references = [item(ReferencedSOPClassUID=MR, ReferencedSOPInstanceUID=uid) for uid in refers]
        if not per_frame:
            file.ReferencedSeriesSequence = [item(SeriesInstanceUID="1.2.3.4", ReferencedInstanceSequence=references)]
        for group, number, place in zip(file.PerFrameFunctionalGroupsSequence, numbers, places, strict=True):
            if kind != "LABELMAP":
                group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=number)]
            if per_frame:
                group.DerivationImageSequence = [item(SourceImageSequence=[references[place]])]
        drawn = np.stack(frames)
        if kind == "LABELMAP":
            file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
            file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
            file.PixelData = drawn.astype(np.uint8).tobytes()
        else:
            file.BitsAllocated, file.BitsStored, file.HighBit = 1, 1, 0
            file.PixelData = np.packbits(drawn.ravel() > 0, bitorder="little").tobytes()
        if len(file.PixelData) % 2:
            file.PixelData += b"\0"

    return write_enhanced(
        path, frames, places, axes=axes, sop_class=SEGMENTATION, series="1.2.3.9", patient=patient, change=change
    )


def segment_series(path: Path, series: Path, mask: Array, label: str = "Prostate") -> Path:
    """A segmentation of any series, a file a slice, with the geometry of its files.

    Args:
        path: the file.
        series: the folder of the images; the names of its files are in the order of the mask's slices.
        mask: (slices, rows, columns).
        label: the SegmentLabel.
    """
    headers = [pydicom.dcmread(one, stop_before_pixels=True) for one in sorted(series.iterdir())]
    drawn = [index for index in range(len(headers)) if mask[index].any()]
    write_seg(path, {label: mask > 0}, [str(one.SOPInstanceUID) for one in headers], patient=str(headers[0].PatientID))
    file = pydicom.dcmread(path)
    shared = file.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = headers[0].ImageOrientationPatient
    shared.PixelMeasuresSequence[0].PixelSpacing = headers[0].PixelSpacing
    for group, index in zip(file.PerFrameFunctionalGroupsSequence, drawn, strict=True):
        group.PlanePositionSequence[0].ImagePositionPatient = headers[index].ImagePositionPatient
    first = headers[0]
    file.StudyInstanceUID, file.SeriesInstanceUID = first.StudyInstanceUID, f"{first.SeriesInstanceUID}.9"[-64:]
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = f"{first.SOPInstanceUID}.9"[-64:]
    file.save_as(path)
    return path


def write_rtstruct(
    path: Path,
    drawn: Mapping[str, Mapping[float, Sequence[Polygon]]],
    refers: Mapping[float, str],
    *,
    codes: Mapping[str, tuple[str, str, str]] | None = None,
    geometric: str = "CLOSED_PLANAR",
    patient: str = "P1",
    axes: NDArray[np.float64] = STRAIGHT,
    instance: bool = True,
) -> Path:
    """An RTSTRUCT; contours are given in voxels and written in mm.

    Args:
        path: the file.
        drawn: by ROIName, the polygons of each slice.
        refers: the SOP instance UID of each slice, from `instances`.
        codes: the identification code of a region by name.
        geometric: ContourGeometricType.
        patient: the PatientID.
        axes: the directions of columns, rows and slices.
        instance: whether each contour names its slice.
    """
    file = empty_file(STRUCTURES, patient=patient, series="1.2.3.11")
    file.Modality, file.StructureSetLabel, file.SeriesDescription = "RTSTRUCT", "drawn", "contours"
    images = [item(ReferencedSOPClassUID=MR, ReferencedSOPInstanceUID=uid) for uid in refers.values()]
    series = item(SeriesInstanceUID="1.2.3.4", ContourImageSequence=images)
    study = item(ReferencedSOPInstanceUID="1.2.3", RTReferencedSeriesSequence=[series])
    file.ReferencedFrameOfReferenceSequence = [item(FrameOfReferenceUID="1.2.5", RTReferencedStudySequence=[study])]
    file.StructureSetROISequence, file.ROIContourSequence, file.RTROIObservationsSequence = [], [], []
    for number, (name, slices) in enumerate(drawn.items(), start=1):
        file.StructureSetROISequence.append(item(ROINumber=number, ROIName=name, ROIGenerationAlgorithm="MANUAL"))
        contours = []
        for k, polygons in slices.items():
            for polygon in polygons:
                corners = np.array([(x * SPACING[2], y * SPACING[1], k * SPACING[0]) for x, y in polygon])
                points = ORIGIN + corners @ axes
                contour = item(ContourGeometricType=geometric, NumberOfContourPoints=len(points))
                contour.ContourData = [f"{value:.6f}" for value in points.ravel()]
                if instance and k in refers:
                    contour.ContourImageSequence = [item(ReferencedSOPClassUID=MR, ReferencedSOPInstanceUID=refers[k])]
                contours.append(contour)
        file.ROIContourSequence.append(item(ReferencedROINumber=number, ContourSequence=contours))
        observed = item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="ORGAN")
        if codes and name in codes:
            observed.RTROIIdentificationCodeSequence = [code(*codes[name])]
        file.RTROIObservationsSequence.append(observed)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def outline(mask: Array) -> dict[float, list[Polygon]]:
    """The polygons along the voxels' edges of a mask whose slices are each a rectangle or a union of rows."""
    found: dict[float, list[Polygon]] = {}
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        left, right = [], []
        for row in np.flatnonzero(mask[k].any(axis=1)):
            columns = np.flatnonzero(mask[k, row])
            assert np.all(np.diff(columns) == 1), "one piece a row"
            left += [(columns[0] - 0.5, row - 0.5), (columns[0] - 0.5, row + 0.5)]
            right += [(columns[-1] + 0.5, row - 0.5), (columns[-1] + 0.5, row + 0.5)]
        found[float(k)] = [left + right[::-1]]
    return found
