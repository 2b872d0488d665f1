"""DICOM: list the series in a folder, and read a series as a volume.

SimpleITK's GDCM reads the files. Files are grouped by SeriesInstanceUID and ordered by ImagePositionPatient; names of
folders and files are not reliable.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.layouts import NOTHING_STATED, Statement, multiframe
from client.data.layouts.dicom_header import (
    B_VALUE,
    DESCRIPTION,
    ECHO_TIME,
    FRAMES,
    GAP_STATED,
    IMAGE_TYPE,
    IMAGES_IN_ACQUISITION,
    INSTANCE_NUMBER,
    INSTANCE_UID,
    INTERCEPT,
    MODALITY,
    ORIENTATION,
    PADDING,
    PATIENT_ID,
    PHOTOMETRIC,
    POSITION,
    SAMPLES,
    SCANNING_SEQUENCE,
    SERIES_DATE,
    SERIES_NUMBER,
    SERIES_UID,
    SLOPE,
    SOP_CLASS,
    STUDY_DATE,
    STUDY_UID,
    THICKNESS,
    Vector,
    axes_read,
    bytes_of,
    header_if_known,
    header_of,
    is_axial,
    looks_like_dicom,
    tag,
)
from client.data.layouts.geometry import ORIENTATION as AXES
from client.data.layouts.geometry import SPACING, check_stated_step
from client.data.layouts.multiframe import Plane
from client.data.layouts.series import Series
from client.data.layouts.size import MOST_PACKED, check_steps, check_voxels, raise_if_short
from common.errors import RelayError
from common.text import count

SPACINGS = {
    "0028|0030": "PixelSpacing",
    "0018|1164": "ImagerPixelSpacing",
    "0018|2010": "NominalScannedPixelSpacing",
}
"""The fields with the distances between pixels; which one counts depends on the kind of image."""
TOLD_APART = {
    "0018|0081": "EchoTime",
    "0018|9087": "DiffusionBValue",
    "0020|0012": "AcquisitionNumber",
    "0020|0100": "TemporalPositionIdentifier",
    "0008|0008": "ImageType",
}
"""The fields by which several images at one place may differ."""
ENHANCED = {f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("4.1", "4.3", "4.4", "2.1", "2.2", "66.4", "66.7", "128.1")}
"""SOP classes that state geometry frame by frame, even for a single frame: enhanced MR, CT and PET, segmentations."""

SAME_DIRECTION = 1e-3
"""The largest difference of two direction cosines that count as equal: 0.06 degrees."""
DRIFT_MM = 1.0
"""The largest shift of the slices of a stack against each other in plane, in mm."""
GAP = 0.1
"""The largest difference of a gap between slices from the usual gap, as a share of the usual gap."""


@dataclass(frozen=True)
class FoundSeries:
    """The DICOM series among some files, and the unreadable files."""

    series: tuple[Series, ...]
    damaged: tuple[Path, ...]
    """Files with DICOM's name or first bytes that cannot be read as an image."""


def scan(paths: Iterable[Path]) -> FoundSeries:
    """List the DICOM series among some files from headers alone (about 1 ms a file).

    Objects without pixels, such as reports, contours and presentation states, are passed over by their SOP class.
    """
    first: dict[tuple[str, str], Series] = {}
    files: dict[tuple[str, str], list[Path]] = defaultdict(list)
    instances: dict[tuple[str, str], set[str]] = defaultdict(set)
    damaged = []
    for path in sorted(paths):
        if not looks_like_dicom(path):
            continue
        try:
            header = header_if_known(path)
        except RelayError:
            damaged.append(path)
            continue
        if header is not None:
            found, instance = _series(header, path), tag(header, INSTANCE_UID)
        else:
            entries = multiframe.top(path)
            if entries.get("SOPClassUID") not in ENHANCED:
                if not multiframe.without_pixels(entries):
                    damaged.append(path)
                continue
            # GDCM refuses a file whose geometry is incomplete; which field is missing is told when the file is read.
            names = ("PatientID", "SeriesDescription", "SeriesInstanceUID", "Modality")
            patient, description, uid, modality = (entries.get(name, "") for name in names)
            study, instance = entries.get("StudyInstanceUID", ""), entries.get("SOPInstanceUID", "")
            found = Series(patient, description, True, (), uid=uid, modality=modality, study=study)
        key = found.patient, found.uid
        files[key].append(path)
        instances[key].add(instance)
        first.setdefault(key, found)
    whole = (
        replace(one, files=tuple(files[key]), instances=frozenset(instances[key] - {""})) for key, one in first.items()
    )
    return FoundSeries(tuple(whole), tuple(damaged))


