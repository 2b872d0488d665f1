"""The confidence interval of a mean over patients: the same function for the report, the letter and the model card.

The unit is the patient, since slices of the same patient resemble each other. An interval covers the choice of
held-out patients, but not the variation between trainings.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import RelayError

COVER = 0.95
"""The share of intervals that should contain the true mean."""
FEWEST = 6
"""The fewest patients for an interval, however alike the patients are; so many have the interval of typical values."""
FEWEST_A_SITE = 4
"""The fewest patients of each hospital for an interval over several hospitals."""
RESAMPLES = 9_999
"""The number of bootstrap resamples."""
ANYWHERE = (-math.inf, math.inf)
"""The bounds for a mean that may have any value."""

METHOD = (
    f"with {FEWEST} patients from the lowest of them to the highest (typical values, Hartigan 1969), with more patients"
    " a bootstrap-t (Efron and Tibshirani 1993)"
)
"""What an interval is, in words for the report, the letter and the model card."""

Repeat = Mapping[str, tuple[float, float]]
"""The test patients of a site in a repeat of the study: by case number a value, in any unit, and its weight, such as
the number of slices behind the value. A patient has the same case number in every repeat."""
Strata = Mapping[str, Sequence[Repeat]]
"""The repeats of each site, by site; the test patients of different repeats differ, but some may be the same."""
Sample = tuple[NDArray[np.float64], NDArray[np.float64]]
"""A site's patients: values and weights, arrays of shape (patients,)."""


def slice_mean(strata: Strata) -> float | None:
    """Return the mean over sites of the mean over repeats of the mean over slices.

    None if a site has no test patient.
    """
    samples = [_sample(repeats) for repeats in strata.values()]
    if not samples or not all(len(values) for values, _ in samples):
        return None
    return float(np.mean([_mean(*sample) for sample in samples]))


def patients_of(repeats: Sequence[Repeat]) -> list[str]:
    """Return the patients with a slice in any repeat, sorted."""
    return sorted({case for repeat in repeats for case, (_, slices) in repeat.items() if slices > 0})


def enough(patients: Sequence[int]) -> bool:
    """Return whether there are enough patients for an interval.

    Args:
        patients: the number of patients of each site.
    """
    return sum(patients) >= FEWEST and min(patients) >= FEWEST_A_SITE


def interval(strata: Strata, *, within: tuple[float, float] = ANYWHERE) -> tuple[float, float] | None:
    """Return the 95 % interval of a `slice_mean`.

    A simulation chose the method by the number of patients: `tests/bench/coverage.py`, whose table stands in
    docs/explanation/statistics.md.

    With `FEWEST` patients the interval reaches from the lowest patient to the highest. It is the interval of typical
    values (Hartigan, Journal of the American Statistical Association 64, 1969): of the means of all subsets of six
    patients, the lowest and the highest are patients, and the interval contains the mean of symmetric values in
    1 - 2 / 2^6 = 96.9 % of samples. One patient far from the others cannot widen it beyond that patient.

    With more patients it is the bootstrap-t interval (Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
    ch. 12.5), with patients drawn within each site. Each resample draws, with replacement, as many patients of each
    site as the site has; a drawn patient counts with the values and weights of all repeats with this patient held out.
    The deviation of a resample's mean from the observed mean is divided by the resample's own standard error, which
    widens the interval as needed for few or skewed patients. The formula of the standard error is for a ratio of two
    sums over patients (Cochran, Sampling Techniques, 1977, ch. 6). `scipy.stats.bootstrap` has no such interval. Every
    call makes the same draws, so equal values have equal intervals everywhere.

    Args:
        strata: values and weights, by site and repeat.
        within: the least and the greatest possible value of the mean, at which the interval is cut.

    Returns:
        (low, high) in the unit of the values, or None where there are too few patients (`FEWEST`, `FEWEST_A_SITE`).

    Raises:
        RelayError: a value is not a number.
    """
    samples = [_sample(strata[site]) for site in sorted(strata)]
    sizes = [len(values) for values, _ in samples]
    if not enough(sizes):
        return None
    if not all(np.isfinite(values).all() for values, _ in samples):
        raise RelayError("The Dice of a test patient is not a number: score that site again.")
    low, high = np.clip(_typical_values(samples) if sum(sizes) == FEWEST else _bootstrap_t(samples), *within)
    return float(low), float(high)


