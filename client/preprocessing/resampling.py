"""In-plane resampling between a scanner's grid and the study's grid about their common centre.

A grid is a number of pixels and millimetres a pixel for each axis. Two grids share their centre, so that the position
of pixel k of n is (k - (n - 1) / 2) * spacing. Slices are mixed for networks in three dimensions alone, by
`resample_axis` along the first axis. Interpolation is linear; where the new grid is coarser, the tent widens to one new
pixel on either side, which prevents aliasing of finer detail.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.target import ZONES

Plane = tuple[float, float]
"""Millimetres from one row to the next, and from one column to the next."""


def resample(
    slices: NDArray[np.float32], spacing: Plane, new_shape: tuple[int, int], new_spacing: Plane
) -> NDArray[np.float32]:
    """Resample slices onto another grid with the same centre.

    The image ends half a pixel beyond the centres of its outermost pixels. Sums run in a fixed order, whatever the
    number of threads, so that the same input gives the same bytes.

    Args:
        slices: (n, rows, columns).
        spacing: millimetres a pixel of `slices`: row, column.
        new_shape: rows and columns of the new grid.
        new_spacing: millimetres a pixel of the new grid: row, column.

    Returns:
        (n, new rows, new columns); 0 where the new grid reaches beyond the image.
    """
    rows = resample_axis(slices, 1, spacing[0], new_shape[0], new_spacing[0])
    return resample_axis(rows, 2, spacing[1], new_shape[1], new_spacing[1])


def resample_axis(
    values: NDArray[np.float32], axis: int, spacing: float, new_n: int, new_spacing: float
) -> NDArray[np.float32]:
    """Resample one axis onto another grid with the same centre, as `resample` does with rows and columns.

    Args:
        values: (slices, rows, columns).
        axis: the axis to resample.
        spacing: millimetres from one of its pixels to the next.
        new_n: the new number of pixels.
        new_spacing: millimetres from one new pixel to the next.
    """
    index, weight = _taps(values.shape[axis], spacing, new_n, new_spacing)
    shape = [-1 if k == axis else 1 for k in range(values.ndim)]
    return sum(
        (np.take(values, index[:, k], axis=axis) * weight[:, k].reshape(shape) for k in range(1, index.shape[1])),
        start=np.take(values, index[:, 0], axis=axis) * weight[:, 0].reshape(shape),
    )


def resample_mask(
    mask: NDArray[np.bool_], spacing: Plane, new_shape: tuple[int, int], new_spacing: Plane
) -> NDArray[np.bool_]:
    """Resample a mask as `resample` does; a new pixel belongs to the mask if its value is at least one half."""
    return resample(mask.astype(np.float32), spacing, new_shape, new_spacing) >= 0.5


def larger_zone(shares: Sequence[NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Return the zone of the largest share at every voxel (`common.target.Zone.label`); of equal shares, the first.

    Args:
        shares: interpolated masks or probabilities of the zones, in the order of `common.target.ZONES`, all of one
            shape.
    """
    labels = np.array([zone.label for zone in ZONES.zones], dtype=np.uint8)
    larger: NDArray[np.uint8] = labels[np.argmax(np.stack(shares), axis=0)]
    return larger


def _taps(n: int, spacing: float, new_n: int, new_spacing: float) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the old pixels behind each new pixel of an axis, and their weights, both (new_n, taps).

    Args:
        n: the number of old pixels.
        spacing: millimetres an old pixel.
        new_n: the number of new pixels.
        new_spacing: millimetres a new pixel.
    """
    positions = (np.arange(new_n) - (new_n - 1) / 2) * (new_spacing / spacing) + (n - 1) / 2
    reach = max(1.0, new_spacing / spacing)
    first = np.floor(positions - reach).astype(np.intp)
    index = first[:, None] + np.arange(math.ceil(2 * reach) + 2)
    weight = np.maximum(0.0, 1.0 - np.abs(index - positions[:, None]) / reach)
    weight[(index < 0) | (index >= n)] = 0.0
    total = weight.sum(axis=1, keepdims=True)
    # A tolerance for rounding errors: if the new grid ends exactly with the image, its last pixel is kept.
    inside = (positions >= -0.5 - 1e-6) & (positions <= n - 0.5 + 1e-6)
    weight = np.where(inside[:, None], weight / np.where(total > 0, total, 1.0), 0.0)
    used = np.flatnonzero(weight.any(axis=0))
    keep = slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)
    return np.clip(index, 0, n - 1)[:, keep], weight[:, keep].astype(np.float32)