def _series(header: sitk.ImageFileReader, path: Path) -> Series:
    """Return a series without files, from the header of its first file."""
    text = {"PatientID": tag(header, PATIENT_ID), "SeriesDescription": tag(header, DESCRIPTION)}
    # GDCM leaves the characters of other alphabets undecoded.
    if any("?" in value or not value.isprintable() for value in text.values()):
        text |= {name: value for name, value in multiframe.top(path).items() if name in text}
    numbers = multiframe.numbers_of(tag(header, ECHO_TIME))
    b_values = multiframe.numbers_of(tag(header, B_VALUE))
    return Series(
        patient=text["PatientID"],
        description=text["SeriesDescription"],
        axial=is_axial(axes_read(header)[2]),
        files=(),
        uid=tag(header, SERIES_UID),
        number=tag(header, SERIES_NUMBER),
        date=tag(header, SERIES_DATE) or tag(header, STUDY_DATE),
        modality=tag(header, MODALITY),
        image_type=tuple(word.strip().upper() for word in tag(header, IMAGE_TYPE).split("\\")),
        echo_ms=numbers[0] if numbers and numbers[0] > 0 else None,
        study=tag(header, STUDY_UID),
        diffusion=any(value > 0 for value in b_values) or "EP" in tag(header, SCANNING_SEQUENCE).split("\\"),
    )


def read_image(files: Sequence[Path], stated: Statement = NOTHING_STATED) -> sitk.Image:
    """Return a DICOM series as a float32 volume, its slices in order along the slice normal.

    Args:
        files: all files of the series, in any order; one file may hold several slices.
        stated: the site's statements, used where the files lack a field.

    Raises:
        RelayError: a file cannot be read or lacks geometry, the slices are no axial stack, or a slice is missing.
    """
    stack = _stack(files, stated)
    place = files[0].parent
    if not is_axial(stack.axes[2]):
        raise RelayError(f"The series in {place} is not axial; give the axial T2 series.")
    if len(stack.planes) < 3:
        raise RelayError(
            f"The series in {place} has {count(len(stack.planes), 'slice')}, no volume; add the missing files."
        )
    gaps = np.diff(stack.heights)
    usual = float(np.median(gaps))
    if np.any(np.abs(gaps - usual) > GAP * usual):
        where = int(np.argmax(np.abs(gaps - usual)))
        raise RelayError(
            f"The series in {place} is incomplete: slices lie {usual:.2f} mm apart, "
            f"but {gaps[where]:.2f} mm after slice {where + 1}; add the missing files."
        )
    _check_gap(str(place), usual, stack.planes[0])
    if stated.spacing_mm is not None and SPACING in lacking(files, stated):
        check_stated_step(str(place), usual, stated)
    pixels = _without_padding(_pixels(stack.planes), stack.planes)
    return _volume(pixels, stack, step=float(gaps.mean()))


