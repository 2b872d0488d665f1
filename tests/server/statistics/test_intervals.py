"""Intervals over patients, against a bootstrap written by hand and against values known exactly."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RelayError
from server.statistics.intervals import bootstrap_ci, enough_patients

DICE = {"1": 71.0, "2": 88.5, "3": 90.25, "4": 93.0, "5": 84.0, "6": 91.5}
SLICES = {"1": 20, "2": 9, "3": 12, "4": 11, "5": 5, "6": 14}


def by_hand(dice: list[float], slices: list[int], draws: int) -> tuple[float, float]:
    """Patients drawn one at a time; the two sums of each draw divided."""
    generator = np.random.default_rng(99)
    means = []
    for _ in range(draws):
        drawn = [int(generator.integers(len(dice))) for _ in dice]
        means.append(sum(dice[i] * slices[i] for i in drawn) / sum(slices[i] for i in drawn))
    means.sort()
    return means[round(0.025 * draws)], means[round(0.975 * draws)]


def test_the_interval_agrees_with_a_bootstrap_written_by_hand() -> None:
    interval = bootstrap_ci(DICE, SLICES, seed=3)
    assert interval == pytest.approx(by_hand(list(DICE.values()), list(SLICES.values()), 20_000), abs=0.25)


def test_the_interval_agrees_with_all_draws_there_are() -> None:
    """Four patients can be drawn in 256 ways; their exact quantiles are what resampling estimates."""
    dice, slices = (60.0, 70.0, 80.0, 90.0), (1, 2, 3, 4)
    every = sorted(
        sum(dice[i] * slices[i] for i in drawn) / sum(slices[i] for i in drawn)
        for drawn in itertools.product(range(4), repeat=4)
    )
    interval = bootstrap_ci(
        dict(zip("abcd", dice, strict=True)), dict(zip("abcd", slices, strict=True)), seed=1, resamples=50_000
    )
    assert interval is not None
    # the draws are few distinct values: the estimate may fall on a neighbour of the exact quantile
    assert every[4] <= interval[0] <= every[9]
    assert every[-10] <= interval[1] <= every[-5]


def test_patients_with_more_slices_weigh_more() -> None:
    dice = {"1": 50.0, "2": 90.0, "3": 90.0, "4": 90.0, "5": 90.0}
    light = bootstrap_ci(dice, {"1": 1, "2": 20, "3": 20, "4": 20, "5": 20}, seed=1)
    heavy = bootstrap_ci(dice, {"1": 80, "2": 20, "3": 20, "4": 20, "5": 20}, seed=1)
    assert light is not None
    assert heavy is not None
    assert heavy[0] < 70
    assert light[0] > 85


@pytest.mark.parametrize(("patients", "drawn"), [(0, False), (1, False), (2, False), (3, False), (4, True), (9, True)])
def test_no_interval_where_it_would_be_no_more_than_the_range_of_the_patients(patients: int, drawn: bool) -> None:
    dice = {str(case): 80.0 + case for case in range(patients)}
    interval = bootstrap_ci(dice, dict.fromkeys(dice, 10), seed=1)
    assert (interval is not None) == drawn == enough_patients(patients)
    if interval:
        assert min(dice.values()) < interval[0] < interval[1] < max(dice.values())


def test_a_patient_without_slices_counts_for_nothing() -> None:
    assert bootstrap_ci({**DICE, "7": 0.0}, {**SLICES, "7": 0}, seed=1) == bootstrap_ci(DICE, SLICES, seed=1)


def test_the_seed_alone_decides_and_the_order_of_patients_does_not() -> None:
    dice, slices = dict(reversed(DICE.items())), dict(reversed(SLICES.items()))
    assert bootstrap_ci(dice, slices, seed=1) == bootstrap_ci(DICE, SLICES, seed=1)
    assert bootstrap_ci(DICE, SLICES, seed=2) != bootstrap_ci(DICE, SLICES, seed=1)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 40)), min_size=4, max_size=12),
    st.integers(0, 2**32),
)
def test_the_interval_lies_among_the_patients_and_a_wider_level_gives_a_wider_one(
    cases: list[tuple[float, int]], seed: int
) -> None:
    dice = {str(index): value for index, (value, _) in enumerate(cases)}
    slices = {str(index): count for index, (_, count) in enumerate(cases)}
    wide = bootstrap_ci(dice, slices, seed=seed, resamples=500)
    narrow = bootstrap_ci(dice, slices, seed=seed, resamples=500, level=0.5)
    assert wide is not None
    assert narrow is not None
    slack = 1e-9
    assert min(dice.values()) - slack <= wide[0] <= narrow[0] + slack
    assert narrow[1] - slack <= wide[1] <= max(dice.values()) + slack


def test_equal_patients_give_an_interval_without_width() -> None:
    assert bootstrap_ci(dict.fromkeys(SLICES, 90.1), SLICES, seed=1) == (90.1, 90.1)


def test_scores_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(RelayError, match="same case numbers"):
        bootstrap_ci(DICE, {"1": 3}, seed=1)
    with pytest.raises(RelayError, match="not a number"):
        bootstrap_ci({**DICE, "1": float("nan")}, SLICES, seed=1)


def test_a_hundred_rows_take_less_than_two_seconds() -> None:
    start = time.perf_counter()
    for seed in range(100):
        bootstrap_ci(DICE, SLICES, seed=seed)
    assert time.perf_counter() - start < 2
