"""What a model is worth at this site, and whether it is better than another, by the site's own test patients.

One kind of interval serves both. Few patients are held out at a hospital, four to six of thirty, and an interval that
is too narrow with so few would promise too much; this one holds for any number, or there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from client.delivery.model_card import Figure, Scores
from client.evaluation.score_store import OwnScores, PatientScore
from common.scores import SCORES, Score

LEVEL = 0.95
EXACT = 16
"""With up to so many patients all subsets of them are taken; with more, as many as there are of 16."""


def fewest_patients(level: float = LEVEL) -> int:
    """The smallest number of patients of which there is an interval: six at 95 %."""
    return next(n for n in range(1, 64) if 2**n * (1 - level) / 2 >= 1)


def interval(values: Sequence[float], weights: Sequence[float], *, level: float = LEVEL) -> tuple[float, float] | None:
    """An interval of the middle that patients' values lie about, for their weighted mean.

    The means of all subsets of the patients divide the line into 2^n parts, each of which holds the middle with the
    same probability: Hartigan, Using subsample values as typical values, JASA 64, 1969. It supposes that each value
    is as likely to lie so far above the middle as below, and nothing else; the values of n patients need not be
    normal, nor spread alike. Zero lies outside exactly where a permutation test of the values' signs finds the mean
    too far from zero, at half of 1 - `level` on either side.

    Args:
        values: one a patient.
        weights: how much each counts, such as the number of its slices; above 0.

    Returns:
        (low, high), or None with fewer patients than `fewest_patients`.
    """
    value, weight = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    sums, counts = _subsets(value * weight, weight)
    beyond = int((len(sums) + 1) * (1 - level) / 2 + 1e-9)
    if not beyond:
        return None
    means = np.sort(sums / counts)
    return float(means[beyond - 1]), float(means[-beyond])


def _subsets(*parts: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """The sums of several arrays over the same subsets of their elements, the empty one left out."""
    n = len(parts[0])
    if n <= EXACT:
        found = [np.zeros(1) for _ in parts]
        for k in range(n):
            found = [np.concatenate([sums, sums + part[k]]) for sums, part in zip(found, parts, strict=True)]
        return tuple(sums[1:] for sums in found)
    drawn = np.random.default_rng(0).random((2**EXACT - 1, n)) < 0.5
    drawn = drawn[drawn.any(axis=1)]
    return tuple(drawn @ part for part in parts)


def figure(values: Sequence[float], weights: Sequence[float] | None = None) -> Figure | None:
    """The weighted mean of patients' values with its interval; None without a patient."""
    if not values:
        return None
    weights = [1.0] * len(values) if weights is None else weights
    low, high = interval(values, weights) or (None, None)
    return Figure(mean=float(np.average(values, weights=weights)), low=low, high=high, patients=len(values))


def scores(own: OwnScores) -> Scores:
    """A model's scores: shares become per cent; Dice and IoU are means over slices, the others over patients."""
    if not own.patients:
        raise ValueError("there is no patient to score")
    figures = {score.key: _figure_of(score, own.patients) for score in SCORES}
    return Scores.model_validate({"slices": sum(patient.slices for patient in own.patients), **figures})


def _figure_of(score: Score, patients: Sequence[PatientScore]) -> Figure | None:
    """Return one score over the patients of whom there is a value."""
    pairs = [(value, one.slices) for one in patients if (value := getattr(one, score.key)) is not None]
    return figure(
        [score.shown(value) for value, _ in pairs],
        [slices for _, slices in pairs] if score.over == "slices" else None,
    )


def differences(one: OwnScores, other: OwnScores) -> list[tuple[float, int]] | None:
    """Of each patient the one model's Dice minus the other's, in points, and its slices.

    None where they were not scored on the same slices of the same patients.
    """

    def counted(patients: Sequence[PatientScore]) -> dict[int, int]:
        return {patient.number: patient.slices for patient in patients}

    if counted(one.patients) != counted(other.patients):
        return None
    before = {patient.number: patient.dice for patient in other.patients}
    return [(100 * (patient.dice - before[patient.number]), patient.slices) for patient in one.patients]


def ahead(one: OwnScores, other: OwnScores) -> Figure | None:
    """How far the one model lies above the other, in points of slice Dice: a mean over the same patients."""
    found = differences(one, other)
    return figure([value for value, _ in found], [slices for _, slices in found]) if found else None
