"""The scores of a segmentation, each declared once.

Messages, the ledger, results.json, a hospital's own records and its model card declare a field for each score, under
the score's key; a test compares their fields with this table. Sites and the ledger keep overlaps as shares (0 to 1),
results and model cards show overlaps in per cent; distances are in millimetres everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Score:
    """A score of a model on a set of patients."""

    key: str
    """The name of the score's field."""
    title: str
    """The score's name in tables and texts."""
    unit: Literal["%", "mm"]
    """The unit in which the score is shown."""
    digits: int
    """Decimal places in a table."""
    over: Literal["slices", "patients"]
    """The items that the score averages: all selected slices, or all patients for whom the score has a value."""

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value, in `unit`."""
        return (0.0, 100.0) if self.unit == "%" else (0.0, math.inf)

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

OVERLAPS = (DICE, IOU, DICE_VOLUME)
"""Scores measured on every split."""
DISTANCES = (HD95, ASSD)
"""Scores measured on test patients only."""
SCORES = (*OVERLAPS, *DISTANCES)
"""All scores, in the order of every table."""
VALIDATED = OVERLAPS
"""Scores that are measured on validation patients as well."""


def deciding(slices: str) -> Score:
    """Return the score by which a study selects models and compares methods.

    Args:
        slices: the study's `training.slices`.
    """
    return DICE if slices == "chosen" else DICE_VOLUME
