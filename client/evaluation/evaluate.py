"""Scores of a model on a site's patients, on their native grid and against the expert's mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.evaluation.surface_distance import surface_distances
from client.preprocessing.pipeline import Record, load, to_native
from common import metrics


@dataclass(frozen=True)
class CaseScore:
    """A patient's scores (`common.scores`), overlaps from 0 to 1. `patient` stays at the site."""

    patient: str
    slices: int
    """The number of slices selected by the expert's mask; `dice` and `iou` are means over these slices."""
    dice: float
    iou: float
    dice_volume: float
    """Dice over all voxels of all slices, slices without prostate included."""
    false_slices: int = 0
    """The number of slices without gland in which gland was predicted."""
    empty_slices: int = 0
    """The number of slices without gland."""
    hd95_mm: float | None = None
    """95 % Hausdorff distance over all slices, like `assd_mm`; None where the prediction is empty, or distances were
    not measured."""
    assd_mm: float | None = None


@dataclass(frozen=True)
class Example:
    """A selected slice with its segmentation. Examples never leave the site."""

    patient: str
    number: int
    """The slice's index in the volume, counted from 0 at the feet."""
    image: NDArray[np.float32]
    """(pixels, pixels), on the study's grid, bias field corrected, not standardised."""
    expert: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    dice: float
    """The slice's Dice on the native grid, as in the scores."""


def evaluate(
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    records: Sequence[Record],
    mean_std: Callable[[Record], tuple[float, float]],
    *,
    surfaces: bool = False,
    keep: Callable[[Example], None] | None = None,
) -> list[CaseScore]:
    """Score a model on patients.

    Predictions are resampled to the native grid and thresholded at 0.5 there, before they are compared with the masks.

    Args:
        predict: takes standardised slices (n, pixels, pixels) and returns probabilities of the same shape.
        records: the patients, from `client.preprocessing.pipeline.prepare`.
        mean_std: returns the mean and standard deviation with which a patient's image is standardised.
        surfaces: whether distances between surfaces are measured as well.
        keep: is called with every selected slice, for the site's own page.

    Returns:
        A score for each patient, in the order of `records`.

    Raises:
        ValueError: `predict` returns another shape.
    """
    scores = []
    for record in records:
        slices = load(record)
        mean, std = mean_std(record)
        probabilities = predict((slices.image - np.float32(mean)) / np.float32(std))
        if probabilities.shape != slices.image.shape:
            raise ValueError(f"predictions of shape {probabilities.shape} for slices of {slices.image.shape}")
        predicted = to_native(probabilities, slices) > 0.5
        expert = slices.native_mask
        selected, empty = np.flatnonzero(slices.selected), ~expert.any(axis=(1, 2))
        dice = [metrics.dice(predicted[k], expert[k]) for k in selected]
        distances = surface_distances(predicted, expert, slices.native_spacing) if surfaces else None
        hd95, assd = distances or (None, None)
        scores.append(
            CaseScore(
                patient=record.patient,
                slices=len(selected),
                dice=float(np.mean(dice)),
                iou=float(np.mean([metrics.iou(predicted[k], expert[k]) for k in selected])),
                dice_volume=metrics.dice(predicted, expert),
                false_slices=int(predicted[empty].any(axis=(1, 2)).sum()),
                empty_slices=int(empty.sum()),
                hd95_mm=hd95,
                assd_mm=assd,
            )
        )
        if keep is not None:
            for k, value in zip(selected, dice, strict=True):
                keep(
                    Example(
                        patient=record.patient,
                        number=int(k),
                        image=slices.image[k],
                        expert=slices.mask[k],
                        predicted=probabilities[k] > 0.5,
                        dice=value,
                    )
                )
    return scores


def slice_mean(scores: Sequence[CaseScore]) -> tuple[float, float]:
    """Return Dice and IoU, each as a mean over all selected slices of all patients.

    Raises:
        ValueError: the patients have no selected slice.
    """
    slices = sum(score.slices for score in scores)
    if slices == 0:
        raise ValueError("there is no slice to take a mean of")
    dice = sum(score.dice * score.slices for score in scores) / slices
    iou = sum(score.iou * score.slices for score in scores) / slices
    return dice, iou


def volume_mean(scores: Sequence[CaseScore]) -> float:
    """Return the mean of the patients' volume Dice, 0 to 1.

    Raises:
        ValueError: there is no patient.
    """
    if not scores:
        raise ValueError("there is no patient to take a mean of")
    return float(np.mean([score.dice_volume for score in scores]))
