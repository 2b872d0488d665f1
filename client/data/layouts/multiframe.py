"""Multi-frame DICOM (enhanced MR, segmentations): the geometry and values that a file states for each frame.

GDCM stacks the frames in the order of the file, with the spacing and the rescaling of the first. The standard allows
any order, and a position, spacing and rescaling for each frame, so this module reads the functional groups (DICOM PS3.3
C.7.6.16) by pydicom. GDCM is left with the decompression that pydicom has no decoder for.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from client.data.layouts import NOTHING_STATED, Statement
from client.data.layouts.size import MOST_BYTES, check_voxels
from common.errors import RelayError

if TYPE_CHECKING:
    import pydicom

Vector = NDArray[np.float64]

_STORAGE = "1.2.840.10008.5.1.4.1.1."
PIXELLESS = tuple(
    _STORAGE + kind
    for kind in ("88.", "11.", "481.3", "481.4", "481.5", "481.6", "481.7", "481.8", "481.9", "104.",
                 "9.", "66", "66.1", "66.2", "66.3", "66.5", "66.6", "4.2", "67", "68.", "78.", "79.", "80.", "200.")
)  # fmt: skip
"""SOP classes of objects without pixels: reports, presentation states, objects of radiotherapy (but for dose and
image), encapsulated documents, waveforms, registrations, raw data, spectra. Private SOP classes may be others."""

LONGEST = 40
"""The most characters of a value in a sentence."""
LONGEST_NAME = 128
"""The most characters of an entry; DICOM allows 64."""
FEW = 1e-3
"""The largest error of the length of a direction vector, and of the right angle between two of them."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice, with what its file states about the slice."""

    file: Path
    size: tuple[int, ...]
    """Columns, rows."""
    origin: Vector
    """The centre of the first pixel in mm, LPS."""
    axes: Vector
    """Three unit vectors as rows: along columns, along rows, the normal."""
    spacing: tuple[float, float]
    """Millimetres within the slice: x, y."""
    gap: float | None = None
    """The stated distance between slices in mm (SpacingBetweenSlices); None where the file states none."""
    thickness: float = 0.0
    """Millimetres (SliceThickness); 0 where the file states none."""
    frame: int | None = None
    """The number of the frame, from 0; None for a file of one slice."""
    rescale: tuple[float, float] = (1.0, 0.0)
    """Slope and intercept of a frame."""
    padding: float | None = None
    """The value, rescaled, of pixels that show nothing (PixelPaddingValue); None where the file states none."""
    told_apart: Mapping[str, str] = field(default_factory=dict)
    """Values by which images at one place may differ, such as the echo time, by the name of the field."""


def top(path: Path) -> dict[str, str]:
    """Return some entries of a file's header by keyword, as text; empty where the file is damaged.

    "Rows" is among them only where the file describes pixels.
    """
    keywords = (
        "SOPClassUID",
        "SOPInstanceUID",
        "PatientID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SeriesDescription",
        "Modality",
        "Rows",
    )
    try:
        with reading(path):
            # All of the file is parsed, so that a file cut short is damaged and not an object without pixels.
            header = _dataset(path, pixels=True)
            found = {name: header.get(name) for name in keywords}
            found["MediaStorageSOPClassUID"] = header.file_meta.get("MediaStorageSOPClassUID")
            # A damaged length may make any text of a name.
            return {name: str(value).strip(" \0")[:LONGEST_NAME] for name, value in found.items() if value is not None}
    except RelayError:
        return {}


def sop_class(path: Path) -> str:
    """Return a file's SOP class UID; empty where the file is damaged."""
    return top(path).get("SOPClassUID", "")


def without_pixels(entries: Mapping[str, str]) -> bool:
    """Return whether a file is an object of DICOM that has no pixels by its SOP class, such as a report.

    Args:
        entries: some entries of the file's header, from `top`.
    """
    kind = entries.get("SOPClassUID", "")
    # Cut short before its pixels, an image has no rows either, and perhaps half of its SOP class.
    if not kind or "Rows" in entries or kind != entries.get("MediaStorageSOPClassUID", kind):
        return False
    if not kind.startswith(_STORAGE):
        return not _STORAGE.startswith(kind)
    return any(kind == one or (one.endswith(".") and kind.startswith(one)) for one in PIXELLESS)


