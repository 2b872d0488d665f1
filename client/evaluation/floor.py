"""The least that a model has to do on a site's validation patients before the site tells how well it does.

Weights can be made to draw the gland of one known patient and nothing else. A mean of exactly 0 then says that this
patient is not among those scored, and any other that the patient is. So unless more than half of the validation
patients are drawn to some degree, all figures leave as 0. Of three validation patients or more, one alone does not
decide that; of fewer, one may: weights that draw all but one known patient are below the floor only where this patient
validates.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low
from typing import Protocol

from client.site_config import SiteConfig


class HasVolumeDice(Protocol):
    """A patient's scores."""

    @property
    def dice_volume(self) -> float:
        """Volume Dice of the patient, 0 to 1."""


def is_below_floor(site: SiteConfig, validation: Sequence[HasVolumeDice]) -> bool:
    """Return whether a model's figures leave a site as 0.

    Args:
        site: the site, whose file sets the floor.
        validation: the model's scores on the site's validation patients, one a patient.
    """
    # The mean of the two middle values would let one of two patients lift the other.
    return bool(site.scoring_floor) and median_low([score.dice_volume for score in validation]) < site.scoring_floor
