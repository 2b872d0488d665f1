"""Paired differences, against enumeration by a plain loop, scipy's own test, and values worked out by hand."""

from __future__ import annotations

import itertools
import random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test, ttest_1samp

from common.errors import RelayError
from common.statistics.intervals import slice_mean
from common.statistics.paired import (
    better,
    contributions,
    difference,
    holm,
    patient_means,
    sign_flip_p,
    smallest_p,
    standardised,
)

Site = dict[str, tuple[float, int]]

A: Site = {"3": (2.0, 10), "7": (-1.0, 20), "9": (4.0, 10)}
B: Site = {"1": (0.5, 8), "2": (3.0, 8)}


def by_loop(sites: list[Site]) -> float:
    """p by trying every pattern of signs, one after the other."""

    def statistic(signs: tuple[int, ...]) -> float:
        rest = iter(signs)
        means = []
        for site in sites:
            total = sum(next(rest) * value * slices for value, slices in site.values())
            means.append(total / sum(slices for _, slices in site.values()))
        return abs(sum(means) / len(means))

    patients = sum(len(site) for site in sites)
    observed = statistic((1,) * patients)
    patterns = list(itertools.product((1, -1), repeat=patients))
    return sum(statistic(signs) >= observed - 1e-9 for signs in patterns) / len(patterns)


def drawn(generator: random.Random, patients: int, shift: float = 0.0) -> Site:
    return {str(case): (generator.gauss(shift, 2), generator.randint(5, 20)) for case in range(patients)}


def test_the_statistic_is_the_mean_over_sites_of_the_differences_that_the_table_shows() -> None:
    # A: (20 - 20 + 40) / 40 = 1; B: (4 + 24) / 16 = 1.75
    assert slice_mean({"A": [A], "B": [B]}) == pytest.approx((1 + 1.75) / 2)
    assert contributions({"A": [A], "B": [B]}).sum() == pytest.approx((1 + 1.75) / 2)


def test_p_is_that_of_trying_all_signs_one_by_one() -> None:
    assert sign_flip_p({"A": [A], "B": [B]}, seed=1) == by_loop([A, B])
    generator = random.Random(5)
    for patients in ((4,), (6,), (3, 4), (2, 3, 4)):
        sites = [drawn(generator, number, 1.0) for number in patients]
        strata = {str(index): [site] for index, site in enumerate(sites)}
        assert sign_flip_p(strata, seed=1) == pytest.approx(by_loop(sites), abs=1e-12)