def _typical_values(samples: Sequence[Sample]) -> tuple[float, float]:
    """Return the interval of `FEWEST` patients, who are of one site, since each of several has `FEWEST_A_SITE`."""
    ((values, _),) = samples
    return values[0], values[-1]


def _bootstrap_t(samples: Sequence[Sample]) -> tuple[float, float]:
    """Return the bootstrap-t interval of more patients."""
    ones = [np.ones((1, len(values))) for values, _ in samples]
    ((mean,), (error,)) = _means_and_errors(samples, ones)
    if error == 0:
        return mean, mean
    drawn = [_drawn(len(values), place) for place, (values, _) in enumerate(samples)]
    means, errors = _means_and_errors(samples, drawn)
    usable = errors > 1e-9 * error  # all other resamples drew one patient a site, with standard error 0
    ends = np.quantile((means[usable] - mean) / errors[usable], [(1 + COVER) / 2, (1 - COVER) / 2])
    low, high = mean - error * ends
    return low, high


def case_interval(
    values: Mapping[str, float], weights: Mapping[str, int], *, within: tuple[float, float] = ANYWHERE
) -> tuple[float, float] | None:
    """Return the `interval` of one site's mean in one repeat.

    Args:
        values: a patient's value, in any unit, by case number.
        weights: the patient's weight in the mean, such as the number of slices, for the same cases; a patient without
            weight is left out.
        within: see `interval`.

    Raises:
        RelayError: the two mappings do not name the same patients, or a value is not a number.
    """
    if values.keys() != weights.keys():
        raise RelayError(
            "The Dice and the slices of the test patients do not name the same case numbers: score that site again."
        )
    repeat = {case: (values[case], weights[case]) for case in values}
    return interval({"": [repeat]}, within=within)


def _sample(repeats: Sequence[Repeat]) -> Sample:
    """Return a site's patients; their weighted mean is the mean over repeats of the means over slices.

    A repeat without test patients is left out. Patients are sorted by their values, whatever their case numbers.
    """
    held = [repeat for repeat in repeats if any(slices > 0 for _, slices in repeat.values())]
    totals = [sum(slices for _, slices in repeat.values()) for repeat in held]
    pairs = []
    for case in patients_of(held):
        shares = [
            (repeat[case][0], repeat[case][1] / total)
            for repeat, total in zip(held, totals, strict=True)
            if case in repeat and repeat[case][1] > 0
        ]
        weight = sum(share for _, share in shares)
        first = shares[0][0]
        pairs.append((first + sum((value - first) * share for value, share in shares) / weight, weight))
    values, weights = np.array(sorted(pairs), dtype=np.float64).reshape(-1, 2).T
    return values, weights


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float(values[0] + ((values - values[0]) * weights).sum() / weights.sum())


def _means_and_errors(
    samples: Sequence[Sample], drawn: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean over sites and its standard error, for every resample: two arrays of shape (resamples,).

    Args:
        samples: the patients of each site.
        drawn: for each site how often each patient was drawn, of shape (resamples, patients).
    """
    means, variances = np.zeros(len(drawn[0])), np.zeros(len(drawn[0]))
    for (values, weights), counts in zip(samples, drawn, strict=True):
        patients, total = len(values), counts @ weights
        mean = values[0] + counts @ ((values - values[0]) * weights) / total
        squares = (counts * (weights * (values - mean[:, None])) ** 2).sum(axis=1)
        means += mean / len(samples)
        variances += squares * patients / (patients - 1) / total**2 / len(samples) ** 2
    return means, np.sqrt(variances)


@functools.lru_cache(maxsize=32)
def _drawn(patients: int, place: int) -> NDArray[np.float64]:
    """Return how often each patient is drawn in each resample, of shape (resamples, patients).

    Args:
        patients: the number of patients of the site.
        place: the site's place among the sites, which seeds the draws.
    """
    generator = np.random.default_rng((patients, place))
    return generator.multinomial(patients, np.full(patients, 1 / patients), size=RESAMPLES).astype(np.float64)