def planes(path: Path, stated: Statement = NOTHING_STATED) -> list[Plane]:
    """Return the frames of a multi-frame file, in the order of the file; no pixel is read.

    Args:
        path: the file.
        stated: the site's statements, used where the file lacks a field.

    Raises:
        RelayError: the file cannot be read, or does not state the geometry of every frame.
    """
    with reading(path):
        header = _dataset(path, pixels=False)
        frames = int(header.get("NumberOfFrames") or 1)
        groups = header.get("PerFrameFunctionalGroupsSequence") or []
        shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
        size = int(header.Columns), int(header.Rows)
    check_voxels(path, [*size, frames])
    grey(path, str(header.get("PhotometricInterpretation") or ""), int(header.get("SamplesPerPixel") or 1))
    if groups and len(groups) != frames:
        raise RelayError(
            f"{path} says that it has {frames} frames (NumberOfFrames), and describes {len(groups)}"
            " (PerFrameFunctionalGroupsSequence); export it again."
        )
    with reading(path):
        if not groups and shared is None:
            return _from_the_top(path, header, frames, size, stated)
        found = []
        for number in range(frames):
            items = [item for item in (groups[number] if groups else None, shared) if item is not None]
            found.append(_plane(path, header, items, number, size, stated))
    return found


def pixels(path: Path, chosen: Sequence[Plane]) -> NDArray[np.float32]:
    """Return frames of one file with each frame's own rescaling.

    Args:
        path: the file.
        chosen: its frames, in the order wanted.

    Returns:
        (frames, rows, columns).

    Raises:
        RelayError: the pixels cannot be read.
    """
    stored = _stored(path)
    columns, rows = chosen[0].size
    if stored.shape[1:] != (rows, columns) or len(stored) <= max(plane.frame or 0 for plane in chosen):
        raise RelayError(f"{path} cannot be read; its pixels are fewer than its header says: copy it again.")
    slices = [stored[plane.frame or 0] * plane.rescale[0] + plane.rescale[1] for plane in chosen]
    return np.stack(slices).astype(np.float32)


def differences(same_place: Sequence[Plane]) -> str:
    """Return in what images at one place differ, as in "EchoTime 80 and 160"; empty if in nothing known."""
    tables = [plane.told_apart for plane in same_place]
    names = sorted({name for table in tables for name in table})
    said = []
    for name in names:
        values = list(dict.fromkeys(table.get(name, "none") for table in tables))
        if len(values) > 1:
            said.append(f"{name} {', '.join(value[:LONGEST] for value in values[:4])}")
    return "; ".join(said)


def read_header(path: Path) -> pydicom.Dataset:
    """Return all that a file holds before its pixels.

    Raises:
        RelayError: the file cannot be read.
    """
    with reading(path):
        return _dataset(path, pixels=False)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn pydicom's errors, of any kind, into a RelayError, and drop its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (RelayError, MemoryError):
        raise
    except Exception:
        raise RelayError(f"{path} cannot be read; it is damaged or no DICOM image: copy it again.") from None


def _dataset(path: Path, *, pixels: bool) -> pydicom.Dataset:
    import pydicom

    # Its warnings quote values of the file, and would go to stderr.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.logger.setLevel("ERROR")
    if path.stat().st_size > MOST_BYTES:
        raise RelayError(f"{path} is larger than any image that is read; copy it again.")
    # From memory: a length that the file only claims would be allocated in reading from the disk.
    return pydicom.dcmread(io.BytesIO(path.read_bytes()), stop_before_pixels=not pixels, force=True)


