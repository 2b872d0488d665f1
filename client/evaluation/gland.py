"""How much gland a segmentation draws, and how well it draws the gland's apex, middle and base."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common import metrics

Thirds = tuple[slice, slice, slice]
"""The slices of apex, middle and base."""


def volume_error_ml(
    predicted: NDArray[np.bool_], expert: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> float:
    """Return the predicted volume minus the expert's, in millilitres; negative where too little is drawn.

    Args:
        predicted: (slices, rows, columns), all slices.
        expert: the same shape.
        spacing: millimetres from the centre of a voxel to the next: slice, row, column.
    """
    voxels = int(np.count_nonzero(predicted)) - int(np.count_nonzero(expert))
    return voxels * math.prod(spacing) / 1000


def thirds(expert: NDArray[np.bool_]) -> Thirds | None:
    """Return the slices of apex, middle and base: thirds of the slices from the first to the last slice with gland.

    Apex and base have equally many slices; where the slices cannot be divided by three, the middle has one slice more
    or one slice fewer.

    Args:
        expert: the expert's mask, (slices, rows, columns), with slice 0 at the feet, where the apex is.

    Returns:
        Three slices along the first axis, which follow one another without a gap; None for fewer than three slices,
        which have no thirds.
    """
    with_gland = np.flatnonzero(expert.any(axis=(1, 2)))
    if len(with_gland) == 0:
        return None
    first, end = int(with_gland[0]), int(with_gland[-1]) + 1
    if end - first < 3:
        return None
    outer = (end - first + 1) // 3
    return slice(first, first + outer), slice(first + outer, end - outer), slice(end - outer, end)


def dice_of_thirds(
    predicted: NDArray[np.bool_], expert: NDArray[np.bool_]
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Return Dice over all voxels of apex, middle and base, each 0 to 1; None for a gland without thirds.

    What is drawn below the apex or above the base is in none of the three.

    Args:
        predicted: (slices, rows, columns), slice 0 at the feet.
        expert: the same shape.
    """
    parts = thirds(expert)
    if parts is None:
        return None, None, None
    apex, middle, base = (metrics.dice(predicted[part], expert[part]) for part in parts)
    return apex, middle, base
