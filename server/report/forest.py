"""The forest plot: positions of each difference between the selected route and an opponent, and of its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from server.report.contrasts import Effect, Family
from server.report.wording import signed

TOP, FOOT = 34.0, 40.0
FIRST, NEXT, GAP = 20.0, 15.0, 14.0
"""Heights of an opponent's first line and of the line of a site; the gap before the next opponent."""
LEFT, PLOT, VALUES = 190.0, 420.0, 180.0
WIDTH = LEFT + PLOT + VALUES
SMALLEST, WIDEST = 3.0, 20.0
"""The least and the most Dice points of the axis to each side."""


@dataclass(frozen=True)
class Bar:
    """A difference with its interval."""

    y: float
    label: str
    site: str
    """The site; empty for all sites together."""
    x: float
    """The position of the difference."""
    whisker: tuple[float, float] | None
    """The positions of the interval's ends."""
    beyond: str
    """Where the difference lies beyond the axis, its side, "left" or "right"; else empty."""
    text: str


@dataclass(frozen=True)
class Group:
    """The bars of an opponent."""

    opponent: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Forest:
    """The whole plot."""

    height: float
    zero: float
    """The position of no difference."""
    groups: tuple[Group, ...]
    ticks: tuple[tuple[float, str], ...]
    """Position and label of each tick."""


def forest(family: Family) -> Forest | None:
    """Return all contrasts on a common axis, the hospitals' beneath the overall contrast; None without contrasts."""
    if not family.contrasts:
        return None
    effects = [effect for c in family.contrasts for effect in (c.together, *(effect for _, effect in c.at))]
    ends = [abs(end) for effect in effects for end in (*(effect.ci95 or ()), effect.difference or 0.0)]
    reach = min(WIDEST, max(SMALLEST, math.ceil(max(ends))))

    def x(value: float) -> float:
        return round(LEFT + (min(max(value, -reach), reach) + reach) / (2 * reach) * PLOT, 1)

    def bar(effect: Effect, y: float, label: str, site: str) -> Bar:
        gap = effect.difference or 0.0
        text = signed(gap)
        if effect.ci95:
            text += f"  [{signed(effect.ci95[0])}, {signed(effect.ci95[1])}]"
        return Bar(
            y=y,
            label=label,
            site=site,
            x=x(gap),
            whisker=(x(effect.ci95[0]), x(effect.ci95[1])) if effect.ci95 else None,
            beyond="right" if gap > reach else "left" if gap < -reach else "",
            text=text,
        )

    groups, y = [], TOP
    for contrast in family.contrasts:
        bars = [bar(contrast.together, y + FIRST / 2, contrast.opponent, "")]
        y += FIRST
        # A single site's difference is the difference of all sites together.
        for target, effect in contrast.at if len(contrast.at) > 1 else ():
            bars.append(bar(effect, y + NEXT / 2, target, target))
            y += NEXT
        groups.append(Group(contrast.opponent, tuple(bars)))
        y += GAP
    step = next(size for size in (1, 2, 5, 10) if reach / size <= 5)
    marks = range(-int(reach // step) * step, int(reach) + 1, step)
    return Forest(y - GAP + FOOT, x(0.0), tuple(groups), tuple((x(v), signed(v, 0) if v else "0") for v in marks))
