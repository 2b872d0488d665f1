"""How a stage at a site may end besides with its answer."""

from __future__ import annotations

import math


class Parked(Exception):
    """A stage that cannot be finished now, with the reason in plain words."""


class Absent(Parked):
    """The site is away, or takes no part any more."""

    def __init__(self, reason: str, seconds: float = math.inf) -> None:
        super().__init__(reason)
        self.seconds = seconds
        """For how long so far."""


class RefusedBySite(Parked):
    """The site answered that it cannot, when asked again as well."""


class RejectedWeights(Exception):
    """An answer that is refused, with the reason in plain words; the same stage may be asked for once more."""


class TrainingFailed(RejectedWeights):
    """The training itself failed. Where the same order gives the same training, a repeat can only end the same."""
