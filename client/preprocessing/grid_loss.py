"""The part of a gland that a study's grid cannot show: what lies beyond the grid, and what its pixels round away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.preprocessing.resampling import Plane, resample
from common import metrics
from common.config.study import PreprocessingConfig


@dataclass(frozen=True)
class GridLoss:
    """What a study's grid takes from a patient's mask."""

    beyond: float
    """The share of the gland's voxels whose centre lies beyond the grid, 0 to 1."""
    ceiling: float
    """Dice of the mask, taken to the grid and back, with the mask itself: no model on this grid can be expected to do
    better."""


def grid_loss(
    mask: NDArray[np.bool_], on_grid: NDArray[np.bool_], plane: Plane, preprocessing: PreprocessingConfig
) -> GridLoss:
    """Return what a study's grid takes from a patient's mask.

    Args:
        mask: the expert's mask, (slices, rows, columns).
        on_grid: the same on the study's grid, (slices, pixels, pixels).
        plane: millimetres a pixel of the mask: row, column.
        preprocessing: the study's settings.
    """
    spacing = (preprocessing.spacing_mm, preprocessing.spacing_mm)
    back = resample(on_grid.astype(np.float32), spacing, (mask.shape[1], mask.shape[2]), plane) > 0.5
    return GridLoss(beyond=beyond_grid(mask, plane, preprocessing), ceiling=metrics.dice(back, mask))


def beyond_grid(mask: NDArray[np.bool_], plane: Plane, preprocessing: PreprocessingConfig) -> float:
    """Return the share of a mask's voxels whose centre lies beyond the study's grid; 0 for an empty mask.

    Args:
        mask: (slices, rows, columns).
        plane: millimetres a pixel of the mask: row, column.
        preprocessing: the study's settings.
    """
    half = preprocessing.pixels * preprocessing.spacing_mm / 2
    rows, columns = (
        np.abs(np.arange(number) - (number - 1) / 2) * step <= half + 1e-6
        for number, step in zip(mask.shape[1:], plane, strict=True)
    )
    voxels = np.count_nonzero(mask)
    inside = np.count_nonzero(mask & rows[:, None] & columns[None, :])
    return float(1 - inside / voxels) if voxels else 0.0
