"""The means of those scores that only some test patients have, as they leave a site."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from client.evaluation.evaluate import CaseScore
from common.scores import COUNTED


def counted_means(scores: Sequence[CaseScore], may_leave: Callable[[frozenset[str]], bool]) -> dict[str, float | int]:
    """Return the scores that only some patients have, each a mean over the patients who have a value.

    Args:
        scores: the scores of the test patients.
        may_leave: whether numbers of a set of patients may leave the site. Scores of other sets are omitted, so that
            the rest of the reply may leave.

    Returns:
        Means and numbers of patients under their fields in a reply (`common.scores.COUNTED`).
    """
    found: dict[str, float | int] = {}
    for count, measured in COUNTED.items():
        by_patient = {case.patient: [getattr(case, one.key) for one in measured] for case in scores}
        known = {patient: values for patient, values in by_patient.items() if None not in values}
        if known and may_leave(frozenset(known)):
            means = np.mean(list(known.values()), axis=0).tolist()
            found |= {one.key: mean for one, mean in zip(measured, means, strict=True)} | {count: len(known)}
    return found
