"""How far a model's probabilities can be believed: the expected calibration error and the reliability curve.

A model is calibrated if, of the voxels to which it gives a probability of 80 %, 80 % are gland. The probabilities are
those of the model as it is used, on the patient's own grid and before they are cut at 0.5; of an ensemble, the mean of
its members' probabilities; of zones, the sum of their probabilities. A clean-up changes masks alone and has no part in
these figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.evaluation.clean_up import box_of

BINS = 10
"""Bins of equal width from 0 to 1, as in Naeini et al.; the cut at 0.5 lies between two of them."""
MARGIN_MM = 10.0
"""The voxels that count lie in the box around the expert's gland, or at most this far beyond it along each axis."""


@dataclass(frozen=True)
class Reliability:
    """Sums over a patient's voxels, a number for each bin of probability, the lowest bin first."""

    voxels: tuple[int, ...]
    probability: tuple[float, ...]
    """The sum of the voxels' probabilities."""
    gland: tuple[int, ...]
    """The number of voxels that are gland in the expert's mask."""


@dataclass(frozen=True)
class CurvePoint:
    """A bin of a reliability curve over several patients, each of whom counts alike; shares are 0 to 1."""

    low: float
    """The bin's lower end; a voxel of exactly this probability is in the bin."""
    high: float
    patients: int
    """Patients with a voxel in the bin."""
    voxels: float
    """The share of a patient's voxels that are in the bin, mean over all patients."""
    probability: float
    """The mean probability of the voxels in the bin."""
    gland: float
    """The share of gland among the voxels in the bin."""


def reliability(
    probabilities: NDArray[np.float32], expert: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> Reliability | None:
    """Return a patient's sums by bin, over the voxels in and around the gland.

    Far from the gland a model is sure and right, and an image is mostly that: over the whole image every model seems
    calibrated. So the voxels are those of a box around the foreground, as in Mehrtash et al. (IEEE Transactions on
    Medical Imaging 39, 2020). The box is drawn around the expert's gland alone, with a margin, so that all models are
    judged by the same voxels. What a model draws outside counts in its volume Dice, volume error and slices without
    gland.

    Args:
        probabilities: of gland, (slices, rows, columns), on the native grid.
        expert: the expert's mask, of the same shape.
        spacing: millimetres from the centre of a voxel to the next: slice, row, column.

    Returns:
        The sums; None where the mask is empty.
    """
    if not expert.any():
        return None
    box = tuple(
        slice(max(0, inside.start - int(MARGIN_MM / step)), inside.stop + int(MARGIN_MM / step))
        for inside, step in zip(box_of(expert), spacing, strict=True)
    )
    # MONAI's `calibration_binning` adds in float32, where the mean of 300 000 voxels of 0.994 comes out as 0.997.
    found = np.clip(probabilities[box].astype(np.float64), 0, 1).ravel()
    bins = np.minimum((found * BINS).astype(np.intp), BINS - 1)
    return Reliability(
        voxels=tuple(np.bincount(bins, minlength=BINS).tolist()),
        probability=tuple(np.bincount(bins, weights=found, minlength=BINS).tolist()),
        gland=tuple(np.bincount(bins[expert[box].ravel()], minlength=BINS).tolist()),
    )


def calibration_error(found: Reliability) -> float:
    """Return a patient's expected calibration error, 0 (calibrated) to 1.

    The mean over the bins of the distance between mean probability and share of gland, each bin weighted by its voxels
    (Naeini et al., AAAI 2015; Guo et al., ICML 2017). The bins are of the probability of gland, as in Naeini et al.

    Args:
        found: the patient's sums.
    """
    gaps = (abs(probability - gland) for probability, gland in zip(found.probability, found.gland, strict=True))
    return sum(gaps) / sum(found.voxels)


def curve(patients: Sequence[Reliability], *, minimum_patients: int) -> tuple[CurvePoint, ...]:
    """Return the reliability curve over patients, the lowest bin first.

    Every patient counts alike, as in the mean of the patients' calibration errors. The curve's own error is at most
    this mean, for patients whose errors are opposite cancel in the curve.

    Args:
        patients: the sums of each patient.
        minimum_patients: bins in which fewer patients have a voxel are left out.
    """
    if not patients:
        return ()
    sums = np.array([(one.voxels, one.probability, one.gland) for one in patients])
    sums /= sums[:, :1].sum(axis=2, keepdims=True)
    voxels, probability, gland = sums.mean(axis=0)
    behind = np.count_nonzero(sums[:, 0], axis=0)
    return tuple(
        CurvePoint(
            low=number / BINS,
            high=(number + 1) / BINS,
            patients=int(behind[number]),
            voxels=float(voxels[number]),
            probability=float(probability[number] / voxels[number]),
            gland=float(gland[number] / voxels[number]),
        )
        for number in range(BINS)
        if behind[number] >= max(1, minimum_patients)
    )
