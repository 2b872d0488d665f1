"""The gland of a DICOM segmentation or an RTSTRUCT as a mask: the segments or contours that `regions` chooses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.layouts import Statement, contours, dicom, dicom_labels, regions
from client.data.layouts.size import check_voxels
from common.errors import RelayError


def read_label(
    path: Path, *, step: float, stated: Statement, image: sitk.Image | None, files: Sequence[Path]
) -> sitk.Image:
    """Return the gland of a label file, above 0, on the file's own grid; contours have the grid of their image.

    Args:
        path: the file, one of `dicom_labels.is_label`.
        step: the image's distance between slices in mm.
        stated: the site's statements, with its names of regions.
        image: the image of the label.
        files: the image's files.

    Raises:
        RelayError: the file cannot be read, or no region of the file is the gland, or several are.
    """
    label = dicom_labels.read_label(path)
    several = len(label.regions) > 1
    chosen = regions.choose(label.regions, stated.roi) if several or stated.roi else label.regions
    if label.kind == dicom_labels.CONTOURS:
        if image is None or not chosen:
            raise RelayError(f"{path} has no contours, or no image that they could be drawn on; give the two together.")
        return contours.read_contours(chosen, image, files)
    numbers = [region.number for region in chosen]
    if label.kind == dicom_labels.LABEL_MAP:
        raw = dicom.read_mask((path,), step=step, stated=stated)
        return _as_mask(raw, np.isin(np.rint(sitk.GetArrayViewFromImage(raw)), numbers)) if numbers else raw
    if not several:
        return dicom.read_mask((path,), step=step, stated=stated)
    return _united([dicom.read_mask((path,), step=step, stated=stated, segment=number) for number in numbers], path)


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