def test_p_is_that_of_scipy_where_a_mean_is_tested() -> None:
    values = [random.Random(8).gauss(0.7, 1) for _ in range(12)]
    expected = permutation_test(
        (values,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", vectorized=True, n_resamples=10_000
    )
    ours = sign_flip_p({"A": [{str(k): (value, 7) for k, value in enumerate(values)}]}, seed=1)
    assert ours == pytest.approx(expected.pvalue, abs=1e-12)


def test_drawn_signs_come_close_to_all_signs_and_count_the_observed_one_in() -> None:
    strata = {"A": [drawn(random.Random(2), 14, 0.8)]}
    assert sign_flip_p(strata, seed=3, exact=0) == pytest.approx(sign_flip_p(strata, seed=3), abs=0.006)
    everyone_better = {"A": [{str(case): (50.0 + case, 10) for case in range(40)}]}
    assert sign_flip_p(everyone_better, seed=3) == 1 / 100_000 == smallest_p(40)


@pytest.mark.parametrize("patients", [1, 2, 4, 6, 16])
def test_no_p_is_below_the_smallest_attainable_and_all_one_way_reaches_it(patients: int) -> None:
    site = {str(case): (1.0 + case, 10) for case in range(patients)}
    assert sign_flip_p({"A": [site]}, seed=1) == smallest_p(patients) == 2 / 2**patients


def test_p_is_one_where_all_differences_are_zero() -> None:
    zero = {str(case): (0.0, 5) for case in range(6)}
    assert sign_flip_p({"A": [zero], "B": [zero]}, seed=1) == 1
    assert standardised({"A": [zero]}) is None
    assert better({"A": [zero]}) == (0, 6)


def test_p_is_about_uniform_where_neither_method_is_better() -> None:
    generator = random.Random(11)
    found = [
        sign_flip_p({"A": [drawn(generator, 6)], "B": [drawn(generator, 4)]}, seed=number) for number in range(600)
    ]
    for level in (0.05, 0.1, 0.25, 0.5, 0.8):
        share = fmean(p <= level for p in found)
        assert abs(share - level) < 4 * (level * (1 - level) / 600) ** 0.5  # four standard errors


SITES = st.dictionaries(
    st.sampled_from("ABC"),
    st.dictionaries(
        st.integers(1, 99).map(str),
        st.tuples(st.floats(-30, 30).map(lambda value: round(value, 3)), st.integers(1, 30)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(SITES, st.randoms(use_true_random=False))
def test_neither_the_order_of_patients_and_sites_nor_which_method_comes_first_changes_p(
    sites: dict[str, Site], generator: random.Random
) -> None:
    def shuffled(mapping: dict[str, object]) -> dict[str, object]:
        names = list(mapping)
        generator.shuffle(names)
        return {name: mapping[name] for name in names}

    strata = {name: [site] for name, site in sites.items()}
    mixed = {name: [shuffled(site)] for name, site in shuffled(sites).items()}  # type: ignore[arg-type]
    swapped = {name: [{case: (-v, s) for case, (v, s) in site.items()}] for name, site in sites.items()}
    p = sign_flip_p(strata, seed=1)
    assert sign_flip_p(mixed, seed=1) == pytest.approx(p)
    assert sign_flip_p(swapped, seed=1) == pytest.approx(p)
    assert slice_mean(swapped) == pytest.approx(-(slice_mean(strata) or 0.0), abs=1e-9)
    one, other = standardised(strata), standardised(swapped)
    assert (one is None) == (other is None)
    assert one is None or other == pytest.approx(-one)
    wins, patients = better(strata)
    losses = better(swapped)[0]
    zeros = sum(value == 0 for site in sites.values() for value, _ in site.values())
    assert wins + losses + zeros == patients == sum(len(site) for site in sites.values())


def test_holm_corrects_as_worked_out_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1 gives 0.04, 0.06, 0.06, 0.04, and none below the one before
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_a_p_nor_raises_it_further_than_bonferroni(values: list[float]) -> None:
    for p, corrected in zip(values, holm(values), strict=True):
        assert p <= corrected <= min(1.0, p * len(values)) + 1e-12


def test_the_standardised_effect_is_t_over_the_root_of_the_patients() -> None:
    values = [1.5, -0.5, 2.0, 3.5, 0.25]
    strata = {"A": [{str(k): (value, 3 + k) for k, value in enumerate(values)}]}
    assert standardised(strata) == pytest.approx(ttest_1samp(values, 0).statistic / len(values) ** 0.5)


def test_a_patient_of_several_repeats_counts_once() -> None:
    first: Site = {"1": (2.0, 10), "2": (4.0, 10)}
    second: Site = {"2": (-2.0, 10), "3": (6.0, 30)}
    strata = {"A": [first, second]}
    # repeats: 3.0 and (-20 + 180) / 40 = 4.0
    assert slice_mean(strata) == pytest.approx(3.5)
    assert patient_means(strata["A"]) == {"1": 2.0, "2": 1.0, "3": 6.0}
    assert better(strata) == (3, 3)
    # patient 2 brings (4 · 10/20 − 2 · 10/40) / 2, and changes its sign in both repeats at once
    assert sorted(contributions(strata)) == pytest.approx(sorted([0.5, 0.75, 2.25]))
    assert sign_flip_p(strata, seed=1) == smallest_p(3) == 0.25


def test_differences_are_taken_patient_by_patient_and_only_of_the_same_slices() -> None:
    one: Site = {"1": (90.0, 10), "2": (80.0, 5)}
    other: Site = {"2": (82.0, 5), "1": (85.0, 10)}
    assert difference(one, other) == {"1": (5.0, 10), "2": (-2.0, 5)}
    assert difference(other, one) == {"1": (-5.0, 10), "2": (2.0, 5)}
    for spoilt in ({"1": (85.0, 10)}, {"1": (85.0, 10), "2": (82.0, 6)}, {"1": (85.0, 10), "3": (82.0, 5)}):
        with pytest.raises(RelayError, match="same slices of the same patients"):
            difference(one, spoilt)
