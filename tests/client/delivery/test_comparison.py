"""An interval that promises no more than a few patients can hold, and scores that are what they are called."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.delivery.comparison import ahead, differences, fewest_patients, interval, scores
from client.evaluation.score_store import OwnScores, PatientScore

VALUES = st.lists(
    st.tuples(st.integers(-40, 60), st.integers(1, 12)),
    min_size=6,
    max_size=9,
)


def beyond_by_signs(values: list[int], weights: list[int]) -> tuple[Fraction, Fraction]:
    """Of all patterns of signs the share whose weighted sum is at least, and at most, the observed one. Exact."""
    terms = [value * weight for value, weight in zip(values, weights, strict=True)]
    sums = [
        sum(map(math.prod, zip(terms, signs, strict=True))) for signs in itertools.product((1, -1), repeat=len(terms))
    ]
    high, low = sum(s >= sum(terms) for s in sums), sum(s <= sum(terms) for s in sums)
    return Fraction(high, len(sums)), Fraction(low, len(sums))


@settings(deadline=None)
@given(VALUES)
def test_zero_lies_outside_exactly_where_a_permutation_of_signs_finds_it_too_far(pairs: list[tuple[int, int]]) -> None:
    values, weights = [value for value, _ in pairs], [weight for _, weight in pairs]
    found = interval(values, weights)
    assert found is not None
    high, low = beyond_by_signs(values, weights)
    assert (found[0] > 0) == (high <= Fraction(1, 40))
    assert (found[1] < 0) == (low <= Fraction(1, 40))


@given(VALUES, st.integers(-30, 30), st.randoms(use_true_random=False))
def test_it_moves_with_the_values_and_knows_no_order(pairs: list[tuple[int, int]], by: int, random: object) -> None:
    found = interval(*zip(*pairs, strict=True))
    moved = interval([value + by for value, _ in pairs], [weight for _, weight in pairs])
    assert found is not None and moved == pytest.approx((found[0] + by, found[1] + by))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    assert interval(*zip(*pairs, strict=True)) == pytest.approx(found)


def test_below_six_patients_there_is_none_however_alike_they_are() -> None:
    assert fewest_patients() == 6
    for number in range(1, 6):
        assert interval([5.0] * number, [1.0] * number) is None
    assert interval([5.0] * 6, [1.0] * 6) == (5.0, 5.0)
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0, 9.0], [1.0] * 6) == (1.0, 9.0)


@pytest.mark.parametrize("number", [6, 8, 12, 20])
def test_it_holds_the_middle_as_often_as_it_says(number: int) -> None:
    """Of patients whose values spread unequally, with long tails, weighted by slices."""
    random = np.random.default_rng(number)
    repeats = 150 if number > 16 else 1500
    held = 0
    for _ in range(repeats):
        spread = random.uniform(0.5, 4, number)
        values = 2.0 + spread * random.standard_t(3, number)
        found = interval(values.tolist(), random.integers(5, 20, number).tolist())
        assert found is not None
        held += found[0] < 2.0 < found[1]
    exact = 1 - 2 * math.floor(0.025 * 2**number) / 2**number
    assert abs(held / repeats - exact) < 4 * math.sqrt(exact * (1 - exact) / repeats) + 1e-3


def of(*patients: tuple[float, ...]) -> OwnScores:
    made = tuple(
        PatientScore(number=k, slices=int(p[0]), dice=p[1], iou=p[2], dice_volume=p[3], hd95_mm=p[4], assd_mm=p[5])
        if len(p) > 4
        else PatientScore(number=k, slices=int(p[0]), dice=p[1], iou=p[2], dice_volume=p[3])
        for k, p in enumerate(patients, start=1)
    )
    return OwnScores(dice=0.0, iou=0.0, patients=made)


def test_scores_are_means_over_slices_or_patients_as_they_are_called() -> None:
    found = scores(of((10, 0.9, 0.8, 0.7, 4.0, 1.0), (30, 0.5, 0.4, 0.6), (20, 0.8, 0.7, 0.8, 8.0, 2.0)))
    assert found.slices == 60
    assert found.dice.mean == pytest.approx((90 * 10 + 50 * 30 + 80 * 20) / 60)
    assert found.iou.mean == pytest.approx((80 * 10 + 40 * 30 + 70 * 20) / 60)
    assert found.dice_volume.mean == pytest.approx(fmean([70, 60, 80]))
    assert found.hd95_mm is not None and found.assd_mm is not None
    assert (found.hd95_mm.mean, found.hd95_mm.patients) == (6.0, 2), "where nothing was drawn there is no distance"
    assert (found.assd_mm.mean, found.dice.patients) == (1.5, 3)
    assert found.dice.low is None
    assert scores(of((1, 0.5, 0.4, 0.5))).hd95_mm is None


def test_a_difference_is_that_of_the_same_patients_or_there_is_none() -> None:
    one = of((10, 0.9, 0.8, 0.7), (30, 0.5, 0.4, 0.6))
    other = of((10, 0.8, 0.8, 0.7), (30, 0.6, 0.4, 0.6))
    assert differences(one, other) == [(pytest.approx(10), 10), (pytest.approx(-10), 30)]
    found = ahead(one, other)
    assert found is not None and found.mean == pytest.approx((10 * 10 - 10 * 30) / 40)
    back = ahead(other, one)
    assert back is not None and back.mean == pytest.approx(-found.mean)
    assert ahead(one, of((10, 0.8, 0.8, 0.7), (29, 0.6, 0.4, 0.6))) is None
    assert ahead(one, of((10, 0.8, 0.8, 0.7))) is None
