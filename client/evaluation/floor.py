"""The least that a model has to do on a site's validation patients before the site tells how well it does.

Weights can be made to draw the gland of one known patient and nothing else. A mean of exactly 0 then says that this
patient is not among those scored, and any other that the patient is. The median of the validation patients is not
moved by one of them: unless half of them are drawn to some degree, all figures leave as 0, whoever is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
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
    return bool(site.scoring_floor) and median(score.dice_volume for score in validation) < site.scoring_floor
