"""Whether a study's model helped a hospital, in the same words in the report's first paragraph and in the letter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.statistics.intervals import FEWEST
from common.text import count, points, signed

Verdict = Literal["helped", "hurt", "open"]


@dataclass(frozen=True)
class Gain:
    """How far the study's model lies above the hospital's own model, on the hospital's test patients."""

    mean: float
    """Points of the Dice that decides."""
    ends: tuple[float, float] | None
    """The ends of the 95 % interval; None where there is no interval."""
    patients: int
    """Test patients behind the mean."""
    volume: float | None = None
    """Points of volume Dice, where the slices' Dice decides."""


def judged(ends: tuple[float, float] | None) -> Verdict:
    """Return the verdict of a difference's interval: "open" where it holds zero, or where there is none."""
    if ends is None:
        return "open"
    return "helped" if ends[0] > 0 else "hurt" if ends[1] < 0 else "open"


def untold(site: str, what: str, why: str = "", *, but: str = "") -> str:
    """Return the sentence that nothing can be told of a site.

    Args:
        site: the site.
        what: what would be judged.
        why: the reason, or the figures; empty if there are none.
        but: what can be told all the same, such as "; it did not hurt by more than 1 point".
    """
    return f"At {site}, it cannot be told from this study whether {what} helped{but}{': ' + why if why else ''}."


def verdict_sentence(site: str, what: str, gain: Gain, score: str, margin: float) -> str:
    """Return the verdict on a site as a sentence, with the gain, its interval and the number of patients.

    An interval that holds zero and lies within the margin shows equivalence; one whose lower end alone does,
    non-inferiority (two one-sided tests: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987).

    Args:
        site: the site.
        what: what is judged, such as "handing on".
        gain: the gain over the site's own model.
        score: the name of the Dice that decides.
        margin: differences up to this many points are practically none.
    """
    ahead, patients = f"{signed(gain.mean)} points of {score}", count(gain.patients, "test patient")
    if gain.ends is None:
        reason = f"an interval needs {FEWEST}" if gain.patients < FEWEST else "their figures stay at the hospital"
        return untold(site, what, f"{ahead} ({patients}; {reason})")
    figures = f"{ahead} (95 % interval {signed(gain.ends[0])} to {signed(gain.ends[1])}; {patients})"
    found = judged(gain.ends)
    if found == "open" and gain.ends[0] >= -margin:
        if gain.ends[1] <= margin:
            return f"At {site}, {what} made practically no difference, at most {points(margin)}: {figures}."
        return untold(site, what, figures, but=f"; it did not hurt by more than {points(margin)}")
    if found == "open":
        return untold(site, what, figures)
    if found == "helped" and gain.volume is not None and gain.volume < 0:
        whole = f"{signed(gain.volume)} points of volume Dice"
        return f"At {site}, {what} helped on selected slices, but not on whole volumes: {figures}, {whole}."
    return f"At {site}, {what} {found}: {figures}."
