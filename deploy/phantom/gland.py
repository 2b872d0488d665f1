"""Draw the prostate's two zones on a grid of slices, and measure their shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CENTRAL", "PERIPHERAL", "Grid", "GlandShape", "draw_gland", "outline"]

PERIPHERAL, CENTRAL = 1, 2
"""Labels of the zones, as NCI-ISBI 2013 writes them; 0 is everything else."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Describe a stack of axial slices around a gland.

    The frame is the gland's: z towards the head, y towards the back, x towards the patient's left, in mm, with its zero
    at the gland's centre. Arrays are (slices, rows, columns) along (z, y, x).
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    """Distances in mm: between slices, rows, columns."""
    corner: tuple[float, float, float]
    """Centre of voxel (0, 0, 0) in the gland's frame, in mm: z, y, x."""

    def axis(self, axis: int) -> NDArray[np.float32]:
        """Return the voxel centres along an axis of the array, in mm."""
        return (self.corner[axis] + self.spacing[axis] * np.arange(self.shape[axis])).astype(np.float32)


@dataclass(frozen=True)
class GlandShape:
    """Hold a gland's measures for placing the surrounding tissues, in mm; each array has a value for every slice.

    Beyond apex and base, the values of the outermost slice with gland are repeated.
    """

    centre: NDArray[np.float64]
    half_width: NDArray[np.float64]
    front: NDArray[np.float64]
    back: NDArray[np.float64]
    apex: float
    base: float


def draw_gland(
    grid: Grid, rng: np.random.Generator, *, volume: float, squash: float, height: float
) -> NDArray[np.uint8]:
    """Draw the zones of a gland.

    Every slice's outline is a closed curve in polar form, a flattened oval with a dent for the rectum and low-order
    random harmonics drifting from apex to base. A prostate grows by its central gland: a large prostate is nearly all
    central gland, a small prostate about half.

    Args:
        grid: the grid on which the gland is drawn.
        rng: the source of the gland's random shape.
        volume: the whole gland's volume in ml; the grid's sampling meets this volume to within some per cent.
        squash: front-to-back over left-to-right extent of a gland of 50 ml.
        height: feet-to-head over left-to-right extent.

    Returns:
        0, PERIPHERAL or CENTRAL for each voxel, (slices, rows, columns).
    """
    growth = np.log(volume / 50.0)
    depth_ratio = np.clip(squash + 0.10 * growth + rng.normal(0, 0.04), 0.55, 1.0)
    height_ratio = np.clip(height + rng.normal(0, 0.05), 0.6, 1.1)
    apex_taper, base_taper = rng.uniform(1.5, 1.9), rng.uniform(2.2, 3.2)
    dent = rng.uniform(0.0, 0.10) + 0.10 * (squash < 0.75)
    phases = rng.uniform(0, 2 * np.pi, 4)
    strengths = rng.normal(0, 1, 4) * np.array([0.030, 0.030, 0.018, 0.012])
    share = float(np.clip(0.60 + 0.17 * growth + rng.normal(0, 0.08), 0.33, 0.95))
    lean = rng.normal(0, 0.10)
    drift = rng.normal(0, 0.05)

    def radius(angle: NDArray[np.float32], level: float) -> NDArray[np.float32]:
        """Return the outline of a gland whose half width is 1; angle 0 is the patient's left, +90 degrees the back."""
        taper = (1 - abs(level) ** apex_taper) ** 0.62 if level < 0 else (1 - level**base_taper) ** 0.5
        flat = depth_ratio * (0.92 + 0.08 * level)
        oval = (np.abs(np.cos(angle)) ** 2.3 + np.abs(np.sin(angle) / flat) ** 2.3) ** (-1 / 2.3)
        away = np.angle(np.exp(1j * (angle - np.pi / 2)))
        oval = oval * (1 - dent * np.exp(-((away / 0.45) ** 2)))
        for order in range(2, 6):
            turn = order * angle + phases[order - 2] + 1.2 * level
            oval = oval * (1 + strengths[order - 2] * np.cos(turn))
        return (oval * taper).astype(np.float32)

    around = np.linspace(0, 2 * np.pi, 180, endpoint=False).astype(np.float32)
    levels = (np.arange(60) + 0.5) / 30 - 1
    areas = [0.5 * float(np.mean(radius(around, float(level)) ** 2)) * 2 * np.pi for level in levels]
    unit = float(np.mean(areas)) * 2 * height_ratio
    half_width = float((volume * 1000 / unit) ** (1 / 3))
    half_height = half_width * height_ratio

    zones = np.zeros(grid.shape, np.uint8)
    y, x = np.meshgrid(grid.axis(1), grid.axis(2), indexing="ij")
    for index, z in enumerate(grid.axis(0)):
        level = float(z) / half_height
        if abs(level) >= 1:
            continue
        dy = y - np.float32(lean * z)
        dx = x - np.float32(drift * z)
        box = (np.abs(dy) < 1.3 * half_width) & (np.abs(dx) < 1.3 * half_width)
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        if not len(rows) or not len(columns):
            continue
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        angle, reach = np.arctan2(dy[window], dx[window]), np.hypot(dy[window], dx[window])
        edge = radius(angle, level) * half_width
        inside = reach < edge
        backward = (1 + np.sin(angle)) / 2
        # the central gland fills the front, and thins out towards the apex
        present = np.clip((level + 0.85) / 0.5, 0, 1) ** 0.5
        inner = 1.02 - (1.02 - share**0.45 * 0.92) * np.sqrt(backward) * 1.15
        central = inside & (reach < edge * inner * present)
        zones[index][window] = np.where(central, CENTRAL, np.where(inside, PERIPHERAL, 0))
    return zones


def outline(zones: NDArray[np.uint8], grid: Grid) -> GlandShape:
    """Measure a gland, drawn or read from a mask.

    Args:
        zones: the gland's zones, (slices, rows, columns), not all 0.
        grid: the grid of `zones`.
    """
    z, y, x = (grid.axis(axis).astype(np.float64) for axis in range(3))
    filled = np.flatnonzero(zones.any(axis=(1, 2)))
    rows, columns = np.asarray(zones.any(axis=2)), np.asarray(zones.any(axis=1))
    first_row, last_row = rows[filled].argmax(1), rows.shape[1] - 1 - rows[filled][:, ::-1].argmax(1)
    first_column = columns[filled].argmax(1)
    last_column = columns.shape[1] - 1 - columns[filled][:, ::-1].argmax(1)

    def along(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(z, z[filled], values)

    left, right = x[last_column], x[first_column]
    return GlandShape(
        centre=along((left + right) / 2),
        half_width=along((left - right) / 2),
        front=along(y[first_row]),
        back=along(y[last_row]),
        apex=float(z[filled[0]]),
        base=float(z[filled[-1]]),
    )
