"""Outlines, strips and the numbers made of them, against computations of other kinds."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from client.data.layouts import Case
from client.data_check.evidence import advantage, likeness
from client.data_check.findings import Kind
from client.data_check.moves import DOWN, MIRRORED, REVERSED, TURNED, UP, Move, moves
from client.data_check.outline import LEVELS, OFFSETS, SECTORS, Outline, Strips, moved, outline, strips, view

SPACING = (3.0, 0.6, 0.6)
SHAPE = (9, 80, 80)


def blob(*, row: float = 36.0, column: float = 44.0, lean: float = 1.5) -> NDArray[np.bool_]:
    """A gland that is different on all sides, mirrored or not."""
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]].astype(float)
    mask = np.zeros(SHAPE, bool)
    for index in range(2, 8):
        size = 18 - 2.2 * abs(index - 4) - (3 if index > 5 else 0)
        down, across = rows - row - lean * index, columns - column + index
        angle = np.arctan2(down, across)
        mask[index] = np.hypot(down, across * 0.9) < size * (1 + 0.12 * np.cos(angle - 0.7) + 0.08 * np.sin(3 * angle))
    return mask


def case(image: NDArray[np.floating], mask: NDArray[np.bool_]) -> Case:
    return Case("p", image.astype(np.float32), mask, SPACING, (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))


def test_points_lie_on_the_edge_of_a_disc_and_normals_point_away_from_it() -> None:
    rows, columns = np.mgrid[:80, :80]
    mask = np.zeros(SHAPE, bool)
    mask[3:6] = np.hypot(rows - 40, columns - 38) < 20
    line = outline(mask, SPACING)
    assert line is not None
    away = np.stack([line.row - 40, line.column - 38], axis=1)
    radius = np.linalg.norm(away, axis=1)
    assert np.abs(radius - 20).max() < 0.8
    assert np.abs(radius.mean() - 20) < 0.3
    assert (line.normal * away / radius[:, None]).sum(axis=1).min() > 0.98
    assert line.pieces == 3 * SECTORS
    assert set(line.height) == {3, 4, 5}
    assert sorted(set(np.round(line.level, 3))) == [0.167, 0.5, 0.833]


def cells(line: Outline) -> dict[tuple[int, int], NDArray[np.floating]]:
    """The mean point of each piece, by slice and sector."""
    return {
        (int(line.slice[line.piece == piece][0]), int(line.sector[piece])): np.array(
            [line.row[line.piece == piece].mean(), line.column[line.piece == piece].mean(), line.level[piece]]
        )
        for piece in range(line.pieces)
    }


@pytest.mark.parametrize("move", [MIRRORED, REVERSED, UP, DOWN, *TURNED], ids=lambda move: move.words)
def test_the_outline_moves_as_its_mask_does(move: Move) -> None:
    mask = blob()
    line, expected = outline(mask, SPACING), outline(move.of(mask), SPACING)
    assert line is not None and expected is not None
    here, there = cells(moved(line, move, SHAPE)), cells(expected)
    common = here.keys() & there.keys()
    assert len(common) > 0.97 * max(len(here), len(there))
    assert np.median([np.abs(here[key] - there[key]).max() for key in common]) < 0.35
    middle = np.argwhere(mask).mean(axis=0) - (np.array(SHAPE) - 1) / 2
    assert move.of_place(middle) == pytest.approx(
        np.argwhere(move.of(mask)).mean(axis=0) - (np.array(SHAPE) - 1) / 2, abs=1e-6
    )


def test_a_grid_permits_every_way_to_lay_a_mask_on_it_once() -> None:
    square, oblong = moves((5, 9, 9)), moves((5, 9, 8))
    turns = [move for move in square if not move.shift]
    assert len(square) == len(set(square)) == 15 + 2
    assert len(oblong) == 7 + 2
    values = np.random.default_rng(1).random((5, 9, 9)) > 0.5
    assert len({move.of(values).tobytes() for move in turns} | {values.tobytes()}) == 16
    assert all(move.words for move in square)
    assert {move.kind for move in square} == {Kind.MIRRORED, Kind.REVERSED, Kind.SHIFTED, Kind.TURNED}


def test_strips_are_the_image_across_the_outline() -> None:
    """Against scipy's interpolation of the same logarithm, point by point."""
    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(rng.random(SHAPE), (0, 3, 3)) * 500 + 100
    mask = blob()
    seen = view(case(image, mask))
    line = outline(mask, SPACING)
    assert line is not None
    found = strips(seen, line)
    whole = np.full(SHAPE, np.nan)
    whole[:, *seen.box] = seen.logarithm
    rows = line.row[:, None] + OFFSETS * line.normal[:, :1] / SPACING[1]
    columns = line.column[:, None] + OFFSETS * line.normal[:, 1:] / SPACING[2]
    slices = np.broadcast_to(line.slice[:, None], rows.shape)
    values = ndimage.map_coordinates(whole, [slices, rows, columns], order=1)
    for piece in range(line.pieces):
        expected = values[line.piece == piece].mean(axis=0)
        assert np.corrcoef(expected, found.values[piece])[0, 1] > 0.999
    assert found.inside.all()


def test_a_coil_and_another_scale_leave_the_strips_as_they_are() -> None:
    rng = np.random.default_rng(4)
    image = ndimage.gaussian_filter(rng.random(SHAPE), (0, 2, 2)) * 500 + 100
    mask = blob()
    line = outline(mask, SPACING)
    assert line is not None
    plain = strips(view(case(image, mask)), line)
    scaled = strips(view(case(image * 7.3, mask)), line)
    assert scaled.values == pytest.approx(plain.values, abs=0.05)


def test_likeness_is_the_correlation_with_the_others_mean() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(40, len(OFFSETS)))
    values = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    means = rng.normal(size=(LEVELS, SECTORS, len(OFFSETS)))
    means = (means - means.mean(2, keepdims=True)) / means.std(2, keepdims=True)
    sector, level = rng.integers(0, SECTORS, 40), rng.integers(0, LEVELS, 40)
    inside = rng.random(40) > 0.2
    found = likeness(Strips(values.astype(np.float32), np.zeros(40, np.float32), sector, level, inside), means)
    for piece in range(40):
        expected = np.corrcoef(values[piece], means[level[piece], sector[piece]])[0, 1] if inside[piece] else 0
        assert found[piece] == pytest.approx(expected, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 60))
def test_an_advantage_is_student_s_t_where_each_block_is_one_piece(seed: int, pieces: int) -> None:
    differences = np.random.default_rng(seed).normal(0.2, 1, pieces)
    height, sector = np.arange(pieces) // SECTORS, np.arange(pieces) % SECTORS
    found = advantage(differences, height, sector, step=6.0)
    assert found == pytest.approx(scipy.stats.ttest_1samp(differences, 0).statistic, rel=1e-4)


def test_neighbouring_slices_that_say_the_same_count_once() -> None:
    """Four thin slices with one and the same difference weigh as one thick slice."""
    differences = np.random.default_rng(6).normal(0.3, 1, 5 * SECTORS)
    height, sector = np.repeat(np.arange(5), SECTORS), np.tile(np.arange(SECTORS), 5)
    thick = advantage(differences, height, sector, step=5.0)
    thin = advantage(
        np.tile(differences.reshape(5, 1, SECTORS), (1, 4, 1)).ravel(),
        np.repeat(np.arange(20), SECTORS),
        np.tile(np.arange(SECTORS), 20),
        step=1.25,
    )
    assert thin == pytest.approx(thick)
    assert advantage(np.array([1.0]), np.array([3]), np.array([2]), 3.0) == 0
