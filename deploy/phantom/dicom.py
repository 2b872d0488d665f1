"""Write volumes as hospitals keep them: a DICOM file for each slice, or a label volume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from common.digest import digest_of

__all__ = ["Frame", "series_image", "uid", "write_label", "write_series"]

# GDCM keeps state for the whole process, and two threads writing at the same time corrupt GDCM's memory.
_ONE_WRITER = Lock()


@dataclass(frozen=True)
class Frame:
    """Say where a volume lies in the patient: in SimpleITK's order x, y, z, in LPS coordinates, in mm."""

    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    """Nine numbers of a 3 × 3 matrix, row by row; its columns are the directions of the array's columns, rows and
    slices."""


def uid(*parts: object) -> str:
    """Return a DICOM UID made from `parts` alone, of the form 2.25.<integer> with at most 44 characters."""
    digest = digest_of("/".join(str(part) for part in parts).encode())
    return f"2.25.{int(digest[:30], 16)}"


def series_image(values: NDArray[np.generic], frame: Frame) -> sitk.Image:
    """Make an image of an array.

    Args:
        values: (slices, rows, columns).
        frame: where the array lies in the patient.
    """
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(frame.spacing)
    image.SetOrigin(frame.origin)
    image.SetDirection(frame.direction)
    return image


def write_series(
    folder: Path, values: NDArray[np.uint16], frame: Frame, *, tags: dict[str, str], names: list[str]
) -> None:
    """Write a DICOM series, with a file for each slice.

    Args:
        folder: gets the files.
        values: pixel values, (slices, rows, columns).
        frame: where the array lies in the patient.
        tags: values shared by all files, by "gggg|eeee"; at least 0020|000e, the series.
        names: a file name for each slice, in the order of `values`.

    Raises:
        OSError, RuntimeError: a file could not be written completely.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start, normal = np.array(frame.origin), np.array(frame.direction[2::3])
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    across, down = frame.direction[0::3], frame.direction[1::3]
    for index, name in enumerate(names):
        position = start + normal * frame.spacing[2] * index
        piece = series_image(values[index : index + 1], replace(frame, origin=tuple(position.tolist())))
        own = {
            **tags,
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": uid(tags["0020|000e"], index),
            "0008|0060": "MR",
            "0018|0050": f"{frame.spacing[2]:.9g}",
            "0018|0088": f"{frame.spacing[2]:.9g}",
            "0020|0013": str(index + 1),
            "0020|0032": "\\".join(f"{value:.9g}" for value in position),
            "0020|0037": "\\".join(f"{value:.9g}" for value in (*across, *down)),
            "0028|0030": f"{frame.spacing[1]:.9g}\\{frame.spacing[0]:.9g}",
            # without these three tags, GDCM's output depends on whether the process has read a DICOM file before
            "0028|1052": "0",
            "0028|1053": "1",
            "0028|1054": "US",
        }
        for tag, value in own.items():
            piece.SetMetaData(tag, value)
        path = folder / name
        writer.SetFileName(str(path))
        with _ONE_WRITER:
            writer.Execute(piece)
        if path.stat().st_size < values[index].nbytes:  # a full disk does not always raise
            raise OSError(f"{path} is shorter than its pixels")


def write_label(path: Path, values: NDArray[np.generic], frame: Frame) -> None:
    """Write a label volume; the ending of the file's name selects the format.

    Args:
        path: the file.
        values: labels, (slices, rows, columns).
        frame: where the array lies in the patient.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _ONE_WRITER:
        sitk.WriteImage(series_image(values, frame), str(path), useCompression=True)
