"""The gland or the zones of a DICOM segmentation or an RTSTRUCT as a mask: what `regions` chooses of its content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.layouts import Statement, contours, dicom, dicom_labels, regions
from client.data.layouts.size import check_voxels
from common.errors import RelayError
from common.target import ZONES
from common.text import count

OVERLAP = 0.05
"""The largest share of the smaller zone up to which two zones may overlap: outlines drawn by hand meet so."""


def read_label(
    path: Path, *, step: float, stated: Statement, image: sitk.Image | None, files: Sequence[Path]
) -> sitk.Image:
    """Return the gland of a label file, above 0, on the file's own grid; contours have the grid of their image.

    Where the site names zones, each has its label (`common.target.ZONES`); a patient without zones has the first label.

    Args:
        path: the file, one of `dicom_labels.is_label`.
        step: the image's distance between slices in mm.
        stated: the site's statements, with its names of regions and zones.
        image: the image of the label.
        files: the image's files.

    Raises:
        RelayError: the file cannot be read, no region of the file is the gland, or several are, or the zones overlap.
    """
    label = dicom_labels.read_label(path)
    if not stated.zone_names:
        several = len(label.regions) > 1
        chosen = regions.choose(label.regions, stated.roi) if several or stated.roi else label.regions
        return _gland(label, chosen, step=step, stated=stated, image=image, files=files)
    zones = regions.choose_zones(label.regions, stated.zone_names, stated.roi)
    masks = [
        _as_label(_gland(label, chosen, step=step, stated=stated, image=image, files=files), zone.label, path)
        for zone, chosen in zip(ZONES.zones, zones, strict=False)  # of a patient without zones, the gland alone
    ]
    return _apart(masks, path) if len(masks) > 1 else masks[0]


def _gland(
    label: dicom_labels.Label,
    chosen: Sequence[regions.Region],
    *,
    step: float,
    stated: Statement,
    image: sitk.Image | None,
    files: Sequence[Path],
) -> sitk.Image:
    """Return chosen regions of a label file as one mask, above 0."""
    path = label.file
    if label.kind == dicom_labels.CONTOURS:
        if image is None or not chosen:
            raise RelayError(f"{path} has no contours, or no image that they could be drawn on; give the two together.")
        return contours.read_contours(chosen, image, files)
    numbers = [region.number for region in chosen]
    if label.kind == dicom_labels.LABEL_MAP:
        raw = dicom.read_mask((path,), step=step, stated=stated)
        return _as_mask(raw, np.isin(np.rint(sitk.GetArrayViewFromImage(raw)), numbers)) if numbers else raw
    if len(label.regions) == 1:
        return dicom.read_mask((path,), step=step, stated=stated)
    return _united([dicom.read_mask((path,), step=step, stated=stated, segment=number) for number in numbers], path)


def _as_label(mask: sitk.Image, label: int, path: Path) -> sitk.Image:
    """Return a mask of one value as a mask of a zone's label."""
    values = sitk.GetArrayViewFromImage(mask)
    if len(np.unique(values[values != 0])) > 1:
        raise RelayError(f"A zone in {path} holds several values, as probabilities do; export it as a binary segment.")
    made = sitk.GetImageFromArray((values != 0) * np.float32(label))
    made.CopyInformation(mask)
    return made


def _apart(masks: Sequence[sitk.Image], path: Path) -> sitk.Image:
    """Return the masks of zones as one, each with its label; where outlines overlap a little, the later zone counts.

    Raises:
        RelayError: the zones overlap by more than `OVERLAP` of the smallest.
    """
    sizes = [int(np.count_nonzero(sitk.GetArrayViewFromImage(mask))) for mask in masks]
    together = _united(masks, path)
    shared = sum(sizes) - int(np.count_nonzero(sitk.GetArrayViewFromImage(together)))
    if shared > OVERLAP * min(sizes):
        raise RelayError(
            f"The zones in {path} overlap in {count(shared, 'voxel')}, and a voxel lies in one zone; correct them,"
            ' or name other segments or contours with "labels" in the site file.'
        )
    return together


def _united(masks: Sequence[sitk.Image], path: Path) -> sitk.Image:
    """Return masks of one file, which leave out different empty slices, as one: each voxel's largest value."""
    first = min(masks, key=lambda mask: _height(mask, mask.GetOrigin()))
    step = first.GetSpacing()[2]
    starts = [round((_height(first, mask.GetOrigin()) - _height(first, first.GetOrigin())) / step) for mask in masks]
    columns, rows, _ = first.GetSize()
    slices = max(start + mask.GetSize()[2] for start, mask in zip(starts, masks, strict=True))
    check_voxels(path, [columns, rows, slices])
    values = np.zeros((slices, rows, columns), np.float32)
    for start, mask in zip(starts, masks, strict=True):
        part = values[start : start + mask.GetSize()[2]]
        np.maximum(part, sitk.GetArrayViewFromImage(mask), out=part)
    made = sitk.GetImageFromArray(values)
    made.SetSpacing(first.GetSpacing())
    made.SetOrigin(first.GetOrigin())
    made.SetDirection(first.GetDirection())
    return made


def _height(mask: sitk.Image, point: Sequence[float]) -> float:
    return float(np.array(mask.GetDirection()).reshape(3, 3)[:, 2] @ np.array(point))


def _as_mask(raw: sitk.Image, gland: NDArray[np.bool_]) -> sitk.Image:
    made = sitk.GetImageFromArray(gland.astype(np.float32))
    made.CopyInformation(raw)
    return made
