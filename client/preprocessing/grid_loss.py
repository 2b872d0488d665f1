"""The part of a gland that a study's grid cannot show: what lies beyond the grid, and what its pixels round away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.preprocessing.resampling import Plane, resample
from common import metrics
from common.config.study import PreprocessingConfig

CUT = 0.001
"""A gland is cut off if more than this share of its voxels lies beyond the grid: an expert's brush leaves single voxels
behind."""


@dataclass(frozen=True)
class GridLoss:
    """What a study's grid takes from a patient's mask."""

    beyond: float
    """The share of the gland's voxels whose centre lies beyond the grid, 0 to 1."""
    ceiling: float
    """Dice of the mask, taken to the grid and back, with the mask itself: what a model on this grid can hope for."""


def grid_loss(mask: NDArray[np.bool_], plane: Plane, preprocessing: PreprocessingConfig) -> GridLoss:
    """Return what a study's grid takes from a patient's mask.

    The mask is taken to the grid and back as a model's probabilities are: interpolated, and cut at 0.5 at the end.

    Args:
        mask: the expert's mask, (slices, rows, columns).
        plane: millimetres a pixel of the mask: row, column.
        preprocessing: the study's settings.
    """
    spacing, shape = (preprocessing.spacing_mm,) * 2, (preprocessing.pixels,) * 2
    on_grid = resample(mask.astype(np.float32), plane, shape, spacing)
    back = resample(on_grid, spacing, (mask.shape[1], mask.shape[2]), plane) > 0.5
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
