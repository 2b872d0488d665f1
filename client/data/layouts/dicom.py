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

from client.data.layouts.size import MOST_BYTES, MOST_PACKED, check_steps, check_voxels, raise_if_short
from common.errors import RelayError
from common.text import count

PATIENT_ID, SERIES_UID, DESCRIPTION, POSITION = "0010|0020", "0020|000e", "0008|103e", "0020|0032"

SAME_DIRECTION = 1e-3
"""The largest difference of two direction cosines that count as equal: 0.06 degrees."""
DRIFT_MM = 1.0
"""The largest shift of the slices of a stack against each other in plane, in mm."""
GAP = 0.1
"""The largest difference of a gap between slices from the usual gap, as a share of the usual gap."""

DEFLATED = b"1.2.840.10008.1.2.1.99"
DEEPEST = 200
"""The deepest nesting of sequences that is read. Structured reports have about ten levels; GDCM's recursion ends after
thousands."""
_ITEM = re.compile(rb"(?:\xfe\xff[\x00\x0d]\xe0|\xff\xfe\xe0[\x00\x0d])(....)", re.DOTALL)
_ITEM_STARTS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_ITEM_ENDS = (b"\xfe\xff\x0d\xe0", b"\xff\xfe\xe0\x0d")

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """All files found of a DICOM series, sorted by path."""

    patient: str
    description: str
    axial: bool
    files: tuple[Path, ...]


@dataclass(frozen=True)
class FoundSeries:
    """The DICOM series among some files, and the unreadable files."""

    series: tuple[Series, ...]
    damaged: tuple[Path, ...]
    """Files with DICOM's name or first bytes that cannot be read as an image."""


def scan(paths: Iterable[Path]) -> FoundSeries:
    """List the DICOM series among some files from headers alone (about 1 ms a file)."""
    first: dict[tuple[str, str], Series] = {}
    files: dict[tuple[str, str], list[Path]] = defaultdict(list)
    damaged = []
    for path in sorted(paths):
        if not looks_like_dicom(path):
            continue
        try:
            header = _header(path)
        except RelayError:
            damaged.append(path)
            continue
        patient = tag(header, PATIENT_ID)
        key = patient, tag(header, SERIES_UID)
        files[key].append(path)
        if key not in first:
            first[key] = Series(patient, tag(header, DESCRIPTION), is_axial(_axes(header)[2]), ())
    return FoundSeries(tuple(replace(first[key], files=tuple(files[key])) for key in first), tuple(damaged))


def choose(candidates: Sequence[Series], pattern: str, *, place: str, key: str = '"series" in the site file') -> Series:
    """Return the axial T2 series among one patient's series.

    Args:
        candidates: the patient's series, at least one.
        pattern: the site's `series`. With an empty pattern, a SeriesDescription, where present, must contain "T2": a
            T1 series in the same folder would otherwise be taken for the T2.
        place: the folder of the series, for the error's sentence.
        key: the name of the pattern where the user writes it.

    Raises:
        RelayError: no series fits, or several do.
    """
    fitting = [series for series in candidates if series.axial]
    if not fitting:
        raise RelayError(f"None of the series in {place} is axial ({_names(candidates)}); add the axial T2 series.")
    if pattern:
        fitting = [series for series in fitting if re.search(pattern, series.description, re.IGNORECASE)]
        if not fitting:
            raise RelayError(f'No axial series in {place} matches "{pattern}" ({_names(candidates)}); change {key}.')
    else:
        fitting = [series for series in fitting if not series.description or "t2" in series.description.lower()]
        if not fitting:
            raise RelayError(
                f"No axial series in {place} calls itself a T2 ({_names(candidates)}); add the axial T2 series, "
                f"or say which it is with {key}."
            )
        fitting = [series for series in fitting if series.description] or fitting
    if len(fitting) > 1:
        raise RelayError(
            f"{len(fitting)} series in {place} could be meant ({_names(fitting)}); "
            f"say which with {key}, a regular expression for the SeriesDescription."
        )
    return fitting[0]


