"""The power of a paired test, against the textbook, tables, and a simulation of whole studies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, ttest_1samp

from common.statistics.power import POWER, patients_for, power, smallest_gain
from tests.bench.coverage import SAMPLES, power_of


@pytest.mark.parametrize(("effect", "patients"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_the_patients_are_those_of_the_tables_for_small_medium_and_large_effects(effect: float, patients: int) -> None:
    """Faul et al., Behavior Research Methods 39, 2007 (G*Power): matched pairs, two-sided 5 %, 80 % power."""
    assert patients_for(effect, 1.0) == patients
    assert patients_for(2 * effect, 2.0) == patients


@pytest.mark.parametrize(("patients", "gain"), [(4, 4.3), (6, 2.9), (30, 1.1)])
def test_the_smallest_gain_for_a_deviation_of_two_points(patients: int, gain: float) -> None:
    found = smallest_gain(patients, 2.0)
    assert found is not None and round(found, 1) == gain


def test_a_tabled_power() -> None:
    """Faul et al., 2007: of an effect of 0.5 with 34 pairs the power is 0.8078, with 33 pairs 0.7954."""
    assert power(0.5, patients=34, sd=1.0) == pytest.approx(0.8078, abs=5e-5)
    assert power(0.5, patients=33, sd=1.0) == pytest.approx(0.7954, abs=5e-5)
    assert power(0.0, patients=12, sd=3.0) == pytest.approx(0.05)


@pytest.mark.parametrize("patients", [2, 4, 6, 30])
def test_so_many_simulated_studies_show_the_gain(patients: int) -> None:
    gain = smallest_gain(patients, 2.0)
    assert gain is not None
    studies = np.random.default_rng((2007, patients)).normal(gain, 2.0, size=(200_000, patients))
    shown = float(np.mean(ttest_1samp(studies, 0.0, axis=1).pvalue < 0.05))
    assert shown == pytest.approx(POWER, abs=0.0036)  # four standard errors


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 200), st.floats(0.05, 20))
def test_more_patients_show_less_and_the_two_functions_are_each_others_inverse(patients: int, sd: float) -> None:
    gain, next_gain = smallest_gain(patients, sd), smallest_gain(patients + 1, sd)
    assert gain is not None and next_gain is not None
    assert next_gain < gain
    assert power(gain, patients=patients, sd=sd) == pytest.approx(POWER, abs=1e-6)
    assert patients_for(1.0001 * gain, sd) == patients
    assert patients_for(0.9999 * gain, sd) == patients + 1


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 300), st.floats(0, 100), st.floats(0.01, 20))
def test_a_power_is_a_share_whatever_the_gain(patients: int, gain: float, sd: float) -> None:
    found = power(gain, patients=patients, sd=sd)
    assert math.isfinite(found) and 0.05 - 1e-9 <= found <= 1 + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("name", "patients", "share"), [("Hartigan", 6, 62), ("bootstrap-t", 10, 75)])
def test_the_intervals_of_the_report_ask_for_more(name: str, patients: int, share: int) -> None:
    """As docs/explanation/statistics.md says; of six patients all must be better, which is a power of one chance."""
    # Three standard errors: 0.3 of the samples, 0.3 of the resamples that they share, and 0.2 of rounding.
    assert power_of(name, patients, SAMPLES) == pytest.approx(share, abs=1.5)
    if patients == 6:
        gain = smallest_gain(patients, 1.0)
        assert gain is not None and round(100 * float(norm.cdf(gain)) ** 6) == share


def test_one_patient_shows_nothing() -> None:
    assert smallest_gain(1, 2.0) is None and smallest_gain(0, 2.0) is None
