"""Intervals over patients, against intervals written by hand, and how often they hold the true mean."""

from __future__ import annotations

import itertools
import random
import time
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RelayError
from common.statistics.intervals import FEWEST, FEWEST_A_SITE, case_interval, interval
from tests.bench.coverage import DECIDE, PATIENTS, SAMPLES, TOLERANCE, Ends, Floats, best, coverage, table

DICE = {"1": 71.0, "2": 88.5, "3": 90.25, "4": 93.0, "5": 84.0, "6": 91.5, "7": 86.0}
SLICES = {"1": 20, "2": 9, "3": 12, "4": 11, "5": 5, "6": 14, "7": 8}

Patients = list[tuple[float, float]]


def mean_and_error(sites: list[Patients]) -> tuple[float, float]:
    """The mean over sites of the weighted means, and its standard error by the formula for a ratio of two sums."""
    means, variance = [], 0.0
    for patients in sites:
        total, n = sum(weight for _, weight in patients), len(patients)
        means.append(sum(value * weight for value, weight in patients) / total)
        residuals = [weight * (value - means[-1]) for value, weight in patients]
        variance += n / (n - 1) * sum(residual**2 for residual in residuals) / total**2 / len(sites) ** 2
    return fmean(means), variance**0.5


def by_hand(sites: list[Patients], draws: int) -> tuple[float, float]:
    """Patients drawn one at a time; the distance of each draw's mean in its own standard errors."""
    generator = random.Random(99)
    mean, error = mean_and_error(sites)
    distances = []
    for _ in range(draws):
        drawn = [[patients[generator.randrange(len(patients))] for _ in patients] for patients in sites]
        found, own = mean_and_error(drawn)
        if own > 1e-9:
            distances.append((found - mean) / own)
    distances.sort()
    low, high = (distances[round(share * len(distances))] for share in (0.975, 0.025))
    return mean - error * low, mean - error * high


def of(sites: list[Patients]) -> dict[str, list[dict[str, tuple[float, float]]]]:
    return {
        f"S{place}": [{str(case): pair for case, pair in enumerate(patients)}] for place, patients in enumerate(sites)
    }


def test_the_interval_agrees_with_a_bootstrap_t_written_by_hand() -> None:
    expected = by_hand([[(DICE[case], SLICES[case]) for case in DICE]], 10_000)
    found = case_interval(DICE, SLICES)
    assert found is not None
    width = expected[1] - expected[0]
    assert found == pytest.approx(expected, abs=0.05 * width)


def test_six_patients_have_the_interval_of_all_their_subsets() -> None:
    """Of the means of all 63 subsets, the lowest and the highest; the true mean is as likely in each of the 64 gaps."""
    six = [(DICE[case], SLICES[case]) for case in "123456"]
    subsets = [subset for size in range(1, 7) for subset in itertools.combinations(six, size)]
    means = sorted(sum(v * w for v, w in subset) / sum(w for _, w in subset) for subset in subsets)
    assert len(means) == 63
    beyond = int(64 * 0.025)
    assert case_interval({c: DICE[c] for c in "123456"}, {c: SLICES[c] for c in "123456"}) == pytest.approx(
        (means[beyond - 1], means[-beyond])
    )


def test_one_failed_patient_of_six_widens_the_interval_to_that_patient_and_no_further() -> None:
    values = [2.1, 1.4, 0.6, 2.8, 1.9, -20.0]
    assert interval(of([[(value, 1.0) for value in values]])) == (-20.0, 2.8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=6, max_size=6))
def test_of_six_patients_the_interval_and_the_test_agree(values: list[float]) -> None:
    """The interval lies wholly on a side of zero where the uncorrected sign-flip test gives its smallest p, 2 / 64."""
    found = interval(of([[(value, 1.0) for value in values]]))
    assert found is not None
    patterns = itertools.product((1, -1), repeat=6)
    far = abs(sum(values)) - 1e-9
    as_far = sum(abs(sum(s * v for s, v in zip(signs, values, strict=True))) >= far for signs in patterns)
    clear = min(abs(value) for value in values) > 1e-6
    assert not clear or (found[0] > 0 or found[1] < 0) == (as_far == 2)


