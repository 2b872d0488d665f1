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
    patients = own.patients
    slices = [patient.slices for patient in patients]
    dice, iou = (figure([100 * getattr(patient, name) for patient in patients], slices) for name in ("dice", "iou"))
    volume = figure([100 * patient.dice_volume for patient in patients])
    if dice is None or iou is None or volume is None:
        raise ValueError("there is no patient to score")
    return Scores(
        slices=sum(slices),
        dice=dice,
        iou=iou,
        dice_volume=volume,
        hd95_mm=figure([patient.hd95_mm for patient in patients if patient.hd95_mm is not None]),
        assd_mm=figure([patient.assd_mm for patient in patients if patient.assd_mm is not None]),
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
