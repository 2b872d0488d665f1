"""A mask's outline in pieces, and the image's strips across the outline: the material of all evidence about a mask.

The outline of every slice is cut into pieces, a piece for each sector around the slice's centre. At each piece the
image is read along the outline's normal, from inside to outside; the values are a strip. Where a mask fits its image, a
strip shows the same tissue as in every patient, such as the dark rim of the gland in front of the bright rectal wall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.layouts import Case
from client.data_check.moves import Move

Floats = NDArray[np.floating[Any]]
Whole = NDArray[np.integer[Any]]

SECTORS = 16
"""The number of pieces around a slice, 22.5 degrees each. Sector 0 begins at the patient's right; sectors run by the
front."""
LEVELS = 5
"""The number of parts into which the way from apex to base is divided."""
REACH_MM = 7
"""The reach of a strip inwards and outwards, with a sample each millimetre."""
OFFSETS = np.arange(-REACH_MM, REACH_MM + 1, dtype=np.float32)
"""Millimetres from the outline, negative inside."""

IMAGE_BLUR_MM, MASK_BLUR_MM = 0.6, 1.0
"""Standard deviations of the blur in a slice: against noise in the image, against stairs in the outline."""
SMALLEST_MM2 = 40.0
"""The smallest area of a slice's mask whose outline is followed."""
POINTS, FEWEST = 8, 3
"""The most points used of a piece, and the fewest: pieces with fewer than FEWEST points are skipped."""
AROUND_MM = 30.0
"""The reach around the mask, also after a move, within which the image is kept."""
FLOOR = 0.05
"""The part of the brightest values added before the logarithm, so that noise in dark places stays small."""
FAINT = 0.01
"""The variance of a strip, in squared logarithms, below which the strip counts as flat."""


@dataclass(frozen=True, eq=False)
class View:
    """The kept part of a patient's image: a box about the image's own centre, with the mask inside."""

    shape: tuple[int, int, int]
    """Of the whole image: slices, rows, columns."""
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    corner: tuple[int, int]
    """The box's first row and column in the image."""
    logarithm: NDArray[np.float16]
    """(slices, rows, columns) of the box: logarithm of the blurred image, in which a coil's slow fall is a slope."""
    grey: NDArray[np.uint8]
    """The same box for people to look at: black and white are the image's 1st and 99th percentiles."""
    mask: NDArray[np.bool_]
    """The mask in the same box."""

    @property
    def box(self) -> tuple[slice, slice]:
        """Return the box's rows and columns in the whole image."""
        rows, columns = self.grey.shape[1:]
        return slice(self.corner[0], self.corner[0] + rows), slice(self.corner[1], self.corner[1] + columns)


@dataclass(frozen=True, eq=False)
class Outline:
    """Points on a mask's outline, sorted into pieces."""

    slice: Whole
    """(points,): the slice of each point."""
    row: Floats
    """(points,) in pixels of the whole image, as `column`."""
    column: Floats
    normal: Floats
    """(points, 2): outwards, along rows and columns; of length 1 in millimetres."""
    piece: Whole
    """(points,): the number of each point's piece."""
    height: Whole
    """(pieces,): the slice of each piece."""
    sector: Whole
    level: Floats
    """(pieces,): from 0 at the apex to 1 at the base."""

    @property
    def pieces(self) -> int:
        """Return the number of pieces."""
        return len(self.sector)


@dataclass(frozen=True, eq=False)
class Strips:
    """The image across an outline, piece by piece."""

    values: NDArray[np.float32]
    """(pieces, offsets): each strip with mean 0 and, unless the strip is flat, standard deviation 1."""
    edge: NDArray[np.float32]
    """(pieces,): the difference in brightness between outside and inside, as a logarithm, from 0 to 1."""
    sector: Whole
    level: Whole
    """(pieces,): the part of the way from apex to base, 0 … LEVELS - 1."""
    inside: NDArray[np.bool_]
    """(pieces,): whether the piece lies within the image."""


