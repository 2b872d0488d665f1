"""The values in a mask's file: which of them are gland, and which values are no labels at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.layouts import Part, Statement
from common.errors import RelayError
from common.target import ZONES
from common.text import listed

Counts = tuple[tuple[float, int], ...]
"""The values other than 0, ascending, each with its number of voxels."""

WHOLE = 1e-3
"""The largest distance from a whole number up to which a value is a label: conversions round."""
MOST = 64
"""The most values that are counted one by one; a mask with more is no mask of labels."""
FEW = 4
"""The most values that a sentence names."""
PARTS = 8
"""The most values of a mask whose size and place are measured."""


def counts(values: NDArray[Any]) -> Counts:
    """Return a mask's values other than 0 with their numbers of voxels; of more than `MOST` values, every n-th.

    Args:
        values: (slices, rows, columns).
    """
    found, numbers = np.unique(values[values != 0], return_counts=True)
    if len(found) > MOST:
        kept = np.unique(np.linspace(0, len(found) - 1, MOST).astype(int))
        found, numbers = found[kept], numbers[kept]
    return tuple((float(value), int(number)) for value, number in zip(found, numbers, strict=True))


def gland(raw: sitk.Image, found: Counts, place: str, stated: Statement) -> sitk.Image:
    """Return a mask's gland as uint8, above 0, on the mask's own grid: of zones that the site names, each one's label.

    Args:
        raw: the mask as it lies.
        found: its values, from `counts`.
        place: the name of its file or folder in an error's sentence.
        stated: the site's statements on the values of masks.

    Raises:
        RelayError: the mask holds values between whole numbers, and the site states no threshold.
    """
    if stated.mask_threshold is not None:
        return raw > stated.mask_threshold
    values = sitk.GetArrayViewFromImage(raw)
    between = values.dtype.kind == "f" and np.abs(values - np.rint(values)).max() > WHOLE
    if not between and len(found) == MOST:
        raise RelayError(
            f"The mask {place} holds {MOST} different values or more ({words(found)}), too many for labels: it is a"
            ' probability, or was interpolated; export it as labels, or say with "mask_threshold" in the site file'
            " above which value is gland."
        )
    if between:
        raise RelayError(
            f"The mask {place} holds values between whole numbers ({words(found)}): it is a probability, or was"
            ' interpolated; export it as labels, or say with "mask_threshold" in the site file above which value is'
            " gland."
        )
    if not stated.labels:
        return raw > WHOLE
    drawn = np.isin(np.rint(values), stated.labels).astype(np.uint8)
    for zone, named in zip(ZONES.zones, stated.zones, strict=False):  # none, where the site names no zones
        drawn[np.isin(np.rint(values), named)] = zone.label
    mask = sitk.GetImageFromArray(drawn)
    mask.CopyInformation(raw)
    return mask


def parts(raw: sitk.Image, found: Counts) -> tuple[Part, ...]:
    """Return what each value of a mask is like; nothing for a single value, or for more than `PARTS`.

    Args:
        raw: the mask as it lies.
        found: its values, from `counts`.
    """
    if not 2 <= len(found) <= PARTS:
        return ()
    upright = sitk.DICOMOrient(raw, "LPS")
    values = sitk.GetArrayViewFromImage(upright)
    voxel = float(np.prod(upright.GetSpacing())) / 1000
    down = np.array(upright.GetDirection()).reshape(3, 3)[1]
    middles, sizes = [], []
    for value, number in found:
        index = np.argwhere(values == value).mean(axis=0)[::-1]
        middles.append(float(down @ (index * np.array(upright.GetSpacing()))))
        sizes.append(number)
    middle = float(np.average(middles, weights=sizes))
    return tuple(
        Part(value, number * voxel, behind - middle) for (value, number), behind in zip(found, middles, strict=True)
    )


def words(found: Counts) -> str:
    """Return values as in "1, 2 and 255", or "0.02, 0.31, … and 0.98" where they are many; empty where none is."""
    texts = [f"{value:.4g}" for value, _ in found]
    if len(texts) > FEW:
        middle = len(texts) // 2
        texts = [texts[0], texts[middle], "…", texts[-1]]
    return listed(texts) if texts else ""
