"""Contours of an RTSTRUCT as a mask on the grid of the image that they were drawn on (DICOM PS3.3 C.8.8.6).

scikit-image fills each polygon: a voxel belongs to a contour if the voxel's centre lies inside. A contour inside of
another is a hole, and a contour inside of a hole is gland again; a contour that leads to its hole and back (a keyhole)
is one polygon, filled by the even-odd rule. Contours beside each other are united.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.layouts import multiframe
from client.data.layouts.dicom_header import INSTANCE_UID, header_if_known, tag
from client.data.layouts.regions import Region
from common.errors import RelayError
from common.text import count

BETWEEN = 0.2
"""The largest distance of a contour from a slice, and of its points from each other along the normal, in slices."""
INSIDE = 0.98
"""The least share of a contour's voxels within others with which it is a hole in them, or gland in their hole."""
SHIFT = np.array([1.0e-4, 1.3e-4])
"""Voxels by which contours are moved: edges through the centres of voxels take in one of two opposite rows, not both.
"""


@dataclass(frozen=True, eq=False)
class _Contour:
    points: NDArray[np.float64]
    """(points, 3), in mm, LPS."""
    flips: bool
    """Whether the file says that the contour flips what it covers (CLOSEDPLANAR_XOR)."""
    instance: str
    """The SOP instance UID of the slice that it was drawn on; empty where the file does not say."""


def read_contours(chosen: Sequence[Region], image: sitk.Image, files: Sequence[Path]) -> sitk.Image:
    """Return regions of an RTSTRUCT as one mask on the image's grid: uint8, 0 or 1.

    Args:
        chosen: the regions, all of one file.
        image: the image that they were drawn on.
        files: the image's files, by whose SOP instance UIDs the place of each contour is checked.

    Raises:
        RelayError: the contours cannot be read, lie on no slices of the image, or leave slices out.
    """
    path = chosen[0].file
    header = multiframe.read_header(path)
    places = _places(files, image) if len(files) > 1 else {}
    columns, rows, slices = image.GetSize()
    mask = np.zeros((slices, rows, columns), bool)
    for region in chosen:
        with multiframe.reading(path):
            found = _contours(header, region, path)
        on_slices: dict[int, list[tuple[NDArray[np.float64], bool]]] = defaultdict(list)
        for contour in found:
            index = _index(contour.points, image)
            k = _slice(path, region, index, places.get(contour.instance))
            on_slices[k].append((index[:, 1::-1] + SHIFT, contour.flips))
        _check_slices(path, region, sorted(on_slices))
        for k, polygons in on_slices.items():
            if 0 <= k < slices:
                mask[k] |= _filled(polygons, (rows, columns))
        _check_inside(path, region, on_slices, mask.shape)
    made = sitk.GetImageFromArray(mask.astype(np.uint8))
    made.CopyInformation(image)
    return made


def _contours(header: Any, region: Region, path: Path) -> list[_Contour]:
    found, other = [], set()
    for one in header.get("ROIContourSequence") or []:
        if int(one.ReferencedROINumber) != region.number:
            continue
        for item in one.get("ContourSequence") or []:
            kind = str(item.get("ContourGeometricType") or "").replace("_", "")
            if kind not in ("CLOSEDPLANAR", "CLOSEDPLANARXOR"):
                other.add(kind or "none")
                continue
            points = np.array(multiframe.numbers_of(item.get("ContourData")), float)
            if points.size % 3 or points.size < 9:
                raise RelayError(f'A contour of "{region.name}" in {path} is no polygon; export it again.')
            images = item.get("ContourImageSequence") or []
            instance = str(images[0].get("ReferencedSOPInstanceUID", "")) if len(images) == 1 else ""
            found.append(_Contour(points.reshape(-1, 3), kind == "CLOSEDPLANARXOR", instance))
    if "OPENPLANAR" in other or not found:
        kinds = ", ".join(sorted(other)) or "none"
        raise RelayError(
            f'"{region.name}" in {path} is not drawn by closed contours alone (ContourGeometricType {kinds}); close'
            " them, and export it again."
        )
    return found


def _index(points: NDArray[np.float64], image: sitk.Image) -> NDArray[np.float64]:
    """Return points as places on the grid, in voxels: x, y, z."""
    axes = np.array(image.GetDirection()).reshape(3, 3)
    found: NDArray[np.float64] = (points - np.array(image.GetOrigin())) @ axes / np.array(image.GetSpacing())
    return found


def _places(files: Sequence[Path], image: sitk.Image) -> dict[str, float]:
    """Return the place of each slice along the normal, in slices, by SOP instance UID."""
    headers = [header for path in files if (header := header_if_known(path)) is not None]
    return {tag(header, INSTANCE_UID): float(_index(np.array([header.GetOrigin()]), image)[0, 2]) for header in headers}


def _slice(path: Path, region: Region, index: NDArray[np.float64], drawn_on: float | None) -> int:
    """Return the number of the slice on which a contour lies."""
    heights = index[:, 2]
    k = round(float(heights.mean()))
    if np.abs(heights - k).max() > BETWEEN:
        where = "does not lie in the slices" if np.ptp(heights) > BETWEEN else "lies between the slices"
        raise RelayError(
            f'A contour of "{region.name}" in {path} {where} of its image; export image and contours together.'
        )
    if drawn_on is not None and abs(drawn_on - k) > 0.5:
        raise RelayError(
            f'A contour of "{region.name}" in {path} refers to one slice (SOP instance UID), and lies on another;'
            " export it again."
        )
    return k


def _check_slices(path: Path, region: Region, drawn: Sequence[int]) -> None:
    """Check that no slices were left out for a planning system to interpolate."""
    steps = np.diff(drawn)
    if steps.size and np.median(steps) > 1:
        raise RelayError(
            f'"{region.name}" in {path} has contours on {len(drawn)} of {drawn[-1] - drawn[0] + 1} slices alone; draw'
            " the others, or have the planning system interpolate them."
        )


def _check_inside(
    path: Path, region: Region, on_slices: Mapping[int, Sequence[tuple[NDArray[np.float64], bool]]], shape: Any
) -> None:
    """Check that contours lie within the image, by their corners."""
    inside = total = 0
    for k, polygons in on_slices.items():
        for points, _ in polygons:
            within = np.all((points >= -1) & (points <= shape[1:]), axis=1) & (0 <= k < shape[0])
            inside, total = inside + int(within.sum()), total + len(points)
    if inside < 0.9 * total:
        raise RelayError(
            f'"{region.name}" in {path} lies outside of its image with {count(total - inside, "corner")} of {total};'
            " export image and contours together."
        )


def _filled(polygons: Sequence[tuple[NDArray[np.float64], bool]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the voxels of one slice that its contours enclose.

    Args:
        polygons: corners as rows and columns, (points, 2), each with whether the polygon flips what it covers.
        shape: rows, columns.
    """
    from skimage.draw import polygon2mask  # imported here: few sites have contours

    drawn = [(polygon2mask(shape, points), flips) for points, flips in polygons]
    drawn.sort(key=lambda one: -np.count_nonzero(one[0]))
    gland, covered = np.zeros(shape, bool), np.zeros(shape, bool)
    seen: list[NDArray[np.bool_]] = []
    for filled, flips in drawn:
        if any(np.array_equal(filled, other) for other in seen):  # one contour, drawn or exported twice
            continue
        seen.append(filled)
        if flips:
            gland ^= filled
        elif np.count_nonzero(filled & covered) >= INSIDE * np.count_nonzero(filled):
            gland ^= filled & covered
        else:
            gland |= filled
        covered |= filled
    return gland
