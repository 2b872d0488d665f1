"""Scores of a model on a site's patients, on their native grid and against the expert's mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.evaluation.calibration import Reliability, calibration_error, reliability
from client.evaluation.clean_up import clean_up
from client.evaluation.gland import dice_of_thirds, volume_error_ml
from client.evaluation.surface_distance import surface_distances
from client.preprocessing.pipeline import PatientSlices, Record, load, to_native
from client.preprocessing.resampling import larger_zone, resample, resample_mask
from client.training.batches import Standard, standardised
from common import metrics
from common.scores import OF_ZONES
from common.target import ZONES


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
    volume_error_ml: float | None = None
    """Predicted minus expert volume; None where it was not measured."""
    dice_apex: float | None = None
    """Dice of the lowest third of the gland's slices, like `dice_middle` and `dice_base`; None for fewer than three
    slices."""
    dice_middle: float | None = None
    dice_base: float | None = None
    dice_pz: float | None = None
    """Dice over all voxels of the peripheral zone, like `dice_cg` of the central gland; None where the study is of the
    gland, or the patient's zones are not drawn."""
    dice_cg: float | None = None
    reliability: Reliability | None = None
    """The sums behind the calibration error; None where they were not measured."""

    @property
    def calibration_error(self) -> float | None:
        """The expected calibration error, 0 to 1; None where it was not measured."""
        return None if self.reliability is None else calibration_error(self.reliability)

    @property
    def absolute_volume_error_ml(self) -> float | None:
        """The volume error without its sign."""
        return None if self.volume_error_ml is None else abs(self.volume_error_ml)


@dataclass(frozen=True)
class Example:
    """A selected slice with its segmentation. Examples never leave the site."""

    patient: str
    number: int
    """The slice's index in the volume, counted from 0 at the feet."""
    image: NDArray[np.float32]
    """(pixels, pixels), on the study's grid, bias field corrected, not standardised."""
    expert: NDArray[np.bool_] | NDArray[np.uint8]
    """The expert's mask; of zones, their labels."""
    predicted: NDArray[np.bool_] | NDArray[np.uint8]
    """The segmentation that was scored, in the same form, taken to the same grid as the expert's mask is."""
    dice: float
    """The slice's Dice on the native grid, as in the scores."""


Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Takes standardised slices (n, pixels, pixels) and returns probabilities: of gland, in the same shape, or of each
zone, (n, zones, pixels, pixels)."""
Probabilities = Callable[[Record, PatientSlices], NDArray[np.float32]]
"""Takes a patient and returns the same on the study's grid."""


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A patient with a model's segmentation."""

    record: Record
    slices: PatientSlices
    mask: NDArray[np.bool_]
    """(slices, rows, columns), on the native grid."""
    reliability: Reliability | None
    """Of the probabilities that the mask was cut from; a clean-up of the mask does not change them."""
    larger: NDArray[np.uint8] | None = None
    """The more probable zone at every voxel, within the gland or not (`common.target.Zone.label`); None without zones.
    """


def standardised_first(predict: Predict, standard: Callable[[Record], Standard]) -> Probabilities:
    """Return a model's probabilities for patients whose slices are standardised.

    Args:
        predict: the model.
        standard: returns by what a patient's image is standardised.
    """

    def probabilities(record: Record, slices: PatientSlices) -> NDArray[np.float32]:
        return predict(standardised(slices.image, standard(record)))

    return probabilities


def evaluate(
    probabilities: Probabilities,
    records: Sequence[Record],
    *,
    cleaned: bool = False,
    surfaces: bool = False,
    keep: Callable[[Example], None] | None = None,
) -> list[CaseScore]:
    """Score a model on patients.

    Predictions are resampled to the native grid and thresholded at 0.5 there, before a comparison with the masks. Of
    zones, a voxel is gland where their probabilities together are above 0.5, and belongs to the more probable zone.

    Args:
        probabilities: the model.
        records: the patients, from `client.preprocessing.pipeline.prepare`.
        cleaned: whether segmentations are cleaned up (`client.evaluation.clean_up`).
        surfaces: whether distances between surfaces are measured as well.
        keep: is called with every selected slice, for the site's own page.

    Returns:
        One score for each patient, in the order of `records`.

    Raises:
        ValueError: `probabilities` returns another shape.
    """
    scores = []
    for drawn in _drawn(probabilities, records):
        scores.append(_scored(drawn, clean_up(drawn.mask) if cleaned else drawn.mask, surfaces=surfaces, keep=keep))
    return scores