def read_mask(
    files: Sequence[Path], *, step: float, stated: Statement = NOTHING_STATED, segment: int | None = None
) -> sitk.Image:
    """Return a DICOM series of mask slices as a float32 volume, with missing slices empty.

    Args:
        files: all files of the series, in any order.
        step: the image's distance between slices in mm, with which the mask's gaps are compared first.
        stated: the site's statements, used where the files lack a field.
        segment: the number of a segment, for a file that holds several.

    Raises:
        RelayError: a file cannot be read or lacks geometry, or the slices are no stack.
    """
    stack = _stack(files, stated, image=False, segment=segment)
    offsets = stack.heights - stack.heights[0]
    steps = [step, *np.diff(stack.heights)[:1]]
    if len(files) == 1 and stack.planes[0].gap:  # a segmentation leaves empty slices out, and states the distance
        steps.append(stack.planes[0].gap)
    for candidate in steps:
        places = np.rint(offsets / candidate).astype(int)
        regular = np.all(np.abs(offsets - places * candidate) <= GAP * candidate * np.maximum(1, places / 10))
        if regular and len(set(places)) == len(places):
            slices = _pixels(stack.planes)
            check_voxels(files[0].parent, [int(places[-1]) + 1, *slices.shape[1:]])
            filled = np.zeros((int(places[-1]) + 1, *slices.shape[1:]), np.float32)
            filled[places] = slices
            fitted = float(offsets[-1] / places[-1]) if places[-1] else float(candidate)
            return _volume(filled, stack, step=fitted)
    raise RelayError(
        f"The mask slices in {files[0].parent} lie at irregular distances; check that they are of one series."
    )


def doubts(files: Sequence[Path]) -> tuple[str, ...]:
    """Return sentences on tags that make a series doubtful: slices at an end may be missing, distances may be wrong.

    Args:
        files: all files of the series, each with one slice.
    """
    headers = [header for path in files if (header := header_if_known(path)) is not None]
    wanted = {tag(header, IMAGES_IN_ACQUISITION) for header in headers}
    numbers = sorted(int(text) for header in headers if (text := tag(header, INSTANCE_NUMBER)).isdigit())
    found = []
    if len(wanted) == 1 and (text := next(iter(wanted))).isdigit() and len(files) < int(text):
        found.append(f"The series has {len(files)} slices, and ImagesInAcquisition says {text}: some may be missing.")
    elif len(numbers) == len(files) > 1 and numbers[0] > 1 and numbers[-1] - numbers[0] == len(files) - 1:
        found.append(
            f"The slices are numbered from {numbers[0]} to {numbers[-1]} (InstanceNumber): the first"
            f" {numbers[0] - 1} may be missing."
        )
    heights = sorted(float(np.array(header.GetOrigin()) @ axes_read(header)[2]) for header in headers)
    gap, thickness = (multiframe.numbers_of(tag(headers[0], key)) for key in (GAP_STATED, THICKNESS))
    if len(heights) > 1 and gap and gap[0] > 0:
        step = float(np.median(np.diff(heights)))
        # Some scanners state the empty space between slices.
        alike = [gap[0], gap[0] + (thickness or [0.0])[0]]
        if all(abs(step / value - 1) > GAP for value in alike):
            found.append(
                f"The slices lie {step:.2f} mm apart by their positions, which are taken, and SpacingBetweenSlices says"
                f" {gap[0]:.2f} mm."
            )
    return tuple(found)


def lacking(files: Sequence[Path], stated: Statement) -> tuple[str, ...]:
    """Return what a series does not state and the site does: "spacing", "orientation", both or neither.

    Args:
        files: all files of the series.
        stated: the site's statements.
    """
    missing = []
    for what, without in ((SPACING, replace(stated, spacing_mm=None)), (AXES, replace(stated, orientation=""))):
        try:
            for path in files:
                _planes(path, without)
        except RelayError:
            missing.append(what)
    return tuple(missing)


@dataclass(frozen=True, eq=False)
class _Stack:
    planes: tuple[Plane, ...]
    """The slices in ascending order along the normal."""
    heights: Vector
    """Positions along the normal in mm, ascending."""
    axes: Vector
    """Three unit vectors as rows: along columns, along rows, the normal."""


