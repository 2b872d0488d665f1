"""Masks that fit another patient's image better than their own.

Masks get swapped in two ways. Files under wrong names keep their headers and lie elsewhere in space; most cannot be
read onto the image at all, and the mask's grid names the right patient (`headers.owners`). Arrays under wrong names
take on the header of the image they are laid over, and then only the outline shows the fault. So each mask's outline is
tried on each other patient's image, at the same indices where both images have the same shape, and at the same place in
space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data_check.evidence import LEAST_LIKENESS, Verdict, advantage, likeness
from client.data_check.outline import Floats, Outline, View, strips
from client.data_check.trials import Outlined

ENOUGH_ELSEWHERE = 4.0
"""The advantage (see `evidence`) by which another image has to win, higher than ENOUGH since each mask is tried on all
images."""
EVERY = 3
"""The step at which an outline's points are used, since a piece has several points."""
INSIDE = 0.9
"""The share of an outline within an image from which on the two are compared in space."""


@dataclass(frozen=True)
class Elsewhere:
    """A mask that fits another patient's image better than its own."""

    owner: str
    """The patient whose image the mask fits best."""
    advantage: float
    likeness: float
    given: float
    """The likeness on the mask's own image."""


def elsewhere(patients: Mapping[str, Outlined], views: Mapping[str, View], verdict: Verdict) -> dict[str, Elsewhere]:
    """Return, by patient, masks that fit another image better than their own.

    The result is empty with too few patients to compare.
    """
    found = {}
    usual = float(np.median(list(verdict.likeness.values()))) if verdict.likeness else 0.0
    for name in verdict.likeness:
        patient, image = patients[name], views[name]
        line = _thinned(patient.line)
        own = likeness(strips(image, line), verdict.means[name])
        moved = verdict.moved.get(name)
        least = max(LEAST_LIKENESS, usual / 2, float(own.mean()), moved.likeness if moved else -1.0)
        best: Elsewhere | None = None
        for other in verdict.likeness:
            if other == name:
                continue
            for placed in _placements(line, image, views[other]):
                there = likeness(strips(views[other], placed), verdict.means[other])
                mean = float(there.mean())
                if mean <= least or (best and mean <= best.likeness):
                    continue
                gain = advantage(there - own, line.height, line.sector, patient.step)
                if gain >= ENOUGH_ELSEWHERE:
                    best = Elsewhere(other, gain, mean, float(own.mean()))
        if best:
            found[name] = best
    return found


def alike(one: View, other: View) -> float:
    """Return the Dice of two patients' masks at the same indices; 0 where their grids differ in shape."""
    if one.shape != other.shape:
        return 0.0
    shared = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one.box, other.box, strict=True)]

    def part(image: View) -> NDArray[np.bool_]:
        rows, columns = (
            slice(place.start - first, place.stop - first) for place, first in zip(shared, image.corner, strict=True)
        )
        return image.mask[:, rows, columns]

    both = np.count_nonzero(part(one) & part(other))
    return 2 * both / (np.count_nonzero(one.mask) + np.count_nonzero(other.mask))


def laid_over(mask: View, on: View) -> NDArray[np.bool_]:
    """Return a patient's mask in the box of another's view, at the same indices where shapes agree, else in space."""
    rows, columns = on.box
    index = np.stack(np.meshgrid(*(np.arange(place.stop)[place] for place in (slice(0, on.shape[0]), rows, columns)),
                                 indexing="ij"), axis=-1).astype(float)  # fmt: skip
    if mask.shape != on.shape:
        index = _to_index(_to_space(index[..., ::-1].reshape(-1, 3), on), mask)[:, ::-1].reshape(index.shape)
    place = np.rint(index).astype(int) - (0, *mask.corner)
    inside = np.all((place >= 0) & (place < mask.mask.shape), axis=-1)
    place[~inside] = 0
    return mask.mask[tuple(np.moveaxis(place, -1, 0))] & inside


def _thinned(line: Outline) -> Outline:
    kept = slice(None, None, EVERY)
    return Outline(
        slice=line.slice[kept],
        row=line.row[kept],
        column=line.column[kept],
        normal=line.normal[kept],
        piece=line.piece[kept],
        height=line.height,
        sector=line.sector,
        level=line.level,
    )


def _placements(line: Outline, own: View, other: View) -> Iterator[Outline]:
    """Yield the outline on another patient's grid: by index, and in space where the outline lies inside."""
    same = own.shape == other.shape
    if same:
        yield line
    index = np.stack([line.column, line.row, line.slice], axis=1)
    there = _to_index(_to_space(index, own), other)
    size = np.array(other.shape[::-1])
    inside = np.all((there > -0.5) & (there < size - 0.5), axis=1).mean()
    if inside >= INSIDE and not (same and np.abs(there - index).max() < 0.5):
        yield Outline(
            slice=np.rint(there[:, 2]).astype(int),
            row=there[:, 1],
            column=there[:, 0],
            normal=line.normal,
            piece=line.piece,
            height=line.height,
            sector=line.sector,
            level=line.level,
        )


def _to_space(index: Floats, image: View) -> Floats:
    """Return indices (points, 3: column, row, slice) as millimetres (points, 3: x, y, z)."""
    axes = np.array(image.direction).reshape(3, 3)
    return index * np.array(image.spacing[::-1]) @ axes.T + np.array(image.origin)


def _to_index(points: Floats, image: View) -> Floats:
    axes = np.array(image.direction).reshape(3, 3)
    return (points - np.array(image.origin)) @ axes / np.array(image.spacing[::-1])
