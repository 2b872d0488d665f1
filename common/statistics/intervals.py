"""The interval of a mean over patients: one method for the report, the letter and the model card.

The unit that is drawn is the patient, for a patient's slices resemble one another. An interval says how much the choice
of the held-out patients matters; it knows nothing of another training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import RelayError

FEWEST = 6
"""The fewest patients that an interval is made of; with fewer there is none, however alike they are."""
FEWEST_A_SITE = 4
"""Of an interval over several hospitals, the fewest patients that each of them brings."""
RESAMPLES = 9_999
"""How often patients are drawn for an interval."""
ANYWHERE = (-math.inf, math.inf)

Repeat = Mapping[str, tuple[float, float]]
"""Of one site's held-out patients in one repeat of the study: by case number a value, in any unit, and how much it
counts, such as the number of slices that it is a mean over. Case numbers stay the same in every repeat."""
Strata = Mapping[str, Sequence[Repeat]]
"""By site the repeats that there are; each has held out other patients, and some of them again."""
Sample = tuple[NDArray[np.float64], NDArray[np.float64]]
"""One site's patients: a value each and its weight, (patients,) both."""


def slice_mean(strata: Strata) -> float | None:
    """Return the mean over sites of the mean over repeats of the mean over slices; None where nobody is held out."""
    samples = [_sample(repeats) for repeats in strata.values()]
    if not samples or not all(len(values) for values, _ in samples):
        return None
    return float(np.mean([_mean(*sample) for sample in samples]))


def patients_of(repeats: Sequence[Repeat]) -> list[str]:
    """Return every patient that was held out once at least and has a slice that counts."""
    return sorted({case for repeat in repeats for case, (_, slices) in repeat.items() if slices > 0})


def interval(
    strata: Strata, *, level: float = 0.95, within: tuple[float, float] = ANYWHERE
) -> tuple[float, float] | None:
    """Return the bootstrap-t interval of a `slice_mean`, patients drawn within each site.

    Each resample takes of each site as many patients as there are, with repetition; each patient brings its values and
    weights along, in all repeats in which it was held out. Of each resample the distance of its mean from the observed
    one counts in its own standard errors, so that few patients and skewed ones make the interval as wide as they must:
    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 12.5. The standard error is that of a ratio of two
    sums over patients (Cochran, Sampling Techniques, 1977, ch. 6). docs/explanation/statistics.md compares the method
    with others. The draws are the same for every call, so that equal values have equal intervals everywhere.

    Args:
        strata: values and weights, by site and repeat.
        level: the share of intervals that are to hold the true mean.
        within: the least and the greatest value that the mean can have; the interval is cut there.

    Returns:
        (low, high) in the unit of the values, or None where there are too few patients (`FEWEST`, `FEWEST_A_SITE`).

    Raises:
        RelayError: a value is not a number.
    """
    samples = [_sample(strata[site]) for site in sorted(strata)]
    sizes = [len(values) for values, _ in samples]
    if sum(sizes) < FEWEST or min(sizes) < FEWEST_A_SITE:
        return None
    if not all(np.isfinite(values).all() for values, _ in samples):
        raise RelayError("The Dice of a test patient is not a number: score that site again.")
    ones = [np.ones((1, size)) for size in sizes]
    ((mean,), (error,)) = _means_and_errors(samples, ones)
    if error == 0:
        return float(mean), float(mean)
    means, errors = _means_and_errors(samples, [_drawn(size, place) for place, size in enumerate(sizes)])
    told = errors > 1e-9 * error  # in the others one patient was drawn every time, which says nothing
    ends = np.quantile((means[told] - mean) / errors[told], [(1 + level) / 2, (1 - level) / 2])
    low, high = np.clip(mean - error * ends, *within)
    return float(low), float(high)


def case_interval(
    case_dice: Mapping[str, float], case_slices: Mapping[str, int], *, within: tuple[float, float] = ANYWHERE
) -> tuple[float, float] | None:
    """Return the `interval` of one site's slice mean in one repeat.

    Args:
        case_dice: the mean Dice over a patient's slices, in any unit, by case number.
        case_slices: how many slices that is, for the same cases; a patient without any is passed over.
        within: see `interval`.

    Raises:
        RelayError: the two mappings do not name the same patients, or a value is not a number.
    """
    if case_dice.keys() != case_slices.keys():
        raise RelayError(
            "The Dice and the slices of the test patients do not name the same case numbers: score that site again."
        )
    repeat = {case: (case_dice[case], case_slices[case]) for case in case_dice}
    return interval({"": [repeat]}, within=within)


def _sample(repeats: Sequence[Repeat]) -> Sample:
    """Return a site's patients, their weighted mean being the mean over repeats of the means over slices.

    A repeat in which nobody is held out is left out. The patients are in the order of their values, whatever their
    numbers.
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
    """Return the mean over sites and its standard error, for every resample.

    Args:
        drawn: of each site how often each patient is taken, (resamples, patients).
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
    """Return how often each patient is taken in each resample, (resamples, patients), for the site at a place."""
    generator = np.random.default_rng((patients, place))
    return generator.multinomial(patients, np.full(patients, 1 / patients), size=RESAMPLES).astype(np.float64)
