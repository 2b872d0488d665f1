"""The ways in which a stage at a site can end other than with its result."""

from __future__ import annotations

import math


class Parked(Exception):
    """A stage cannot be finished now; the text gives the reason for readers."""


class Absent(Parked):
    """The site is away, or no longer takes part in the study."""

    def __init__(self, reason: str, seconds: float = math.inf) -> None:
        """Make the outcome.

        Args:
            reason: the reason for readers.
            seconds: how long the site has been away; infinite for a site no longer in the study.
        """
        super().__init__(reason)
        self.seconds = seconds
        """How long the site has been away so far."""


class RefusedBySite(Parked):
    """The site refused the order, also in every repetition of the order."""


class UnfitStart(RefusedBySite):
    """The site refused the weights that it was given; whoever made them is at fault, and not the site."""


class RejectedWeights(Exception):
    """The coordinator rejects a result; the text gives the reason, and the stage may be ordered once more."""


class TrainingFailed(RejectedWeights):
    """The training itself failed; on a device with exactly repeatable results, a repeat would fail in the same way."""
