"""Intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from common.errors import RelayError

RESAMPLES = 10_000
"""How often patients are drawn for an interval."""


def enough_patients(patients: int, *, level: float = 0.95) -> bool:
    """Whether a percentile bootstrap over so many patients says more than their range.

    The lowest resample draws one patient n times, which happens with probability n^-n. Where that is no rarer
    than one tail, (1 - level) / 2, both ends of the interval are the worst and the best patient whatever lies
    between them: at 95 % so with two (1/4) and three patients (1/27), no longer with four (1/256).
    """
    return patients > 1 and float(patients) ** -patients < (1 - level) / 2


def _slice_mean(dice: NDArray[np.float64], slices: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return (dice * slices).sum(axis=axis) / slices.sum(axis=axis)


def bootstrap_ci(
    case_dice: Mapping[str, float],
    case_slices: Mapping[str, int],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """The interval of a slice mean, resampled by patient.

    A patient's slices resemble one another, so the patient is what is drawn: each resample takes as many
    patients as there are, with repetition, and each brings its Dice and its slices along (a ratio of two
    sums, resampled together). Percentile method: Efron & Tibshirani, An Introduction to the Bootstrap,
    1993, ch. 13. With the four to six test patients of a small site such an interval is on the narrow
    side: means of n values resampled spread by a factor sqrt((n - 1) / n) too little. It knows nothing of
    another split or another training.

    Args:
        case_dice: the mean Dice over a patient's slices, in any unit, by case number.
        case_slices: how many slices that was, for the same cases; a patient without any is passed over.
        seed: the same seed gives the same interval, whatever the order of the patients in the mappings.
        resamples: how often patients are drawn.
        level: the share of resamples between the two ends.

    Returns:
        (low, high) in the unit of `case_dice`, or None with too few patients (see `enough_patients`).

    Raises:
        RelayError: the two mappings do not name the same patients, or a value is not a number.
    """
    if case_dice.keys() != case_slices.keys():
        raise RelayError(
            "The Dice and the slices of the test patients do not name the same case numbers: score that site again."
        )
    cases = sorted(case for case, count in case_slices.items() if count > 0)
    if not enough_patients(len(cases), level=level):
        return None
    dice = np.array([case_dice[case] for case in cases], dtype=np.float64)
    slices = np.array([case_slices[case] for case in cases], dtype=np.float64)
    if not np.isfinite(dice).all():
        raise RelayError("The Dice of a test patient is not a number: score that site again.")
    if np.ptp(dice) == 0:  # every resample has this mean; only rounding would differ
        return float(dice[0]), float(dice[0])
    interval = bootstrap(
        (dice, slices),
        _slice_mean,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 1_000_000 // len(cases)),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
