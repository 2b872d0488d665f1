"""The scores of a segmentation, each declared once.

Messages, the ledger, results.json, a hospital's own records and its model card declare a field for each score, under
the score's key; a test compares their fields with this table. Sites and the ledger keep overlaps as shares (0 to 1),
results and model cards show overlaps in per cent; distances are in millimetres and volumes in millilitres everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from common.target import Target


@dataclass(frozen=True)
class Score:
    """A score of a model on a set of patients."""

    key: str
    """The name of the score's field."""
    title: str
    """The score's name in tables and texts."""
    unit: Literal["%", "mm", "ml"]
    """The unit in which the score is shown."""
    digits: int
    """Decimal places in a table."""
    over: Literal["slices", "patients"]
    """The items that the score averages: all selected slices, or all patients for whom the score has a value."""
    signed: bool = False
    """Whether a value may be negative."""

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value, in `unit`."""
        if self.unit == "%":
            return 0.0, 100.0
        return -math.inf if self.signed else 0.0, math.inf

    def shown(self, value: float) -> float:
        """Return a measured value in the unit in which the score is shown: shares become per cent."""
        return 100 * value if self.unit == "%" else value


DICE = Score("dice", "Dice", "%", digits=1, over="slices")
"""Dice of each selected slice (the slices selected by the expert's mask)."""
IOU = Score("iou", "IoU", "%", digits=1, over="slices")
"""Intersection over union of each selected slice."""
DICE_VOLUME = Score("dice_volume", "volume Dice", "%", digits=1, over="patients")
"""Dice over all voxels of a patient, slices without gland included."""
HD95 = Score("hd95_mm", "HD95", "mm", digits=1, over="patients")
"""95 % Hausdorff distance of the surfaces; a patient with an empty prediction has none."""
ASSD = Score("assd_mm", "ASSD", "mm", digits=2, over="patients")
"""Average symmetric surface distance; a patient with an empty prediction has none."""
VOLUME_ERROR = Score("volume_error_ml", "volume error", "ml", digits=1, over="patients", signed=True)
"""Predicted minus expert volume of a patient; errors of opposite sign cancel in the mean, which shows whether a model
draws too much or too little."""
ABSOLUTE_VOLUME_ERROR = Score("absolute_volume_error_ml", "absolute volume error", "ml", digits=1, over="patients")
"""The volume error without its sign; the mean shows how far the volume of a single patient is off."""
DICE_APEX = Score("dice_apex", "Dice of the apex", "%", digits=1, over="patients")
"""Dice over all voxels of the lowest third of the slices from the first to the last slice with gland; a gland of fewer
than three slices has no thirds."""
DICE_MIDDLE = Score("dice_middle", "Dice of the middle", "%", digits=1, over="patients")
"""Dice of the middle third."""
DICE_BASE = Score("dice_base", "Dice of the base", "%", digits=1, over="patients")
"""Dice of the highest third."""
DICE_PZ = Score("dice_pz", "Dice of the peripheral zone", "%", digits=1, over="patients")
"""Dice over all voxels of the peripheral zone; a patient of whom the whole gland alone is drawn has none."""
DICE_CG = Score("dice_cg", "Dice of the central gland", "%", digits=1, over="patients")
"""Dice over all voxels of the central gland, of the same patients."""
CALIBRATION_ERROR = Score("calibration_error", "calibration error", "%", digits=1, over="patients")
"""Expected calibration error of a patient: how far the probability of gland is from the share of gland, in the mean
over the voxels in and around the gland (`client.evaluation.calibration`)."""

OVERLAPS = (DICE, IOU, DICE_VOLUME)
"""Scores measured on every split."""
DISTANCES = (HD95, ASSD)
"""Scores measured on test patients only."""
SCORES = (*OVERLAPS, *DISTANCES)
"""The scores of every table, in the tables' order."""
VOLUME_ERRORS = (VOLUME_ERROR, ABSOLUTE_VOLUME_ERROR)
THIRDS = (DICE_APEX, DICE_MIDDLE, DICE_BASE)
GLAND = (*VOLUME_ERRORS, *THIRDS)
"""Scores measured on test patients only, which stand in a section of their own."""
OF_ZONES = (DICE_PZ, DICE_CG)
"""Scores of studies whose target are the zones, measured on test patients only, in the order of `common.target.ZONES`.
Replies and results of other studies lack their fields."""
ZONES_PATIENTS = "zones_patients"
CALIBRATION = (CALIBRATION_ERROR,)
"""Scores of the probabilities, measured on test patients only."""
COUNTED = {
    "surface_patients": DISTANCES,
    "volume_patients": VOLUME_ERRORS,
    "thirds_patients": THIRDS,
    ZONES_PATIENTS: OF_ZONES,
    "calibration_patients": CALIBRATION,
}
"""The scores measured on test patients only, by the field that counts the patients behind them; 0 where they were not
measured."""
VALIDATED = OVERLAPS
"""Scores that are measured on validation patients as well."""


def unmeasured(target: Target) -> dict[str, float | int]:
    """Return the fields that replies of a target have and others lack, with their values where nothing was measured."""
    return {**{score.key: 0.0 for score in OF_ZONES}, ZONES_PATIENTS: 0} if target.zones else {}


LOW = 0.7
"""Patients below this volume Dice are listed: on the site's own page, and in the report where the site permits."""


def deciding(slices: str) -> Score:
    """Return the score by which a study selects models and compares methods.

    Args:
        slices: the study's `training.slices`.
    """
    return DICE if slices == "chosen" else DICE_VOLUME