def read_image(files: Sequence[Path]) -> sitk.Image:
    """Return a DICOM series as a float32 volume, its slices in order along the slice normal.

    Raises:
        RelayError: a file cannot be read, the slices are no axial stack, or a slice is missing.
    """
    stack = _stack(files)
    place = files[0].parent
    axes = _axes(stack) if isinstance(stack, sitk.Image) else stack.axes
    if not is_axial(axes[2]):
        raise RelayError(f"The series in {place} is not axial; give the axial T2 series.")
    if isinstance(stack, sitk.Image):
        return stack
    if len(stack.files) < 3:
        raise RelayError(
            f"The series in {place} has {count(len(stack.files), 'slice')}, no volume; add the missing files."
        )
    gaps = np.diff(stack.heights)
    usual = float(np.median(gaps))
    if np.any(np.abs(gaps - usual) > GAP * usual):
        where = int(np.argmax(np.abs(gaps - usual)))
        raise RelayError(
            f"The series in {place} is incomplete: slices lie {usual:.2f} mm apart, "
            f"but {gaps[where]:.2f} mm after slice {where + 1}; add the missing files."
        )
    return _volume(_pixels(stack.files), stack, step=float(gaps.mean()))


def read_mask(files: Sequence[Path], *, step: float) -> sitk.Image:
    """Return a DICOM series of mask slices as a float32 volume, with missing slices empty.

    Args:
        files: all files of the series, in any order.
        step: the image's distance between slices in mm, with which the mask's gaps are compared first.

    Raises:
        RelayError: a file cannot be read, or the slices are no stack.
    """
    stack = _stack(files)
    if isinstance(stack, sitk.Image):
        return stack
    offsets = stack.heights - stack.heights[0]
    steps = [step, *np.diff(stack.heights)[:1]]
    for candidate in steps:
        places = np.rint(offsets / candidate).astype(int)
        regular = np.all(np.abs(offsets - places * candidate) <= GAP * candidate * np.maximum(1, places / 10))
        if regular and len(set(places)) == len(places):
            slices = _pixels(stack.files)
            check_voxels(files[0].parent, [int(places[-1]) + 1, *slices.shape[1:]])
            filled = np.zeros((int(places[-1]) + 1, *slices.shape[1:]), np.float32)
            filled[places] = slices
            fitted = float(offsets[-1] / places[-1]) if places[-1] else float(candidate)
            return _volume(filled, stack, step=fitted)
    raise RelayError(
        f"The mask slices in {files[0].parent} lie at irregular distances; check that they are of one series."
    )


def tag(header: sitk.ImageFileReader, key: str) -> str:
    """Return a header entry without its padding; empty where the header has no such entry."""
    if not header.HasMetaDataKey(key):
        return ""
    # Bytes outside UTF-8 arrive as surrogates, which no log or page could write.
    return header.GetMetaData(key).encode("utf-8", "replace").decode().strip(" \0")


def is_axial(normal: Vector) -> bool:
    """Return whether a slice normal (x, y, z) is closer to the body's long axis than to the other two."""
    return int(np.argmax(np.abs(normal))) == 2


@dataclass(frozen=True)
class _Stack:
    files: tuple[Path, ...]
    heights: Vector
    """Positions along the normal in mm, ascending."""
    origin: Vector
    axes: Vector
    """Three unit vectors as rows: along columns, along rows, the normal."""
    spacing: tuple[float, float]
    """Millimetres within a slice: x, y."""


