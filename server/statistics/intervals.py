"""Intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from common.errors import RelayError

RESAMPLES = 10_000
"""How often patients are drawn for an interval."""

Repeat = Mapping[str, tuple[float, int]]
"""Of one site's held-out patients in one repeat of the study: by case number a value, a mean over the patient's
slices in any unit, and how many slices that is. Case numbers stay the same in every repeat."""
Strata = Mapping[str, Sequence[Repeat]]
"""By site the repeats that there are; each has held out other patients, and some of them again."""


def enough_patients(patients: int, *, level: float = 0.95) -> bool:
    """Whether a percentile bootstrap over so many patients says more than their range.

    The lowest resample draws one patient n times, which happens with probability n^-n. Where that is no rarer
    than one tail, (1 - level) / 2, both ends of the interval are the worst and the best patient whatever lies
    between them: at 95 % so with two (1/4) and three patients (1/27), no longer with four (1/256).
    """
    return patients > 1 and float(patients) ** -patients < (1 - level) / 2


def slice_mean(strata: Strata) -> float | None:
    """The mean over sites of the mean over repeats of the mean over slices; None where nobody is held out."""
    sites = [_sums(repeats) for repeats in strata.values()]
    if not sites or not all(len(slices) for _, slices in sites):
        return None
    return float(np.mean([np.mean(values.sum(axis=1) / slices.sum(axis=1)) for values, slices in sites]))


def patients_of(repeats: Sequence[Repeat]) -> list[str]:
    """Every patient that was held out once at least and has a slice that counts."""
    return sorted({case for repeat in repeats for case, (_, slices) in repeat.items() if slices > 0})


def interval(
    strata: Strata, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float] | None:
    """The interval of a `slice_mean`, resampled by patient within each site.

    A patient's slices resemble one another, so the patient is what is drawn: each resample takes of each site
    as many patients as there are, with repetition, and each brings its values and its slices along, in all
    repeats in which it was held out (a ratio of two sums, resampled together). Percentile method: Efron &
    Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13. With the four to six test patients of a small
    site such an interval is on the narrow side: means of n values resampled spread by a factor
    sqrt((n - 1) / n) too little. It knows nothing of another training.

    Args:
        seed: the same seed gives the same interval, whatever the order of the patients in the mappings.
        resamples: how often patients are drawn.
        level: the share of resamples between the two ends.

    Returns:
        (low, high) in the unit of the values, or None where a site has too few patients (see `enough_patients`).

    Raises:
        RelayError: a value is not a number.
    """
    cases = {site: patients_of(repeats) for site, repeats in strata.items()}
    if not cases or not all(enough_patients(len(names), level=level) for names in cases.values()):
        return None
    sums = [_sums(strata[site]) for site in sorted(strata)]
    if not all(np.isfinite(values).all() for values, _ in sums):
        raise RelayError("The Dice of a test patient is not a number: score that site again.")
    if len(sums) == 1 and np.ptp(alike := _values(strata[next(iter(strata))])) == 0:
        return float(alike[0]), float(alike[0])  # every resample has this mean; only rounding would differ

    def mean(*drawn: NDArray[np.intp], axis: int = -1) -> NDArray[np.float64]:
        # scipy hands over, for each site, which patients were drawn: (resamples, patients), the last axis last
        return np.mean(
            [
                _mean_over_repeats(values, slices, np.asarray(index).astype(np.intp))
                for (values, slices), index in zip(sums, drawn, strict=True)
            ],
            axis=0,
        )

    most = max(len(names) for names in cases.values())
    found = bootstrap(
        tuple(np.arange(values.shape[1]) for values, _ in sums),
        mean,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 1_000_000 // most),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def bootstrap_ci(
    case_dice: Mapping[str, float],
    case_slices: Mapping[str, int],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """The `interval` of one site's slice mean in one repeat.

    Args:
        case_dice: the mean Dice over a patient's slices, in any unit, by case number.
        case_slices: how many slices that was, for the same cases; a patient without any is passed over.

    Raises:
        RelayError: the two mappings do not name the same patients, or a value is not a number.
    """
    if case_dice.keys() != case_slices.keys():
        raise RelayError(
            "The Dice and the slices of the test patients do not name the same case numbers: score that site again."
        )
    repeat = {case: (case_dice[case], case_slices[case]) for case in case_dice}
    return interval({"": [repeat]}, seed=seed, resamples=resamples, level=level)


def _sums(repeats: Sequence[Repeat]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values times slices, and slices: (repeats, patients) each, zero where a patient was not held out.

    A repeat in which nobody was held out is left out.
    """
    cases = patients_of(repeats)
    held = [repeat for repeat in repeats if any(slices > 0 for _, slices in repeat.values())]
    slices = np.array([[repeat.get(case, (0.0, 0))[1] for case in cases] for repeat in held], dtype=np.float64)
    values = np.array([[repeat.get(case, (0.0, 0))[0] for case in cases] for repeat in held], dtype=np.float64)
    return np.where(slices > 0, values * slices, 0.0), slices


def _values(repeats: Sequence[Repeat]) -> NDArray[np.float64]:
    return np.array([value for repeat in repeats for value, slices in repeat.values() if slices > 0])


def _mean_over_repeats(
    values: NDArray[np.float64], slices: NDArray[np.float64], drawn: NDArray[np.intp]
) -> NDArray[np.float64]:
    """The mean over repeats of the slice means of the patients drawn; a repeat of whom nobody is drawn says nothing."""
    total, count = np.zeros(drawn.shape[:-1]), np.zeros(drawn.shape[:-1])
    for value, number in zip(values, slices, strict=True):
        behind = number[drawn].sum(axis=-1)
        total += np.divide(value[drawn].sum(axis=-1), behind, out=np.zeros_like(behind), where=behind > 0)
        count += behind > 0
    return total / count