def view(case: Case) -> View:
    """Return the part of a patient's image that the comparisons and the page need."""
    from scipy import ndimage

    _, rows, columns = case.image.shape
    _, height, width = case.spacing
    filled = [np.flatnonzero(case.mask.any(axis=other)) for other in ((0, 2), (0, 1))]
    middle = ((rows - 1) / 2, (columns - 1) / 2)
    reach = [
        max(abs(place[0] - centre), abs(place[-1] - centre)) + AROUND_MM / step
        for place, centre, step in zip(filled, middle, (height, width), strict=True)
    ]
    if rows == columns:  # a turn by a quarter exchanges rows and columns
        reach = [max(reach), max(reach)]
    first = [max(0, int(centre - far)) for centre, far in zip(middle, reach, strict=True)]
    box = np.s_[:, first[0] : rows - first[0], first[1] : columns - first[1]]
    image = case.image[box]
    blurred = ndimage.gaussian_filter(image, (0, IMAGE_BLUR_MM / height, IMAGE_BLUR_MM / width))
    low, high = np.percentile(image[:, ::2, ::2], (1, 99))
    least = min(0.0, float(image.min()))
    grey = (image - low) * np.float32(255 / max(float(high - low), 1e-6))
    return View(
        shape=(case.image.shape[0], rows, columns),
        spacing=case.spacing,
        origin=case.origin,
        direction=case.direction,
        corner=(first[0], first[1]),
        logarithm=np.log(np.maximum(blurred - least, 0) + FLOOR * max(float(high) - least, 1e-6)).astype(np.float16),
        grey=grey.clip(0, 255).astype(np.uint8),
        mask=case.mask[box].copy(),
    )


