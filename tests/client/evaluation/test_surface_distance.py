"""Distances between surfaces are in millimetres, over all slices, and those of a count voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.evaluation.surface_distance import surface_distances

SPACING = (3.0, 0.5, 0.7)


def surface(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Voxels of a mask with a neighbour by a face that is not in it, in millimetres."""
    padded = np.pad(mask, 1)
    points = []
    for z, y, x in np.argwhere(padded):
        around = [(z + 1, y, x), (z - 1, y, x), (z, y + 1, x), (z, y - 1, x), (z, y, x + 1), (z, y, x - 1)]
        if not all(padded[place] for place in around):
            points.append((z * SPACING[0], y * SPACING[1], x * SPACING[2]))
    return np.array(points)


def counted(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[float, float]:
    """Every pair of surface voxels, measured."""
    here, there = surface(one), surface(other)
    apart = np.sqrt(((here[:, None] - there[None]) ** 2).sum(2))
    to, back = apart.min(1), apart.min(0)
    hausdorff = max(float(np.percentile(to, 95)), float(np.percentile(back, 95)))
    return hausdorff, float(np.concatenate([to, back]).mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.9))
def test_the_distances_are_those_of_every_pair_of_surface_voxels(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    one, other = (random.random((4, 7, 6)) < share for _ in range(2))
    one[1, 2, 3] = other[2, 4, 4] = True
    assert surface_distances(one, other, SPACING) == pytest.approx(counted(one, other), abs=1e-4)


def test_a_ball_moved_by_a_slice_is_a_slice_away_at_most() -> None:
    z, y, x = np.mgrid[:12, :40, :40]
    ball = ((z - 5) * 3.0) ** 2 + ((y - 20) * 0.5) ** 2 + ((x - 20) * 0.7) ** 2 < 8.0**2
    found = surface_distances(np.roll(ball, 1, axis=0), ball, SPACING)
    assert found is not None
    assert found == pytest.approx(counted(np.roll(ball, 1, axis=0), ball), abs=1e-4)
    assert 0 < found[1] < found[0] <= 3.0
    assert surface_distances(ball, ball, SPACING) == (0.0, 0.0)


def test_where_nothing_was_segmented_there_is_no_distance() -> None:
    some = np.zeros((3, 5, 5), bool)
    nothing = some.copy()
    some[1, 2, 2] = True
    assert surface_distances(nothing, some, SPACING) is None
    assert surface_distances(some, nothing, SPACING) is None
