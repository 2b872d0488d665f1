"""The gains that a paired comparison can show: the power of the paired t-test, by the noncentral t distribution."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import nct, t

from common.statistics.paired import LEVEL

POWER = 0.8
"""The share of studies that should show a true gain."""


def power(gain: float, *, patients: int, sd: float) -> float:
    """Return the share of studies whose two-sided paired t-test shows a true gain at `LEVEL`.

    Exact for normally distributed differences: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988,
    ch. 2.

    Args:
        gain: the true mean of the patients' differences, in Dice points.
        patients: the number of test patients, at least two.
        sd: the standard deviation of the patients' differences, in Dice points.
    """
    beyond = t.ppf(1 - LEVEL / 2, patients - 1)
    centre = gain * math.sqrt(patients) / sd
    other = float(nct.cdf(-beyond, patients - 1, centre))  # scipy has no number for some tails below 1e-16
    return float(nct.sf(beyond, patients - 1, centre)) + (0.0 if math.isnan(other) else other)


def smallest_gain(patients: int, sd: float) -> float | None:
    """Return the smallest true gain that is shown with `POWER`, in Dice points; None for fewer than two patients."""
    if patients < 2:
        return None
    most = sd
    while power(most, patients=patients, sd=sd) < POWER:
        most *= 2
    return float(brentq(lambda gain: power(gain, patients=patients, sd=sd) - POWER, 0.0, most))


def patients_for(gain: float, sd: float) -> int:
    """Return the fewest test patients with whom a true gain, in Dice points above 0, is shown with `POWER`."""
    most = 2
    while power(gain, patients=most, sd=sd) < POWER:
        most *= 2
    fewest = max(2, most // 2)
    while fewest < most:  # power grows with the patients
        middle = (fewest + most) // 2
        if power(gain, patients=middle, sd=sd) < POWER:
            fewest = middle + 1
        else:
            most = middle
    return fewest