def _stack(files: Sequence[Path]) -> _Stack | sitk.Image:
    """Order a series' files along the slice normal; a single file with a whole volume is returned as an image."""
    place = files[0].parent
    headers = [_header(path) for path in files]
    if len(files) == 1 and headers[0].GetSize()[2] > 1:
        check_voxels(files[0], headers[0].GetSize())
        return _read(files[0])
    first = headers[0]
    axes, size = _axes(first), first.GetSize()
    check_voxels(place, [*size, len(files)])
    check_steps(str(place), first.GetSpacing()[:2])
    for path, header in zip(files, headers, strict=True):
        if not tag(header, POSITION):
            raise RelayError(f"{path} does not say where its slice lies (ImagePositionPatient); export it again.")
        if (
            header.GetSize() != size
            or np.abs(_axes(header) - axes).max() > SAME_DIRECTION
            or not np.allclose(header.GetSpacing()[:2], first.GetSpacing()[:2], rtol=1e-3)
        ):
            raise RelayError(f"The slices in {place} differ in size or direction; give one series in one folder.")
    origins = np.array([header.GetOrigin() for header in headers])
    if not np.isfinite(origins).all() or not np.isfinite(axes).all():
        raise RelayError(f"The slices in {place} lie at places that are no numbers; export them again.")
    heights = origins @ axes[2]
    order = np.argsort(heights, kind="stable")
    origins, heights = origins[order], heights[order]
    drift = (origins - origins[0]) @ axes[:2].T
    if np.abs(drift).max() > DRIFT_MM:
        raise RelayError(f"The slices in {place} do not lie above each other; give one series in one folder.")
    close = np.flatnonzero(np.diff(heights) < 0.01)
    if close.size:
        one, other = files[order[close[0]]], files[order[close[0] + 1]]
        raise RelayError(f"{one} and {other.name} are slices at the same place; keep one series, once.")
    spacing = first.GetSpacing()
    return _Stack(tuple(files[i] for i in order), heights, origins[0], axes, (spacing[0], spacing[1]))


def _volume(pixels: NDArray[np.float32], stack: _Stack, *, step: float) -> sitk.Image:
    volume = sitk.GetImageFromArray(pixels)
    volume.SetSpacing((*stack.spacing, step))
    volume.SetOrigin(stack.origin.tolist())
    volume.SetDirection(stack.axes.T.ravel().tolist())
    return volume


def _pixels(files: Iterable[Path]) -> NDArray[np.float32]:
    # Each file is read separately: a series reader takes the pixel type of the first slice for all slices, and rounds
    # where another slice has a rescale slope of its own.
    return np.concatenate([sitk.GetArrayFromImage(_read(path)) for path in files])


def _read(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(path), sitk.sitkFloat32, imageIO="GDCMImageIO")
    except RuntimeError as error:
        voxels = math.prod(_header(path).GetSize())
        # with more voxels, the header claims more than the file holds, and the file is damaged
        if voxels <= MOST_PACKED * _bytes(path):
            raise_if_short(str(error), voxels)
        raise RelayError(f"{path} cannot be read; it is damaged or no DICOM image: copy it again.") from None


def _header(path: Path) -> sitk.ImageFileReader:
    if _ends_gdcm(path):
        raise RelayError(f"{path} cannot be read; it is deflated or damaged: export it again, uncompressed.")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.LoadPrivateTagsOff()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        # The error's text is not used: a damaged length asks for any amount of memory.
        raise_if_short("", _bytes(path))
        raise RelayError(f"{path} cannot be read; it is damaged or no DICOM image: copy it again.") from None
    return reader


def _bytes(path: Path) -> int:
    """Return a file's size in bytes; 0 where the file is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _ends_gdcm(path: Path) -> bool:
    """Return whether GDCM may end the process, which cannot be caught, when the file's header is read.

    GDCM fails on some files in the transfer syntax that deflates all but the first lines; no scanner uses this syntax.
    GDCM also reads nested sequences by recursion. The depth is estimated from items' tags and lengths alone, anywhere
    in the file: a few pixel values that look like tags add no depth.
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
    except OSError:
        return False
    if DEFLATED in content[:4096]:
        return True
    if not any(item in content for item in _ITEM_STARTS):  # true for nearly all files
        return False
    ends: list[float] = []
    for found in _ITEM.finditer(content):
        if found[0][:4] in _ITEM_ENDS:
            if ends:
                ends.pop()
            continue
        while ends and ends[-1] <= found.start():
            ends.pop()
        length = int.from_bytes(found[1], "little" if found[0][0] == 0xFE else "big")
        ends.append(math.inf if length == 0xFFFFFFFF else found.end() + length)
        if len(ends) > DEEPEST:
            return True
    return False


def _axes(header: sitk.ImageFileReader | sitk.Image) -> Vector:
    """Return unit vectors along columns and rows, and the slice normal, as rows."""
    return np.array(header.GetDirection()).reshape(3, 3).T


def looks_like_dicom(path: Path) -> bool:
    """Return whether a file is DICOM by its name, or else by its first 132 bytes."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _names(series: Sequence[Series]) -> str:
    return ", ".join(sorted(f'"{one.description or "no description"}"' for one in series))