def outline(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> Outline | None:
    """Follow a mask's outline slice by slice; None where no slice has enough mask.

    A point lies where the blurred mask passes one half; the point's normal is the blurred mask's.

    Args:
        mask: (slices, rows, columns).
        spacing: millimetres: slice, row, column.
    """
    _, height, width = spacing
    rows = [
        np.column_stack([np.full(len(points), index), points])
        for index in np.flatnonzero(mask.any(axis=(1, 2)))
        if mask[index].sum() * height * width >= SMALLEST_MM2
        for points in [_points(mask[index], height, width)]
    ]
    if not rows:
        return None
    found = np.concatenate(rows)
    sector = np.floor((found[:, 5] + np.pi) * (SECTORS / (2 * np.pi))).astype(int) % SECTORS
    key = found[:, 0].astype(int) * SECTORS + sector
    order = np.lexsort((found[:, 5], key))
    found, key = found[order], key[order]
    keys, first, piece, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    rank = np.arange(len(key)) - first[piece]
    step = np.maximum(count / POINTS, 1.0)[piece]
    kept = (np.floor(rank / step) != np.floor((rank - 1) / step)) & (count[piece] >= FEWEST)
    good = count >= FEWEST
    if not good.any():
        return None
    found, piece = found[kept], (np.cumsum(good) - 1)[piece[kept]]
    heights = (keys // SECTORS)[good]
    apex, base = heights.min(), heights.max()
    return Outline(
        slice=found[:, 0].astype(int),
        row=found[:, 1],
        column=found[:, 2],
        normal=found[:, 3:5],
        piece=piece,
        height=heights,
        sector=(keys % SECTORS)[good],
        level=(heights - apex + 0.5) / (base - apex + 1),
    )


def _points(mask: NDArray[np.bool_], height: float, width: float) -> Floats:
    """Return the points of a slice's outline.

    Args:
        mask: (rows, columns).
        height: millimetres from row to row.
        width: millimetres from column to column.

    Returns:
        (points, 5): row, column, normal along rows and columns, angle about the slice's centre.
    """
    from scipy import ndimage

    rows, columns = np.nonzero(mask)
    spare = int(np.ceil(4 * MASK_BLUR_MM / min(height, width))) + 1
    top, left = max(rows.min() - spare, 0), max(columns.min() - spare, 0)
    window = mask[top : rows.max() + spare + 1, left : columns.max() + spare + 1].astype(np.float32)
    soft = ndimage.gaussian_filter(window, (MASK_BLUR_MM / height, MASK_BLUR_MM / width))
    down, across = np.gradient(soft, height, width)
    steep = np.hypot(down, across) + 1e-9
    away = (0.5 - soft) / steep
    near = (np.abs(away) < 0.5 * min(height, width)) & (steep > 0.05)
    y, x = np.nonzero(near)
    inward = np.stack([down[near], across[near]], axis=1) / steep[near][:, None]
    row = y + top + away[near] * inward[:, 0] / height
    column = x + left + away[near] * inward[:, 1] / width
    angle = np.arctan2((row - rows.mean()) * height, (column - columns.mean()) * width)
    return np.column_stack([row, column, -inward, angle])


def moved(line: Outline, move: Move, shape: tuple[int, int, int]) -> Outline:
    """Return the outline of the mask after a move; pieces keep their order.

    Args:
        line: the outline of the unmoved mask.
        move: the move.
        shape: slices, rows, columns of the whole image.
    """
    index, row, column, normal = line.slice, line.row, line.column, line.normal
    sector, level = line.sector, line.level
    if move.exchange:
        row, column, normal = column, row, normal[:, ::-1]
        sector = (SECTORS // 4 - 1 - sector) % SECTORS
    if move.rows:
        row, normal = shape[1] - 1 - row, normal * (-1, 1)
        sector = (SECTORS - 1 - sector) % SECTORS
    if move.columns:
        column, normal = shape[2] - 1 - column, normal * (1, -1)
        sector = (SECTORS // 2 - 1 - sector) % SECTORS
    if move.slices:
        index, level = shape[0] - 1 - index, 1 - level
    return Outline(
        slice=index + move.shift,
        row=row,
        column=column,
        normal=normal,
        piece=line.piece,
        height=line.height,
        sector=sector,
        level=level,
    )


def strips(image: View, line: Outline) -> Strips:
    """Read an image across an outline, linearly within a slice; slices are never mixed."""
    depth, rows, columns = image.logarithm.shape
    row = (line.row - image.corner[0]).astype(np.float32)
    column = (line.column - image.corner[1]).astype(np.float32)
    inside = (
        (line.slice >= 0)
        & (line.slice < depth)
        & (row >= 0)
        & (row <= rows - 1)
        & (column >= 0)
        & (column <= columns - 1)
    )
    along = np.clip(row[:, None] + OFFSETS * (line.normal[:, :1] / image.spacing[1]), 0, rows - 1.001)
    across = np.clip(column[:, None] + OFFSETS * (line.normal[:, 1:] / image.spacing[2]), 0, columns - 1.001)
    top, left = along.astype(np.intp), across.astype(np.intp)
    down, right = (along - top).astype(np.float32), (across - left).astype(np.float32)
    flat = image.logarithm.reshape(-1)
    first = (np.clip(line.slice, 0, depth - 1)[:, None] * rows + top) * columns + left
    upper = flat[first] * (1 - right) + flat[first + 1] * right
    lower = flat[first + columns] * (1 - right) + flat[first + columns + 1] * right
    values = upper * (1 - down) + lower * down
    count = np.bincount(line.piece, minlength=line.pieces)
    mean = (
        np.stack([np.bincount(line.piece, values[:, k], minlength=line.pieces) for k in range(len(OFFSETS))], axis=1)
        / np.maximum(count, 1)[:, None]
    )
    outer = mean[:, (OFFSETS >= 1) & (OFFSETS <= 3)].mean(axis=1)
    inner = mean[:, (OFFSETS <= -1) & (OFFSETS >= -3)].mean(axis=1)
    centred = mean - mean.mean(axis=1, keepdims=True)
    within = np.bincount(line.piece, inside, minlength=line.pieces) * 2 > count
    return Strips(
        values=(centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + FAINT)).astype(np.float32),
        edge=np.where(within, np.minimum(np.abs(outer - inner), 1.0), 0.0).astype(np.float32),
        sector=line.sector,
        level=np.minimum((line.level * LEVELS).astype(int), LEVELS - 1),
        inside=within,
    )
