"""A model's scores on the site's own test patients, and the comparison of two models on the same patients.

Intervals are computed as in the study's report (`common.statistics.intervals`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.delivery.model_card import CurveBin, Figure, Scores
from client.evaluation.calibration import curve
from client.evaluation.score_store import OwnScores, PatientScore
from common.scores import CALIBRATION_ERROR, OF_ZONES, SCORES, Score
from common.statistics.intervals import ANYWHERE, interval


def figure(
    values: Sequence[float], weights: Sequence[float] | None = None, *, within: tuple[float, float] = ANYWHERE
) -> Figure | None:
    """Return the weighted mean of patients' values with its interval; None without a patient.

    Args:
        values: a value for each patient.
        weights: the patients' weights, such as their numbers of slices, above 0; by default all are equal.
        within: the least and the greatest possible value of the mean.
    """
    if not values:
        return None
    weights = [1.0] * len(values) if weights is None else weights
    patients = {str(k): pair for k, pair in enumerate(zip(values, weights, strict=True))}
    low, high = interval({"": [patients]}, within=within) or (None, None)
    return Figure(mean=float(np.average(values, weights=weights)), low=low, high=high, patients=len(values))


def scores(own: OwnScores, *, minimum_patients: int) -> Scores:
    """Return a model's scores in the displayed units.

    Shares become per cent. Dice and IoU are means over slices, the other scores over patients.

    Args:
        own: the scores of single patients.
        minimum_patients: the smallest number of patients behind a bin of the reliability curve.

    Raises:
        ValueError: the scores are of no patient.
    """
    if not own.patients:
        raise ValueError("there is no patient to score")
    figures = {score.key: _figure_of(score, own.patients) for score in (*SCORES, *OF_ZONES, CALIBRATION_ERROR)}
    counts = ("slices", "false_slices", "empty_slices")
    return Scores.model_validate(
        {
            **figures,
            **{name: sum(getattr(patient, name) for patient in own.patients) for name in counts},
            "reliability": _curve(own.patients, minimum_patients),
        }
    )


def _curve(patients: Sequence[PatientScore], minimum_patients: int) -> tuple[CurveBin, ...]:
    """Return the reliability curve over the patients, in per cent; empty where it was not measured."""
    found = [one.reliability for one in patients if one.reliability is not None]
    return tuple(
        CurveBin(
            patients=point.patients,
            **{name: 100 * getattr(point, name) for name in ("low", "high", "voxels", "probability", "gland")},
        )
        for point in curve(found, minimum_patients=minimum_patients)
    )


def _figure_of(score: Score, patients: Sequence[PatientScore]) -> Figure | None:
    """Return one score over the patients who have a value."""
    pairs = [(value, one.weight(score)) for one in patients if (value := one.value(score)) is not None]
    return figure(
        [score.shown(value) for value, _ in pairs],
        [weight for _, weight in pairs],
        within=score.range,
    )


def differences(one: OwnScores, other: OwnScores, score: Score) -> list[tuple[float, int]] | None:
    """Return the difference of two models' overlap for each patient.

    Args:
        one: the first model's scores.
        other: the second model's scores.
        score: a kind of Dice.

    Returns:
        For each patient the first model's Dice minus the second's, in points, and the patient's weight in the mean;
            None where the models were not scored on the same slices of the same patients.
    """

    def counted(patients: Sequence[PatientScore]) -> dict[int, int]:
        return {patient.number: patient.slices for patient in patients}

    if counted(one.patients) != counted(other.patients):
        return None
    before = {patient.number: patient.value(score) or 0.0 for patient in other.patients}
    return [
        (100 * ((patient.value(score) or 0.0) - before[patient.number]), patient.weight(score))
        for patient in one.patients
    ]


def ahead(one: OwnScores, other: OwnScores, score: Score) -> Figure | None:
    """Return how far the first model lies above the second, in points of a kind of Dice.

    The figure is the mean of the differences over the same patients.
    """
    found = differences(one, other, score)
    if not found:
        return None
    return figure([value for value, _ in found], [weight for _, weight in found], within=(-100.0, 100.0))
