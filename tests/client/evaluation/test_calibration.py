"""Calibration errors and reliability curves are those of voxels looked at one by one, in and around the gland."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from monai.metrics.calibration import CalibrationErrorMetric
from numpy.typing import NDArray

from client.evaluation.calibration import BINS, Reliability, calibration_error, curve, reliability

WIDE = (50.0, 50.0, 50.0)
"""Voxels so far apart that none beyond the gland's box is near."""
SHARES = st.floats(0, 1, width=32)
VOLUMES = arrays.array_shapes(min_dims=3, max_dims=3, max_side=7).flatmap(
    lambda shape: st.tuples(arrays.arrays(np.float32, shape, elements=SHARES), arrays.arrays(bool, shape))
)


def line(*shares: float) -> NDArray[np.float32]:
    """One slice with one row of voxels."""
    return np.array(shares, np.float32).reshape(1, 1, -1)


def gland(*voxels: int) -> NDArray[np.bool_]:
    return np.array(voxels, bool).reshape(1, 1, -1)


def measured(shares: NDArray[np.float32], expert: NDArray[np.bool_], spacing: tuple[float, ...] = WIDE) -> Reliability:
    found = reliability(shares, expert, spacing)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_calibration_error_by_hand() -> None:
    """Seven voxels in three bins.

    0.925 and 0.95 are both gland: 1.875 probable, 2 there, 0.125 apart. Of 0.625, 0.625 and 0.65 one is gland: 1.9
    probable, 1 there, 0.9 apart. Of 0.125 and 0.15 one is gland: 0.275 probable, 1 there, 0.725 apart. Together 1.75
    in seven voxels.
    """
    found = measured(line(0.125, 0.15, 0.625, 0.925, 0.95, 0.65, 0.625), gland(1, 0, 0, 1, 1, 0, 1))
    assert found.voxels == (0, 2, 0, 0, 0, 0, 3, 0, 0, 2)
    assert found.gland == (0, 1, 0, 0, 0, 0, 1, 0, 0, 2)
    assert calibration_error(found) == pytest.approx(0.25, abs=1e-6)
    low, middle, high = curve([found], minimum_patients=1)
    assert (low.low, low.high, low.patients, low.voxels) == (0.1, 0.2, 1, pytest.approx(2 / 7))
    assert (low.probability, low.gland) == (pytest.approx(0.1375), 0.5)
    assert (middle.probability, middle.gland) == (pytest.approx(1.9 / 3), pytest.approx(1 / 3))
    assert (high.low, high.high, high.gland) == (0.9, 1.0, 1.0)


def by_hand(shares: NDArray[np.float32], expert: NDArray[np.bool_], spacing: tuple[float, float, float]) -> float:
    """Voxel by voxel: those at most 10 mm beyond the box around the gland, sorted into ten bins."""
    inside = [place for place in np.ndindex(expert.shape) if expert[place]]
    low, high = ([end(place[axis] for place in inside) for axis in range(3)] for end in (min, max))
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for place in np.ndindex(expert.shape):
        beyond = [max(low[k] - place[k], place[k] - high[k], 0) * spacing[k] for k in range(3)]
        if max(beyond) <= 10 + 1e-9:
            share = float(shares[place])
            bins[next(k for k in range(9, -1, -1) if share >= k / 10)].append((share, bool(expert[place])))
    voxels = sum(map(len, bins))
    error = 0.0
    for found in bins:
        if found:
            mean = sum(share for share, _ in found) / len(found)
            there = sum(is_gland for _, is_gland in found) / len(found)
            error += len(found) / voxels * abs(mean - there)
    return error


@given(VOLUMES, st.sampled_from([(3.0, 0.5, 0.5), (4.0, 6.0, 2.5), (11.0, 10.0, 3.3)]))
def test_a_calibration_error_is_that_of_a_loop_over_the_voxels(
    volume: tuple[NDArray[np.float32], NDArray[np.bool_]], spacing: tuple[float, float, float]
) -> None:
    shares, expert = volume
    found = reliability(shares, expert, spacing)
    if not expert.any():
        assert found is None
        return
    assert found is not None
    error = calibration_error(found)
    assert 0 <= error <= 1
    assert error == pytest.approx(by_hand(shares, expert, spacing), abs=1e-6)


@given(VOLUMES)
def test_it_is_monais_error_of_the_same_voxels(volume: tuple[NDArray[np.float32], NDArray[np.bool_]]) -> None:
    shares, expert = volume
    expert[0, 0, 0] = expert[-1, -1, -1] = True  # the box is the whole volume
    metric = CalibrationErrorMetric(num_bins=BINS)
    metric(y_pred=torch.from_numpy(shares)[None, None], y=torch.from_numpy(expert)[None, None])
    # MONAI's ends of bins and sums are in float32.
    near = np.abs(np.arange(1, BINS) / BINS - shares[..., None]).min() < 1e-6
    if not near:
        assert calibration_error(measured(shares, expert)) == pytest.approx(float(metric.aggregate()), abs=1e-5)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 3)), min_size=1, max_size=6))