def _stack(files: Sequence[Path], stated: Statement, *, image: bool = True, segment: int | None = None) -> _Stack:
    """Order a series' slices along the slice normal, whether each file holds one slice or several."""
    place = files[0].parent
    planes = [plane for path in files for plane in _planes(path, stated, image=image)]
    if segment is not None:
        planes = [plane for plane in planes if plane.told_apart.get("SegmentNumber") == str(segment)]
        if not planes:
            raise RelayError(f"Segment {segment} of {files[0]} has no frame; draw it, or export it again.")
    first = planes[0]
    segments = sorted({plane.told_apart["SegmentNumber"] for plane in planes if "SegmentNumber" in plane.told_apart})
    if len(segments) > 1:
        raise RelayError(
            f"The segmentation in {place} holds {len(segments)} segments (SegmentNumber {', '.join(segments[:6])});"
            " export the gland's alone."
        )
    check_voxels(place, [*first.size, len(planes)])
    check_steps(str(place), first.spacing)
    for plane in planes:
        if (
            plane.size != first.size
            or np.abs(plane.axes - first.axes).max() > SAME_DIRECTION
            or not np.allclose(plane.spacing, first.spacing, rtol=1e-3)
        ):
            raise RelayError(f"The slices in {place} differ in size or direction; give one series in one folder.")
    origins = np.array([plane.origin for plane in planes])
    if not np.isfinite(origins).all() or not np.isfinite(first.axes).all():
        raise RelayError(f"The slices in {place} lie at places that are no numbers; export them again.")
    heights = origins @ first.axes[2]
    order = np.argsort(heights, kind="stable")
    origins, heights = origins[order], heights[order]
    drift = (origins - origins[0]) @ first.axes[:2].T
    if np.abs(drift).max() > DRIFT_MM:
        raise RelayError(f"The slices in {place} do not lie above each other; give one series in one folder.")
    ordered = tuple(planes[i] for i in order)
    close = np.flatnonzero(np.diff(heights) < 0.01)
    if close.size:
        raise _same_place(
            [plane for plane, high in zip(ordered, heights, strict=True) if abs(high - heights[close[0]]) < 0.01]
        )
    return _Stack(ordered, heights, first.axes)


def _same_place(planes: Sequence[Plane]) -> RelayError:
    """Return the error about several images at one place, with what tells them apart."""
    differ = multiframe.differences(planes)
    what = f", which differ in {differ}" if differ else ""
    if len({plane.file for plane in planes}) == 1:
        return RelayError(
            f"{planes[0].file} holds {len(planes)} images at the same place{what}; export the T2 volume alone."
        )
    return RelayError(
        f"{planes[0].file} and {planes[1].file.name} are slices at the same place{what}; keep one series, once."
    )


def _planes(path: Path, stated: Statement, *, image: bool = True) -> list[Plane]:
    """Return the slices of a file with the geometry that the file states; a field that is missing is never assumed.

    A mask may leave out its orientation: it then has to lie on its image without a turn.
    """
    header = header_if_known(path)
    if header is None:
        if multiframe.sop_class(path) in ENHANCED:
            return multiframe.planes(path, stated)
        raise RelayError(f"{path} cannot be read; it is damaged or no DICOM image: copy it again.")
    if tag(header, FRAMES) not in ("", "1") or tag(header, SOP_CLASS) in ENHANCED:
        return multiframe.planes(path, stated)
    multiframe.grey(path, tag(header, PHOTOMETRIC), int(tag(header, SAMPLES) or 1))
    size = header.GetSize()
    origin = np.array(header.GetOrigin()) if tag(header, POSITION) else multiframe.position_of(path, None)
    orientation = tag(header, ORIENTATION)
    unturned = replace(stated, orientation=stated.orientation or "LPS")
    axes = multiframe.axes_of(path, orientation, stated if image else unturned)
    if orientation and np.abs(axes - axes_read(header)).max() > SAME_DIRECTION:
        raise RelayError(f"{path} states ImageOrientationPatient so that it is not understood; export it again.")
    apart = {name: said for key, name in TOLD_APART.items() if (said := tag(header, key))}
    gap = tag(header, GAP_STATED)
    return [
        Plane(
            file=path,
            size=size[:2],
            origin=origin,
            # GDCM's own numbers: those of earlier readings, to the last bit
            axes=axes_read(header) if orientation else axes,
            spacing=_spacing(path, header, stated),
            gap=float(gap) if re.fullmatch(r"[0-9.]+", gap) and float(gap) > 0 else None,
            padding=_padding(header),
            thickness=(multiframe.numbers_of(tag(header, THICKNESS)) or [0.0])[0],
            told_apart=apart,
        )
    ]