def test_the_interval_over_hospitals_agrees_with_one_drawn_by_hand() -> None:
    generator = random.Random(4)
    sites = [
        [(generator.gauss(shift, 2), generator.randint(5, 20)) for _ in range(patients)]
        for patients, shift in ((6, 1.0), (8, -2.0), (5, 0.0))
    ]
    expected = by_hand(sites, 10_000)
    found = interval(of(sites))
    assert found is not None
    assert found == pytest.approx(expected, abs=0.05 * (expected[1] - expected[0]))


def test_a_patient_of_several_repeats_is_drawn_as_one() -> None:
    """With equal slices throughout, a patient of every repeat stands for its mean."""
    generator = random.Random(8)
    values = {str(case): (generator.gauss(0, 2), generator.gauss(0, 2)) for case in range(8)}
    repeats = [{case: (both[place], 7.0) for case, both in values.items()} for place in (0, 1)]
    once = {case: (fmean(both), 7.0) for case, both in values.items()}
    assert interval({"A": repeats}) == pytest.approx(interval({"A": [once]}))


@pytest.mark.parametrize("patients", [0, 1, 4, 5, 6, 9])
def test_there_is_none_below_six_patients_however_alike_they_are(patients: int) -> None:
    assert FEWEST == 6
    for apart in (0.0, 1.0):
        dice = {str(case): 80.0 + apart * case for case in range(patients)}
        found = case_interval(dice, dict.fromkeys(dice, 10))
        assert (found is not None) == (patients >= 6)
        if found and apart:
            assert found[0] < fmean(dice.values()) < found[1]


def test_over_several_hospitals_each_brings_four_patients_and_all_together_six() -> None:
    assert FEWEST_A_SITE == 4

    def found(*patients: int) -> bool:
        return interval(of([[(float(k), 5.0) for k in range(number)] for number in patients])) is not None

    assert found(4, 4) and found(6, 6, 4)
    assert not found(6, 3) and not found(5) and not found(6, 6, 0)
    assert interval({}) is None


def test_patients_with_more_slices_weigh_more() -> None:
    dice = {"1": 50.0, "2": 90.0, "3": 91.0, "4": 89.0, "5": 90.5, "6": 90.0, "7": 88.0}
    light = case_interval(dice, {"1": 1} | dict.fromkeys("234567", 20))
    heavy = case_interval(dice, {"1": 80} | dict.fromkeys("234567", 20))
    assert light is not None and heavy is not None
    assert sum(heavy) < sum(light)


def test_a_patient_without_slices_counts_for_nothing() -> None:
    assert case_interval({**DICE, "8": 0.0}, {**SLICES, "8": 0}) == case_interval(DICE, SLICES)


VALUES = st.lists(st.tuples(st.floats(0, 100).map(lambda v: round(v, 2)), st.integers(1, 40)), min_size=6, max_size=12)


