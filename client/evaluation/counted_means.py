"""The means of those scores that only some test patients have, as they leave a site."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.evaluation.evaluate import CaseScore
from common.scores import COUNTED


def counted_means(scores: Sequence[CaseScore], *, minimum_patients: int) -> dict[str, float | int]:
    """Return the scores that only some patients have, each a mean over the patients who have a value.

    Args:
        scores: the scores of the test patients.
        minimum_patients: the smallest number of patients behind a number that may leave the site. Scores of fewer
            patients are omitted, so that the rest of the reply may leave.

    Returns:
        Means and numbers of patients under their fields in a reply (`common.scores.COUNTED`).
    """
    found: dict[str, float | int] = {}
    for count, measured in COUNTED.items():
        known = [values for case in scores if None not in (values := [getattr(case, one.key) for one in measured])]
        if known and len(known) >= minimum_patients:
            means = np.mean(known, axis=0).tolist()
            found |= {one.key: mean for one, mean in zip(measured, means, strict=True)} | {count: len(known)}
    return found
