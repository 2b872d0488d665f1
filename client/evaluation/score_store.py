"""The scores computed at a site, stored patient by patient. Stored scores never leave the site.

A reply holds means alone and is deleted once the coordinator has the reply. The comparison for the hospital at the end
of a study needs the scores of single patients. Scores are stored under the key of their stage, so that the scores of
any weights can be found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from client.evaluation.calibration import Reliability, calibration_error
from client.preprocessing import cache
from client.site_config import SiteConfig
from common.scores import OF_ZONES, SCORES, THIRDS, VOLUME_ERROR, Score

if TYPE_CHECKING:
    from client.evaluation.evaluate import CaseScore

FOLDER = "scores"


class PatientScore(BaseModel):
    """One patient's scores (`common.scores`), under the site's random number for the patient; overlaps are 0 to 1."""

    model_config = ConfigDict(frozen=True)
    number: int
    slices: int
    dice: float
    iou: float
    dice_volume: float
    hd95_mm: float | None = None
    """95 % Hausdorff distance; None where the prediction was empty, or distances were not measured."""
    assd_mm: float | None = None
    false_slices: int = 0
    """Slices without gland in which gland was drawn."""
    empty_slices: int = 0
    """Slices without gland."""
    volume_error_ml: float | None = None
    """Predicted minus expert volume; None where it was not measured."""
    dice_apex: float | None = None
    """Dice of the lowest third of the gland's slices, like `dice_middle` and `dice_base`; None where there is none."""
    dice_middle: float | None = None
    dice_base: float | None = None
    dice_pz: float | None = Field(default=None, exclude_if=lambda dice: dice is None)
    """Dice of the peripheral zone, like `dice_cg` of the central gland; None where it was not measured."""
    dice_cg: float | None = Field(default=None, exclude_if=lambda dice: dice is None)
    reliability: Reliability | None = None
    """The sums behind the calibration error; None in scores of an earlier version."""

    @property
    def calibration_error(self) -> float | None:
        """The expected calibration error, 0 to 1; None where it is not on record."""
        return None if self.reliability is None else calibration_error(self.reliability)

    def value(self, score: Score) -> float | None:
        """Return the patient's value of a score, a share or in millimetres; None where there is none."""
        value: float | None = getattr(self, score.key)
        return value

    def weight(self, score: Score) -> int:
        """Return how often the patient counts in the mean of a score."""
        return self.slices if score.over == "slices" else 1


class OwnScores(BaseModel):
    """The scores of a model on a split."""

    model_config = ConfigDict(frozen=True)
    dice: float
    """Mean over slices, as `iou`; all three as they were sent in the reply."""
    iou: float
    dice_volume: float
    """Mean over patients."""
    cleaned: bool
    """Whether the segmentations were cleaned up."""
    patients: tuple[PatientScore, ...]
    """Sorted by number."""

    def value(self, score: Score) -> float:
        """Return the mean of an overlap, as a share."""
        return float(getattr(self, score.key))


def keep(site: SiteConfig, key: str, scores: Sequence[CaseScore], numbers: Mapping[str, int], *, cleaned: bool) -> None:
    """Store scores under the key of their stage.

    Args:
        site: the site whose private folder holds the scores.
        key: the stage's key.
        scores: a score for each patient.
        numbers: the random number of each patient, by name.
        cleaned: whether the segmentations were cleaned up.

    Raises:
        RelayError: the file cannot be written.
    """
    from client.evaluation.evaluate import (
        slice_mean,  # imported here: reading stored scores needs no image libraries
        volume_mean,
    )

    dice, iou = slice_mean(scores)
    patients = [
        PatientScore(
            number=numbers[case.patient],
            slices=case.slices,
            false_slices=case.false_slices,
            empty_slices=case.empty_slices,
            reliability=case.reliability,
            **{one.key: getattr(case, one.key) for one in (*SCORES, VOLUME_ERROR, *THIRDS, *OF_ZONES)},
        )
        for case in scores
    ]
    own = OwnScores(
        dice=dice,
        iou=iou,
        dice_volume=volume_mean(scores),
        cleaned=cleaned,
        patients=tuple(sorted(patients, key=lambda patient: patient.number)),
    )
    # Durable, as is the reply that follows: a delivery is compared with all stored scores.
    cache.write_json(site.private() / FOLDER / f"{key}.json", own.model_dump(), durable=True)


def kept(site: SiteConfig, key: str) -> OwnScores | None:
    """Return the scores stored under a key; None where they are missing or unreadable."""
    try:
        return OwnScores.model_validate(cache.read_json(site.private() / FOLDER / f"{key}.json"))
    except ValueError:
        return None