def evaluate_both(probabilities: Probabilities, records: Sequence[Record]) -> tuple[list[CaseScore], list[CaseScore]]:
    """Score a model on patients without and with a clean-up, of the same predictions.

    Args:
        probabilities: the model.
        records: the patients.
    """
    plain, cleaned = [], []
    for drawn in _drawn(probabilities, records):
        plain.append(_scored(drawn, drawn.mask))
        cleaned.append(_scored(drawn, clean_up(drawn.mask)))
    return plain, cleaned


def _drawn(probabilities: Probabilities, records: Sequence[Record]) -> Iterator[_Drawn]:
    """Yield each patient with the model's segmentation."""
    for record in records:
        slices = load(record)
        found = probabilities(record, slices)
        zoned = found.ndim == slices.image.ndim + 1
        if (found[:, 0] if zoned else found).shape != slices.image.shape:
            raise ValueError(f"predictions of shape {found.shape} for slices of {slices.image.shape}")
        parts = [to_native(found[:, k], slices) for k in range(found.shape[1])] if zoned else []
        native = np.sum(parts, axis=0) if zoned else to_native(found, slices)
        calibration = reliability(native, slices.native_mask, slices.native_spacing)
        yield _Drawn(record, slices, native > 0.5, calibration, larger_zone(parts) if zoned else None)


def _scored(
    drawn: _Drawn,
    predicted: NDArray[np.bool_],
    *,
    surfaces: bool = False,
    keep: Callable[[Example], None] | None = None,
) -> CaseScore:
    """Return the scores of a patient's segmentation.

    Args:
        drawn: the patient.
        predicted: the segmentation to score, (slices, rows, columns).
        surfaces: see `evaluate`.
        keep: see `evaluate`.
    """
    slices = drawn.slices
    expert = slices.native_mask
    selected, empty = np.flatnonzero(slices.selected), ~expert.any(axis=(1, 2))
    dice = [metrics.dice(predicted[k], expert[k]) for k in selected]
    distances = surface_distances(predicted, expert, slices.native_spacing) if surfaces else None
    hd95, assd = distances or (None, None)
    apex, middle, base = dice_of_thirds(predicted, expert)
    zones: dict[str, float] = {}
    if drawn.larger is not None and slices.native_zones is not None:
        found = drawn.larger * predicted
        pairs = zip(OF_ZONES, ZONES.zones, strict=True)
        zones = {s.key: metrics.dice(found == z.label, slices.native_zones == z.label) for s, z in pairs}
    if keep is not None:
        experts, shown = _shown(drawn, predicted)
        for k, value in zip(selected, dice, strict=True):
            keep(
                Example(
                    patient=drawn.record.patient,
                    number=int(k),
                    image=slices.image[k],
                    expert=experts[k],
                    predicted=shown[k],
                    dice=value,
                )
            )
    return CaseScore(
        patient=drawn.record.patient,
        slices=len(selected),
        dice=float(np.mean(dice)),
        iou=float(np.mean([metrics.iou(predicted[k], expert[k]) for k in selected])),
        dice_volume=metrics.dice(predicted, expert),
        false_slices=int(predicted[empty].any(axis=(1, 2)).sum()),
        empty_slices=int(empty.sum()),
        hd95_mm=hd95,
        assd_mm=assd,
        volume_error_ml=volume_error_ml(predicted, expert, slices.native_spacing),
        dice_apex=apex,
        dice_middle=middle,
        dice_base=base,
        **zones,
        reliability=drawn.reliability,
    )


def _shown(
    drawn: _Drawn, predicted: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_] | NDArray[np.uint8], NDArray[np.bool_] | NDArray[np.uint8]]:
    """Return the expert's mask and a segmentation on the study's grid, for pictures; with zones' labels where known."""
    slices = drawn.slices
    plane, side = slices.native_spacing[1:], (slices.image.shape[1], slices.image.shape[2])
    grid = (slices.spacing_mm, slices.spacing_mm)
    shown = resample_mask(predicted, plane, side, grid)
    if drawn.larger is None or slices.zones is None:
        return slices.mask, shown
    shares = [resample((drawn.larger == zone.label).astype(np.float32), plane, side, grid) for zone in ZONES.zones]
    return slices.zones, larger_zone(shares) * shown


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