def test_probabilities_that_come_true_have_no_error(blocks: list[tuple[int, int]]) -> None:
    """In each block k of 8 voxels are gland, and k / 8 is their probability."""
    shares, there = [1.0], [1]
    for k, often in blocks:
        shares += [k / 8] * 8 * often
        there += ([1] * k + [0] * (8 - k)) * often
    shares, there = [*shares, 1.0], [*there, 1]  # so that the box holds every block
    assert calibration_error(measured(line(*shares), gland(*there))) == pytest.approx(0.0, abs=1e-9)


def test_a_model_that_is_sure_and_wrong_everywhere_has_an_error_of_one() -> None:
    inside = gland(1, 0, 0, 1)
    assert calibration_error(measured(1 - inside.astype(np.float32), inside)) == 1.0
    assert calibration_error(measured(inside.astype(np.float32), inside)) == 0.0


def test_voxels_up_to_ten_millimetres_beyond_the_box_count_whatever_the_model_draws() -> None:
    expert = np.zeros((9, 60, 60), bool)
    expert[4, 30, 30] = True
    shares = np.full(expert.shape, 0.25, np.float32)
    # 3 mm a slice: three slices beyond; 1 mm a row: ten; 4 mm a column: two.
    assert sum(measured(shares, expert, (3.0, 1.0, 4.0)).voxels) == 7 * 21 * 5
    shares[0, 0, 0] = 1.0
    assert sum(measured(shares, expert, (3.0, 1.0, 4.0)).voxels) == 7 * 21 * 5
    # A box at the volume's edge ends there.
    assert sum(measured(shares[:5], expert[:5], (3.0, 1.0, 4.0)).voxels) == 4 * 21 * 5


def test_the_background_far_away_would_make_the_error_small() -> None:
    """The same gland and the same model, in an image of fifty times the voxels."""
    expert = np.zeros((1, 200, 200), bool)
    expert[0, 90:110, 90:110] = True
    shares = np.where(expert, 0.6, 0.0).astype(np.float32)
    near = calibration_error(measured(shares, expert, (3.0, 1.0, 1.0)))
    assert near == pytest.approx(0.4 * 400 / 40**2)
    everywhere = 0.4 * 400 / 200**2
    assert near == pytest.approx(25 * everywhere)


def sums(voxels: list[int], probability: list[float], there: list[int]) -> Reliability:
    rest = [0] * (BINS - len(voxels))
    return Reliability((*voxels, *rest), (*probability, *map(float, rest)), (*there, *rest))


def test_every_patient_counts_alike_in_a_curve_however_many_voxels_it_has() -> None:
    small, large = sums([1, 1], [0.0, 0.15], [0, 1]), sums([50, 150], [2.5, 15.0], [0, 30])
    first, second = curve([small, large], minimum_patients=1)
    assert (first.patients, second.patients) == (2, 2)
    assert first.voxels == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert second.gland == pytest.approx((1 / 2 + 3 / 4 * 0.2) / (1 / 2 + 3 / 4))
    assert second.probability == pytest.approx((0.15 / 2 + 3 / 4 * 0.1) / (1 / 2 + 3 / 4))


def test_a_bin_of_fewer_patients_than_the_minimum_is_left_out() -> None:
    found = [sums([4, 0, 1], [0.1, 0.0, 0.25], [0, 0, 1]), sums([3, 2], [0.1, 0.3], [0, 0]), sums([9], [0.0], [0])]
    assert [(round(10 * point.low), point.patients) for point in curve(found, minimum_patients=1)] == [
        (0, 3),
        (1, 1),
        (2, 1),
    ]
    (point,) = curve(found, minimum_patients=2)
    assert (point.low, point.patients) == (0.0, 3)
    assert curve([], minimum_patients=1) == ()


@given(st.lists(VOLUMES, min_size=1, max_size=4))
def test_the_curves_own_error_is_at_most_the_mean_of_the_patients(
    volumes: list[tuple[NDArray[np.float32], NDArray[np.bool_]]],
) -> None:
    found = [one for shares, expert in volumes if (one := reliability(shares, expert, (3.0, 1.0, 1.0)))]
    points = curve(found, minimum_patients=1)
    assert sum(point.voxels for point in points) == pytest.approx(1.0 if found else 0.0)
    for point in points:
        assert 0 <= point.gland <= 1 + 1e-9 and point.low - 1e-9 <= point.probability <= point.high + 1e-9
    if found:
        own = sum(point.voxels * abs(point.probability - point.gland) for point in points)
        assert own <= sum(map(calibration_error, found)) / len(found) + 1e-9