@settings(max_examples=40, deadline=None)
@given(VALUES, st.integers(-30, 30), st.randoms(use_true_random=False))
def test_the_interval_moves_with_the_values_and_knows_neither_order_nor_numbers(
    cases: Patients, by: int, generator: random.Random
) -> None:
    found = interval(of([cases]))
    assert found is not None
    moved = interval(of([[(value + by, weight) for value, weight in cases]]))
    assert moved == pytest.approx((found[0] + by, found[1] + by), abs=1e-6)
    doubled = interval(of([[(value, 2 * weight) for value, weight in cases]]))
    assert doubled == pytest.approx(found, abs=1e-6)
    shuffled = list(cases)
    generator.shuffle(shuffled)
    assert interval(of([shuffled])) == pytest.approx(found, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_no_interval_leaves_what_a_mean_can_be(cases: Patients) -> None:
    wide = interval(of([cases]))
    assert wide is not None
    cut = interval(of([cases]), within=(0.0, 100.0))
    assert cut == (min(max(wide[0], 0.0), 100.0), min(max(wide[1], 0.0), 100.0))


def test_equal_patients_give_an_interval_without_width() -> None:
    assert case_interval(dict.fromkeys(SLICES, 90.1), SLICES) == (90.1, 90.1)


def test_many_equal_patients_give_an_interval_all_the_same() -> None:
    found = case_interval({**dict.fromkeys(SLICES, 90.0), "1": 80.0}, SLICES)
    assert found is not None and np.isfinite(found).all()


def test_scores_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(RelayError, match="same case numbers"):
        case_interval(DICE, {"1": 3})
    with pytest.raises(RelayError, match="not a number"):
        case_interval({**DICE, "1": float("nan")}, SLICES)


def test_a_hundred_rows_take_less_than_two_seconds() -> None:
    start = time.process_time()
    for number in range(100):
        case_interval({**DICE, "1": float(number)}, SLICES)
    assert time.process_time() - start < 2


OF_THE_PROGRAM = {6: "Hartigan", **dict.fromkeys(PATIENTS[1:], "bootstrap-t")}
"""The method of `common.statistics.intervals.interval` by the number of patients."""


@pytest.mark.parametrize("patients", PATIENTS)
def test_the_method_is_the_one_that_the_simulation_chooses(patients: int) -> None:
    """With few samples, so that the cover is only told to a point; the full number of samples is simulated nightly."""
    found = table(patients, samples=2000)
    assert best(found) == OF_THE_PROGRAM[patients]
    for draw in DECIDE:
        assert abs(found[OF_THE_PROGRAM[patients], draw].held - 95) < TOLERANCE + 1


@pytest.mark.nightly
@pytest.mark.parametrize("patients", PATIENTS)
def test_the_chosen_method_holds_the_mean_within_two_points_of_its_promise(patients: int) -> None:
    found = table(patients, SAMPLES)
    assert best(found) == OF_THE_PROGRAM[patients]
    for draw in DECIDE:
        assert abs(found[OF_THE_PROGRAM[patients], draw].held - 95) < TOLERANCE


@pytest.mark.parametrize("draw", DECIDE)
@pytest.mark.parametrize(
    "patients", [*PATIENTS[:3], *(pytest.param(n, marks=pytest.mark.nightly) for n in PATIENTS[3:])]
)
def test_95_of_100_intervals_of_the_program_hold_the_mean(draw: str, patients: int) -> None:
    found = coverage(of_the_program, draw, patients, samples=1000)
    assert abs(found.held - 95) < TOLERANCE + 0.5
    assert draw != "normal" or found.middle < 1.35, "not much wider than the t interval, which knows the distribution"


def of_the_program(values: Floats, generator: np.random.Generator) -> Ends:
    ends = [interval(of([[(float(value), 1.0) for value in sample]])) for sample in values]
    assert all(ends)
    low, high = np.array(ends).T
    return low, high


@pytest.mark.slow
def test_of_normal_patients_at_several_small_hospitals_as_many_do() -> None:
    generator, held = np.random.default_rng(3), 0
    for _ in range(1000):
        found = interval(of([[(float(value), 1.0) for value in generator.normal(size=size)] for size in (6, 6, 4)]))
        assert found is not None
        held += found[0] <= 0 <= found[1]
    assert abs(held / 10 - 95) < 2


def test_the_standard_error_of_equal_slices_is_that_of_a_mean() -> None:
    """Or the test by hand would share a mistake of the formula."""
    values = [1.5, -0.5, 2.0, 3.5, 0.25, 7.0]
    assert mean_and_error([[(value, 3.0) for value in values]]) == pytest.approx(
        (fmean(values), stdev(values) / len(values) ** 0.5)
    )
