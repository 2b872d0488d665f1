"""How firm the choice of a route is, and how far the chosen route's score is too good: a bootstrap over the patients.

The best of several routes by the same patients has a score that is too good, and the more so the closer the routes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.statistics.intervals import FEWEST, Repeat

RESAMPLES = 2_000
SEED = 1983


@dataclass(frozen=True)
class Firmness:
    """A choice of the best of several candidates, and what other patients would have chosen."""

    chosen: int
    """The place of the candidate with the best mean over the folds."""
    shares: tuple[float, ...]
    """The share of resamples that choose each candidate."""
    optimism: float
    """How far the score of the chosen candidate is too good, in the unit of the values."""
    patients: int

    @property
    def another(self) -> float:
        """The share of resamples that choose another candidate."""
        return 1 - self.shares[self.chosen]


def choice(candidates: Sequence[Sequence[Repeat]]) -> Firmness | None:
    """Return what a choice among candidates would have been with other patients.

    Patients are drawn with replacement within each fold, the same patients for all candidates, and the choice is made
    again by the rule of `common.plan.selection`: the best mean over the folds, the first among equals. The optimism is
    Efron's (Journal of the American Statistical Association 78, 1983): the score of a resample's choice on the
    resample, minus its score on the patients themselves, in the mean over the resamples. It is that of choosing among
    these candidates; what the choice of epoch and fold by the same patients adds is not in it.

    Args:
        candidates: for each candidate the validation patients of its folds, the same folds in the same order: values
            and weights by case number.

    Returns:
        The choice; None with a single candidate, with fewer than `FEWEST` patients, or where candidates were not scored
        on the same patients.
    """
    folds = list(zip(*candidates, strict=True)) if len({len(folds) for folds in candidates}) == 1 else []
    held = [[case for case, (_, weight) in sorted(fold[0].items()) if weight > 0] for fold in folds]
    counted = [{tuple((case, one[case][1]) for case in sorted(one)) for one in fold} for fold in folds]
    patients = sum(map(len, held))
    if len(candidates) < 2 or patients < FEWEST or not all(held) or any(len(found) > 1 for found in counted):
        return None
    generator = np.random.default_rng(SEED)
    own, drawn = np.zeros(len(candidates)), np.zeros((RESAMPLES, len(candidates)))
    for fold, cases in zip(folds, held, strict=True):
        weights = np.array([fold[0][case][1] for case in cases], dtype=np.float64)
        values = np.array([[one[case][0] for one in fold] for case in cases], dtype=np.float64)
        counts = generator.multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=RESAMPLES) * weights
        own += weights @ values / weights.sum() / len(folds)
        drawn += counts @ values / counts.sum(axis=1, keepdims=True) / len(folds)
    best = drawn.argmax(axis=1)
    shares = np.bincount(best, minlength=len(candidates)) / RESAMPLES
    optimism = float(np.mean(drawn[np.arange(RESAMPLES), best] - own[best]))
    return Firmness(int(own.argmax()), tuple(map(float, shares)), optimism, patients)