def _padding(header: sitk.ImageFileReader) -> float | None:
    """Return the rescaled value of pixels that show nothing; None where the file states none."""
    value = multiframe.numbers_of(tag(header, PADDING))
    slope, intercept = multiframe.numbers_of(tag(header, SLOPE)), multiframe.numbers_of(tag(header, INTERCEPT))
    return value[0] * (slope or [1.0])[0] + (intercept or [0.0])[0] if value else None


def _without_padding(pixels: NDArray[np.float32], planes: Sequence[Plane]) -> NDArray[np.float32]:
    """Return slices with the least other value in the place of padding that lies far off all other values.

    Padding within the range of the image, such as 0 in the air, is left as it is.
    """
    marked = np.zeros(pixels.shape, bool)
    for plane, slice_, mark in zip(planes, pixels, marked, strict=True):
        if plane.padding is not None:
            np.equal(slice_, np.float32(plane.padding), out=mark)
    if not marked.any() or marked.all():
        return pixels
    shown = pixels[~marked]
    least, most = float(shown.min()), float(shown.max())
    far = marked & ((pixels > most) | (pixels < least - (most - least)))
    return np.where(far, np.float32(least), pixels)


def _spacing(path: Path, header: sitk.ImageFileReader, stated: Statement) -> tuple[float, float]:
    """Return the millimetres between pixels, x and y, as the file states them, or else the site.

    Raises:
        RelayError: neither states them, or GDCM reads another spacing than the file states.
    """
    read = header.GetSpacing()[:2]
    for key, field in SPACINGS.items():
        if not tag(header, key):
            continue
        x, y = multiframe.spacing_of(path, tag(header, key))
        if not np.allclose((x, y), read, rtol=1e-4):
            raise RelayError(
                f"{path} states {field} {y:g} × {x:g} mm, and is read with {read[1]:g} × {read[0]:g} mm;"
                " export it again."
            )
        return read[0], read[1]
    return multiframe.spacing_of(path, None, stated)


def _check_gap(place: str, step: float, plane: Plane) -> None:
    """Check the distance between slices against SpacingBetweenSlices.

    Some scanners state the empty space between slices there, which is less than half of their thickness. So only a
    multiple of the stated distance is an error: slices that are missing at equal distances.

    Raises:
        RelayError: the slices lie two or more of the stated distances apart.
    """
    gap = plane.gap
    if gap is None or (gap < plane.thickness / 2 and abs((gap + plane.thickness) / step - 1) < GAP):
        return
    times = step / gap
    if 1.5 < times < 20 and abs(times - round(times)) < 0.02 * times:
        raise RelayError(
            f"The series in {place} is incomplete: its slices lie {step:.2f} mm apart, and SpacingBetweenSlices says"
            f" {gap:.2f} mm; add the missing files."
        )


def _volume(pixels: NDArray[np.float32], stack: _Stack, *, step: float) -> sitk.Image:
    volume = sitk.GetImageFromArray(pixels)
    volume.SetSpacing((*stack.planes[0].spacing, step))
    volume.SetOrigin(stack.planes[0].origin.tolist())
    volume.SetDirection(stack.axes.T.ravel().tolist())
    return volume


def _pixels(planes: Sequence[Plane]) -> NDArray[np.float32]:
    # Each file is read separately: a series reader takes the pixel type of the first slice for all slices, and rounds
    # where another slice has a rescale slope of its own.
    parts: dict[Path, NDArray[np.float32]] = {}
    framed: dict[Path, list[Plane]] = defaultdict(list)
    for plane in planes:
        if plane.frame is None:
            parts[plane.file] = sitk.GetArrayFromImage(_read(plane.file))
        else:
            framed[plane.file].append(plane)
    for path, chosen in framed.items():
        parts[path] = multiframe.pixels(path, chosen)
    taken = {path: iter(slices) for path, slices in parts.items()}
    return np.stack([next(taken[plane.file]) for plane in planes])


def _read(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(path), sitk.sitkFloat32, imageIO="GDCMImageIO")
    except RuntimeError as error:
        voxels = math.prod(header_of(path).GetSize())
        # with more voxels, the header claims more than the file holds, and the file is damaged
        if voxels <= MOST_PACKED * bytes_of(path):
            raise_if_short(str(error), voxels)
        raise RelayError(f"{path} cannot be read; it is damaged or no DICOM image: copy it again.") from None
