"""Facts of file headers that reading hides: the stored orientation of axes, and the image on whose grid a mask lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from client.data.layouts import Source, volumes
from client.data_check.outline import View
from common.errors import RelayError

NEAR = 1.01
"""The greatest distance, in voxels, between the first voxels of two equal grids: half a voxel is common."""


@dataclass(frozen=True)
class VoxelGrid:
    """The place of a volume, in SimpleITK's order: columns, rows, slices; millimetres, LPS."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def same_as(self, other: VoxelGrid) -> bool:
        """Return whether another grid is the same, up to `NEAR` voxels."""
        if self.size != other.size or not np.allclose(self.spacing, other.spacing, rtol=0.01):
            return False
        if not np.allclose(self.direction, other.direction, atol=0.02):
            return False
        apart = np.subtract(self.origin, other.origin) @ np.array(self.direction).reshape(3, 3)
        return bool(np.all(np.abs(apart) <= NEAR * np.array(self.spacing)))


def axes(files: Sequence[Path]) -> str:
    """Return the orientation of a file's axes as three letters such as LPS: columns, rows, slices; empty if unknown."""
    if not files:
        return ""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(files[0]))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return ""
    direction = reader.GetDirection()
    if len(direction) == 16:
        direction = tuple(np.array(direction).reshape(4, 4)[:3, :3].ravel())
    if len(direction) != 9:
        return ""
    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction))


def owners(suspects: Sequence[Source], sources: Sequence[Source], views: Mapping[str, View]) -> dict[str, str]:
    """Return the patient on whose image grid a mask lies, for masks off the grid of their own patient's image.

    A mask file under a wrong name keeps its header, and a mask drawn on a volume has the volume's header. A mask is
    returned only if its grid is the grid of exactly one other patient's image.

    Args:
        suspects: the patients whose masks are examined; their files are read once more.
        sources: all patients; the images of patients without a view are read.
        views: the kept part of each image, by patient.

    Returns:
        By the patient of the mask, the patient of the image.
    """
    if not suspects:
        return {}
    grids = {name: _of_view(view) for name, view in views.items()}
    for source in sources:
        if source.patient not in grids:
            try:
                image = volumes.read_image(source.image, channel=source.channel, stated=source.stated)
                grids[source.patient] = _of_volume(image)
            except RelayError:
                continue
    found = {}
    for source in suspects:
        own = grids.get(source.patient)
        if own is None:
            continue
        try:
            mask = _of_volume(volumes.read_mask(source.mask, step=own.spacing[2], stated=source.stated))
        except RelayError:
            continue
        fitting = [name for name, grid in grids.items() if name != source.patient and mask.same_as(grid)]
        if len(fitting) == 1 and not mask.same_as(own):
            found[source.patient] = fitting[0]
    return found


def _of_view(view: View) -> VoxelGrid:
    return VoxelGrid(view.shape[::-1], view.spacing[::-1], view.origin, view.direction)


def _of_volume(volume: sitk.Image) -> VoxelGrid:
    return VoxelGrid(volume.GetSize(), volume.GetSpacing(), volume.GetOrigin(), volume.GetDirection())
