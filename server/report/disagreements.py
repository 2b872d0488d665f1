"""Sentences on contrasts whose interval and whose corrected p say different things."""

from __future__ import annotations

from common.statistics.paired import LEVEL
from common.text import count
from server.report.contrasts import Contrast, Family
from server.report.wording import probability


def disagreements(family: Family) -> list[str]:
    """Return a sentence for each contrast of which only the interval, or only the corrected p, shows a difference."""
    number = sum(not contrast.few_rounds for contrast in family.contrasts)
    return [sentence for contrast in family.contrasts if (sentence := _sentence(contrast, number))]


def _sentence(contrast: Contrast, number: int) -> str:
    """Return why interval and corrected p differ, and which of them stands; empty where they agree.

    Args:
        contrast: a contrast.
        number: the number of contrasts for which p is corrected.
    """
    ends, p, corrected = contrast.together.ci95, contrast.p, contrast.corrected
    if ends is None or p is None or corrected is None:
        return ""
    apart = ends[0] > 0 or ends[1] < 0
    if apart == (corrected <= LEVEL):
        return ""
    where = f"wholly {'above' if ends[0] > 0 else 'below'} zero"
    if not apart:
        return (
            f"Against {contrast.opponent} the interval holds zero, and yet the corrected p is {probability(corrected)}:"
            " the interval allows for patients far from the others, while the test supposes that methods alike differ"
            " as often and as far in either direction. The more careful of the two stands: no difference is shown."
        )
    if p <= LEVEL:
        return (
            f"Against {contrast.opponent} the interval lies {where}, and yet the corrected p is"
            f" {probability(corrected)}: the interval is that of a single comparison, and p was {probability(p)} before"
            f" its correction for {count(number, 'comparison')}. Among so many no difference is shown."
        )
    return (
        f"Against {contrast.opponent} the interval lies {where}, and yet p is {probability(p)} before any correction:"
        " the interval follows the spread of these patients, while the test only asks how many patterns of signs give"
        " as large a mean. The more careful of the two stands: no difference is shown."
    )