def _plane(
    path: Path, header: Any, items: Sequence[Any], number: int, size: tuple[int, int], stated: Statement
) -> Plane:
    """Return a frame from its functional groups: its own first, then those of all frames, then the file's top."""
    position = _field(items, "PlanePositionSequence", "ImagePositionPatient")
    if position is None and int(header.get("NumberOfFrames") or 1) == 1:
        position = header.get("ImagePositionPatient")
    orientation = _field(items, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = _field(items, "PixelMeasuresSequence", "PixelSpacing")
    gap = _field(items, "PixelMeasuresSequence", "SpacingBetweenSlices")
    slope = _field(items, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _field(items, "PixelValueTransformationSequence", "RescaleIntercept")
    apart = {
        "EchoTime": _field(items, "MREchoSequence", "EffectiveEchoTime"),
        "DiffusionBValue": _field(items, "MRDiffusionSequence", "DiffusionBValue"),
        "TemporalPositionIndex": _field(items, "FrameContentSequence", "TemporalPositionIndex"),
        "FrameType": _field(items, "MRImageFrameTypeSequence", "FrameType"),
        "ComplexImageComponent": _field(items, "MRImageFrameTypeSequence", "ComplexImageComponent"),
        "SegmentNumber": _field(items, "SegmentIdentificationSequence", "ReferencedSegmentNumber"),
        "StackID": _field(items, "FrameContentSequence", "StackID"),
    }
    fraction = 1.0
    if header.get("SegmentationType") == "FRACTIONAL":
        fraction = 1 / float(header.get("MaximumFractionalValue") or 255)
    rescale = (
        fraction * _number(slope if slope is not None else header.get("RescaleSlope"), 1.0),
        fraction * _number(intercept if intercept is not None else header.get("RescaleIntercept"), 0.0),
    )
    padding = numbers_of(header.get("PixelPaddingValue"))
    return Plane(
        file=path,
        size=size,
        origin=position_of(path, position, number),
        axes=axes_of(path, orientation if orientation is not None else header.get("ImageOrientationPatient"), stated),
        spacing=spacing_of(path, spacing if spacing is not None else header.get("PixelSpacing"), stated),
        gap=_positive(gap),
        thickness=_number(_field(items, "PixelMeasuresSequence", "SliceThickness"), 0.0),
        frame=number,
        rescale=rescale,
        padding=padding[0] * rescale[0] + rescale[1] if padding else None,
        told_apart={name: str(value) for name, value in apart.items() if value is not None},
    )


def _from_the_top(path: Path, header: Any, frames: int, size: tuple[int, int], stated: Statement) -> list[Plane]:
    """Return the frames of a file that states the geometry of its first frame and the distance to the others."""
    origin = position_of(path, header.get("ImagePositionPatient"), 0)
    axes = axes_of(path, header.get("ImageOrientationPatient"), stated)
    spacing = spacing_of(path, header.get("PixelSpacing"), stated)
    gap = _positive(header.get("SpacingBetweenSlices"))
    offsets = header.get("GridFrameOffsetVector")
    if offsets is not None:
        steps = np.array([float(value) for value in offsets])
        steps -= steps[0]
    elif gap is not None:
        steps = np.arange(frames) * gap
    elif frames == 1:
        steps = np.zeros(1)
    else:
        raise _missing(path, "SpacingBetweenSlices")
    if len(steps) != frames:
        raise _missing(path, "GridFrameOffsetVector")
    rescale = _number(header.get("RescaleSlope"), 1.0), _number(header.get("RescaleIntercept"), 0.0)
    return [
        Plane(path, size, origin + step * axes[2], axes, spacing, gap, frame=number, rescale=rescale)
        for number, step in enumerate(steps)
    ]


def position_of(path: Path, value: Any, number: int | None = None) -> Vector:
    """Return ImagePositionPatient in mm.

    Raises:
        RelayError: the field is missing or no position.
    """
    of = "" if number is None else f" for frame {number + 1}"
    numbers = numbers_of(value)
    if len(numbers) != 3:
        raise RelayError(f"{path} does not say where its slice lies{of} (ImagePositionPatient); export it again.")
    return np.array(numbers)


def axes_of(path: Path, value: Any, stated: Statement = NOTHING_STATED) -> Vector:
    """Return unit vectors along columns and rows, and their normal, as rows, from ImageOrientationPatient.

    Raises:
        RelayError: neither the file nor the site states it, or its vectors are not at right angles.
    """
    numbers = numbers_of(value)
    if not numbers and stated.orientation:
        numbers = stated.axes()[:2].ravel().tolist()
    if not numbers:
        raise _missing(path, "ImageOrientationPatient", "orientation")
    pair = np.array(numbers).reshape(2, 3) if len(numbers) == 6 else np.zeros((2, 3))
    lengths = np.linalg.norm(pair, axis=1)
    if np.abs(lengths - 1).max() > FEW or abs(pair[0] @ pair[1]) > FEW:
        said = "\\".join(f"{number:g}" for number in numbers)
        raise RelayError(f"{path} states an impossible ImageOrientationPatient ({said}); export it again.")
    pair = pair / lengths[:, np.newaxis]
    return np.stack([*pair, np.cross(*pair)])


def spacing_of(path: Path, value: Any, stated: Statement = NOTHING_STATED) -> tuple[float, float]:
    """Return the millimetres between pixels, x and y, from PixelSpacing, which has y first.

    Raises:
        RelayError: neither the file nor the site states it, or it is impossible.
    """
    numbers = numbers_of(value)
    if not numbers and stated.spacing_mm is not None:
        numbers = list(stated.spacing_mm[1:])
    if not numbers:
        raise _missing(path, "PixelSpacing", "spacing_mm")
    if len(numbers) != 2 or min(numbers) <= 0:
        said = " × ".join(f"{number:g}" for number in numbers)
        raise RelayError(f"The pixels of {path} lie {said} mm apart by PixelSpacing, which cannot be; export it again.")
    return numbers[1], numbers[0]


def _missing(path: Path, field: str, key: str = "") -> RelayError:
    state = f', or state what is true with "{key}" in the site file' if key else ""
    return RelayError(f"{path} does not state {field}; export it again{state}.")


def _field(items: Sequence[Any], group: str, field: str) -> Any:
    for item in items:
        inner = item.get(group)
        if inner and (value := inner[0].get(field)) is not None and value != "":
            return value
    return None


def numbers_of(value: Any) -> list[float]:
    """Return the finite numbers of a field, given as numbers or as DICOM's text; empty where it holds no numbers."""
    if value is None:
        return []
    parts = value.split("\\") if isinstance(value, str) else value if hasattr(value, "__iter__") else [value]
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        return []
    return numbers if np.isfinite(numbers).all() else []


def _number(value: Any, default: float) -> float:
    numbers = numbers_of(value)
    return numbers[0] if numbers else default


def _positive(value: Any) -> float | None:
    number = _number(value, 0.0)
    return number if number > 0 else None


def grey(path: Path, interpretation: str, samples: int = 1) -> None:
    """Check that a larger pixel value means a brighter pixel, in a mask too: GDCM turns the values of others round.

    Args:
        path: the file.
        interpretation: the file's PhotometricInterpretation; empty where the file has none.
        samples: the file's SamplesPerPixel.

    Raises:
        RelayError: the pixels are colours, or black where the value is large.
    """
    if samples == 1 and interpretation in ("", "MONOCHROME2"):
        return
    what = "dark where its values are large" if interpretation == "MONOCHROME1" else "a picture in colours"
    raise RelayError(
        f"{path} is {what} (PhotometricInterpretation {interpretation or 'missing'}); give the scanner's own series."
    )


def _stored(path: Path) -> NDArray[Any]:
    """Return the stored values of all frames, before any rescaling: (frames, rows, columns)."""
    with reading(path):
        dataset = _dataset(path, pixels=True)
        try:
            found: NDArray[Any] = dataset.pixel_array
        except (NotImplementedError, RuntimeError, AttributeError):  # pydicom has no decoder here for these pixels
            if not dataset.file_meta.TransferSyntaxUID.is_compressed:
                raise
            found = _by_gdcm(path, dataset)
        return found if found.ndim == 3 else found[np.newaxis]


def _by_gdcm(path: Path, dataset: Any) -> NDArray[Any]:
    """Return the stored values of a compressed file. GDCM applies the first frame's rescaling, which is undone.

    Raises:
        RelayError: the values do not come out as whole numbers.
    """
    import SimpleITK as sitk

    values = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    bits = int(dataset.BitsStored)
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if int(dataset.PixelRepresentation) else (0, 1 << bits)
    for slope, intercept in (planes(path)[0].rescale, (1.0, 0.0)):
        stored = (values - intercept) / slope
        whole = np.rint(stored)
        if np.abs(stored - whole).max() < 1e-2 and low <= whole.min() and whole.max() < high:
            return whole
    raise RelayError(f"{path} is compressed in a way that cannot be read frame by frame; export it uncompressed.")
