"""Two methods on the same held-out patients: how they differ, and how sure that is.

The patient is the unit. A patient that several repeats of a study hold out is one patient all the same: its
differences are drawn together, and change their sign together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import RelayError
from common.statistics.intervals import Repeat, Strata, patients_of

EXACT = 20
"""With up to so many patients all 2^n patterns of signs are tried."""
DRAWN = 99_999
"""With more, so many patterns are drawn."""
LEVEL = 0.05


def difference(one: Repeat, other: Repeat) -> Repeat:
    """One method's Dice minus another's, patient by patient.

    Raises:
        RelayError: they were not scored on the same slices of the same patients.
    """
    if {case: slices for case, (_, slices) in one.items()} != {case: slices for case, (_, slices) in other.items()}:
        raise RelayError("Two methods were not scored on the same slices of the same patients: score that site again.")
    return {case: (value - other[case][0], slices) for case, (value, slices) in one.items()}


def contributions(strata: Strata) -> NDArray[np.float64]:
    """Return what every patient contributes to the slice mean: these add up to `common.statistics.intervals.slice_mean`."""
    found = []
    for repeats in strata.values():
        held = [repeat for repeat in repeats if any(slices > 0 for _, slices in repeat.values())]
        for case in patients_of(held):
            shares = [
                repeat[case][0] * repeat[case][1] / sum(slices for _, slices in repeat.values())
                for repeat in held
                if case in repeat
            ]
            found.append(sum(shares) / len(held) / len(strata))
    return np.array(found, dtype=np.float64)


def sign_flip_p(strata: Strata, *, seed: int, exact: int = EXACT) -> float:
    """Return the two-sided p of a permutation test for paired values, stratified over sites.

    If neither method were better than the other for patients like these, each patient's difference might as well
    have had the other sign. The statistic is the absolute slice mean of the differences: the mean over sites of
    the differences that the comparison's table shows, so that a site of many patients does not outvote the
    others. Signs change within patients, never across sites. Fisher, The Design of Experiments, 1935, § 21; drawn
    patterns count the observed one in: Phipson & Smyth, Statistical Applications in Genetics and Molecular Biology
    9, 2010.

    The trained models are taken as they are: the test says nothing of another training.

    `scipy.stats.permutation_test` gives the same p to the last digit where all patterns are tried (a test compares
    them), but takes a second for 16 patients and 4.5 for 18, where this takes milliseconds, and a report makes a test
    an opponent. Of drawn patterns it takes twice the smaller tail, whose smallest p is twice as large.

    Args:
        strata: the differences, by site and repeat; see `difference`.
        exact: up to how many patients all patterns are tried.
    """
    shares = contributions(strata)
    observed = abs(shares.sum())
    if observed == 0:
        return 1.0
    if len(shares) <= exact:
        sums = np.zeros(1)
        for share in shares:
            sums = np.concatenate([sums + share, sums - share])
        return float(np.mean(_as_far(sums, observed)))
    generator = np.random.default_rng(seed)
    beyond = 0
    for _ in range(9):  # by parts, for the sake of memory
        signs = generator.integers(0, 2, size=(DRAWN // 9, len(shares)), dtype=np.int8) * 2 - 1
        beyond += int(np.count_nonzero(_as_far(signs @ shares, observed)))
    return (beyond + 1) / (DRAWN + 1)


def _as_far(sums: NDArray[np.float64], observed: float) -> NDArray[np.bool_]:
    """Whether a pattern's sum lies as far from zero as the observed one; rounding decides nothing."""
    return np.abs(sums) >= observed * (1 - 1e-9)


def smallest_p(patients: int, *, exact: int = EXACT) -> float:
    """Return the smallest p that `sign_flip_p` can give.

    Of 2^n patterns of signs two are as extreme as all differences one way; of drawn ones, the observed one is there.
    """
    if patients < 1:
        return 1.0
    return float(2.0 ** (1 - patients) if patients <= exact else 1 / (DRAWN + 1))


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for their number, in their order: the chance of even one false alarm stays below the level.

    Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected = [1.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = highest
    return corrected


def patient_means(repeats: Sequence[Repeat]) -> dict[str, float]:
    """Of each patient of a site the mean over the repeats that held it out."""
    return {
        case: float(np.mean([repeat[case][0] for repeat in repeats if repeat.get(case, (0.0, 0))[1] > 0]))
        for case in patients_of(repeats)
    }


def standardised(strata: Strata) -> float | None:
    """Return the paired effect in standard deviations of the patients' differences, d_z; every patient counts alike.

    Lakens, Frontiers in Psychology 4:863, 2013. None with fewer than two patients, or where all differ alike.
    """
    values = np.array([value for repeats in strata.values() for value in patient_means(repeats).values()])
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    return float(values.mean() / values.std(ddof=1))


def better(strata: Strata) -> tuple[int, int]:
    """In how many of how many patients the difference is above zero."""
    values = [value for repeats in strata.values() for value in patient_means(repeats).values()]
    return sum(value > 0 for value in values), len(values)
